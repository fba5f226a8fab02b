"""The hand-off ``.hwh`` of a block design, as PYNQ reads it before any vendor tool has run.

It carries what host software looks up: cores with VLNV, registers and fields, addresses, interrupts, clocks and port widths of
the processing system. AXI is listed by interface, without its single signals. Vivado writes a hand-off of its own beside the
bitstream; that one is in force on a board.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from xml.etree import ElementTree as ET

from ...boards import Board
from ...config import BuildConfig
from ...errors import HwgenError
from ...fabric_clocks import PLL_MHZ, clock_parameters
from ...flat_registers import flat_registers
from ...registers import WINDOW_BYTES
from ...vlnv import NAME
from .block_design import DESIGN, Cell, Design, describe_design
from .catalogue import CATALOGUE, Definition, Interface, Pin
from .core import Core, accelerator_core
from .ipxact import BLOCK

__all__ = ["handoff_xml", "hwh_text"]

#: Version that is listed for AMD's cores; the one in force is known to Vivado alone.
_VERSION = "1.0"

_MODCLASS = {"axi_intc": "INTERRUPT_CNTLR", "zynq_ultra_ps_e": "PROCESSOR", "processing_system7": "PROCESSOR"}
_SIGIS = {"clk": "clk", "rst": "rst", "intr": "INTERRUPT", "": "undef"}


def core_definition(core: Core) -> Definition:
    """Pins and interfaces of the accelerator in the terms of the catalogue."""
    kinds = {"clock": "clk", "reset": "rst", "interrupt": "intr"}
    pins = [
        Pin(p.name, p.output, p.width, kinds[b.kind]) for b in core.buses if b.kind in kinds for p in b.ports.values()
    ]
    interfaces = [
        Interface(b.name, "aximm", b.master, b.parameters["PROTOCOL"], int(b.parameters["DATA_WIDTH"]))
        for b in core.buses
        if b.kind == "aximm"
    ]
    return Definition(tuple(interfaces), tuple(pins))


def divisors(processor: str, mhz: float) -> tuple[int, int, float]:
    """Both divisors of a fabric clock and the frequency that they give."""
    ratio = max(1, round(PLL_MHZ[processor] / mhz))
    first = max(d for d in range(1, 64) if ratio % d == 0)
    return first, ratio // first, PLL_MHZ[processor] / ratio


def fabric_clock(processor: str, mhz: float) -> dict[str, str]:
    """Parameters of fabric clock 0 at ``mhz``, as near as its divisors come; the others are off."""
    first, second, actual = divisors(processor, mhz)
    name = "PSU__CRL_APB__PL0_REF_CTRL__ACT_FREQMHZ" if processor == "zynq_ultra_ps_e" else "PCW_ACT_FPGA0_PERIPHERAL_FREQMHZ"
    return clock_parameters(processor, [(first, second), *[(1, 1)] * 3]) | {name: f"{actual:g}"}


def width_parameters(settings: dict[str, str]) -> dict[str, str]:
    """Port widths of Zynq UltraScale+ under the names that PYNQ sets the hardware by."""
    return {
        f"C_{name.removeprefix('PSU__').replace('__', '_')}": value
        for name, value in settings.items()
        if name.endswith("__DATA_WIDTH")
    }


def split_part(part: str) -> tuple[str, str, str]:
    """Device, package and speed grade of a part number: xczu7ev-ffvc1156-2-e, xc7z020clg400-1."""
    found = re.fullmatch(r"(xc7z\d+|[a-z0-9]+)-?([a-z]+\d+)(-.*)", part)
    if found is None:
        raise HwgenError("configuration", f"{part} is not a part number", "correct the part in board.json")
    return found[1], found[2], found[3]


def add_parameters(parent: ET.Element, parameters: dict[str, str]) -> None:
    group = ET.SubElement(parent, "PARAMETERS")
    for name, value in parameters.items():
        ET.SubElement(group, "PARAMETER", NAME=name, VALUE=value)


def add_properties(parent: ET.Element, **properties: str) -> None:
    for name, value in properties.items():
        ET.SubElement(parent, "PROPERTY", NAME=name, VALUE=value)


def add_registers(parent: ET.Element, config: BuildConfig) -> None:
    block = ET.SubElement(
        ET.SubElement(parent, "ADDRESSBLOCKS"),
        "ADDRESSBLOCK",
        ACCESS="read-write", INTERFACE="s_axi", NAME=BLOCK, RANGE=str(WINDOW_BYTES), USAGE="register",
    )
    registers = ET.SubElement(block, "REGISTERS")
    for r in flat_registers(config):
        element = ET.SubElement(registers, "REGISTER", NAME=r.name)
        add_properties(element, DESCRIPTION=r.description, ADDRESS_OFFSET=f"0x{r.offset:X}", SIZE="32", ACCESS=r.access,
                       IS_ENABLED="true", RESET_VALUE="0x0")
        fields = ET.SubElement(element, "FIELDS")
        for f in r.fields:
            add_properties(
                ET.SubElement(fields, "FIELD", NAME=f.name),
                DESCRIPTION=f.description,
                ADDRESS_OFFSET="0",
                ACCESS=r.access,
                BIT_OFFSET=str(f.first),
                BIT_WIDTH=str(f.width),
            )


class _Writer:
    """The hand-off of one design."""

    def __init__(self, design: Design, config: BuildConfig, core: Core) -> None:
        self.design, self.config, self.core = design, config, core
        self.definitions = {
            c.name: core_definition(core) if c.name == NAME else CATALOGUE[c.core](c.settings) for c in design.cells
        }
        #: Name of the connection at an interface pin: that of its master.
        self.links = {pin: pair[0].replace("/", "_") for pair in design.interfaces for pin in pair}
        self.nets = {pin: [driver, *sinks] for driver, sinks in design.nets for pin in (driver, *sinks)}

    def _add_pins(self, parent: ET.Element, cell: Cell) -> None:
        ports = ET.SubElement(parent, "PORTS")
        for p in self.definitions[cell.name].pins:
            path = f"{cell.name}/{p.name}"
            net = self.nets.get(path, [])
            attributes = {"DIR": "O" if p.output else "I", "NAME": p.name, "SIGIS": _SIGIS[p.kind]}
            if net:
                attributes["SIGNAME"] = net[0].replace("/", "_")
            element = ET.SubElement(ports, "PORT", attributes)
            others = [pin for pin in net if pin != path] if net and net[0] == path else net[:1]
            if others:
                group = ET.SubElement(element, "CONNECTIONS")
                for other in others:
                    instance, _, name = other.partition("/")
                    ET.SubElement(group, "CONNECTION", INSTANCE=instance, PORT=name)

    def _add_interfaces(self, parent: ET.Element, cell: Cell) -> None:
        group = ET.SubElement(parent, "BUSINTERFACES")
        for i in self.definitions[cell.name].interfaces:
            if i.kind != "aximm":
                continue
            element = ET.SubElement(
                group,
                "BUSINTERFACE",
                BUSNAME=self.links.get(f"{cell.name}/{i.name}", "__NOC__"),
                DATAWIDTH=str(i.width or self.config.port_bits),
                NAME=i.name,
                TYPE="MASTER" if i.master else "SLAVE",
                VLNV="xilinx.com:interface:aximm:1.0",
            )
            add_parameters(element, {"PROTOCOL": i.protocol} if i.protocol else {})

    def _slave_of(self, segment: str) -> str:
        """Interface of a segment, by name."""
        cell, block, name = segment.split("/")
        if cell == NAME:
            return block
        for i in self.definitions[cell].interfaces:
            if i.address_block == block and any(s.name == name for s in i.segments):
                return i.name
        raise KeyError(segment)

    def _memory_ranges(self, cell: Cell) -> Iterable[dict[str, str]]:
        for a in self.design.addresses:
            owner, _, space = a.space.partition("/")
            if owner == cell.name:
                target, _, _ = a.segment.partition("/")
                spaces = self.definitions[owner].interfaces
                master = next((i.name for i in spaces if i.master and i.kind == "aximm" and i.space == space), space)
                yield {
                    "ADDRESSBLOCK": a.segment.rpartition("/")[2],
                    "BASENAME": "C_BASEADDR",
                    "BASEVALUE": f"0x{a.base:08X}",
                    "HIGHNAME": "C_HIGHADDR",
                    "HIGHVALUE": f"0x{a.base + a.bytes - 1:08X}",
                    "INSTANCE": target,
                    "IS_DATA": "TRUE",
                    "IS_INSTRUCTION": "FALSE",
                    "MASTERBUSINTERFACE": master,
                    "MEMTYPE": "MEMORY" if a.fixed else "REGISTER",
                    "SLAVEBUSINTERFACE": self._slave_of(a.segment),
                }

    def _add_module(self, parent: ET.Element, cell: Cell) -> None:
        vlnv = cell.vlnv if cell.name == NAME else f"{cell.vlnv}:{_VERSION}"
        module = ET.SubElement(
            parent,
            "MODULE",
            FULLNAME=f"/{cell.name}",
            HWVERSION=vlnv.rpartition(":")[2],
            INSTANCE=cell.name,
            IPTYPE="PROCESSOR" if cell.core == self.design.processor else "PERIPHERAL",
            IS_ENABLE="1",
            IS_PL="FALSE" if cell.core == self.design.processor else "TRUE",  # pynqmetadata 0.1 knows the processor by it
            MODCLASS=_MODCLASS.get(cell.core, "PERIPHERAL"),
            MODTYPE=cell.core,
            VLNV=vlnv,
        )
        if cell.name == NAME:
            add_registers(module, self.config)
        parameters = dict(cell.settings)
        if cell.core == self.design.processor:
            parameters |= fabric_clock(cell.core, self.config.clock_mhz) | width_parameters(cell.settings)
        for a in self.design.addresses:
            if a.segment.startswith(f"{cell.name}/") and not a.fixed:
                parameters |= {"C_BASEADDR": f"0x{a.base:08X}", "C_HIGHADDR": f"0x{a.base + a.bytes - 1:08X}"}
        add_parameters(module, parameters)
        self._add_pins(module, cell)
        self._add_interfaces(module, cell)
        ranges = list(self._memory_ranges(cell))
        if ranges:
            group = ET.SubElement(module, "MEMORYMAP")
            for attributes in ranges:
                ET.SubElement(group, "MEMRANGE", attributes)

    def root(self) -> ET.Element:
        root = ET.Element("EDKSYSTEM", EDWVERSION="1.2")
        family = "zynq" if self.design.processor == "processing_system7" else "zynquplus"
        device, package, grade = split_part(self.design.part)
        ET.SubElement(root, "SYSTEMINFO", ARCH=family, BOARD=self.design.board_part, DEVICE=device, NAME=DESIGN,
                      PACKAGE=package, SPEEDGRADE=grade)
        ET.SubElement(root, "EXTERNALPORTS")
        ET.SubElement(root, "EXTERNALINTERFACES")
        modules = ET.SubElement(root, "MODULES")
        for cell in self.design.cells:
            self._add_module(modules, cell)
        return root


def handoff_xml(design: Design, config: BuildConfig, core: Core) -> str:
    root = _Writer(design, config, core).root()
    ET.indent(root)
    text = ET.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8" standalone="no" ?>\n{text}\n'


def hwh_text(board: Board) -> str:
    """Hand-off of a board's block design."""
    return handoff_xml(describe_design(board), board.config, accelerator_core(board.config))
