"""A virtual board, and its hardware hand-off and simulated bitstream: what PYNQ reads to know what is in an overlay."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from ...boards import Board
from ...fabric_clocks import PLL_MHZ, clock_parameters
from ...files import write_whole
from ...flat_registers import FlatRegister, flat_registers
from ...memory_ports import MEMORY_PORTS
from ...registers import WINDOW_BYTES
from ...vlnv import NAME, VLNV

if TYPE_CHECKING:
    from ...sim.board.board import VirtualBoard

__all__ = ["hwh_text", "virtual_board", "write_overlay"]

_AXI = "xilinx.com:interface:aximm:1.0"


def _property(parent: ElementTree.Element, name: str, value: object) -> None:
    ElementTree.SubElement(parent, "PROPERTY", NAME=name, VALUE=str(value))


def _register(parent: ElementTree.Element, row: FlatRegister) -> None:
    node = ElementTree.SubElement(parent, "REGISTER", NAME=row.name)
    _property(node, "DESCRIPTION", row.description)
    _property(node, "ADDRESS_OFFSET", f"0x{row.offset:x}")
    _property(node, "SIZE", 32)
    _property(node, "ACCESS", row.access)
    _property(node, "IS_ENABLED", "true")
    fields = ElementTree.SubElement(node, "FIELDS")
    for item in row.fields:
        field = ElementTree.SubElement(fields, "FIELD", NAME=item.name)
        _property(field, "DESCRIPTION", item.description)
        _property(field, "BIT_OFFSET", item.first)
        _property(field, "BIT_WIDTH", item.width)
        _property(field, "ACCESS", row.access)


def _slave(modules: ElementTree.Element, name: str, vlnv: str, interface: str) -> ElementTree.Element:
    module = ElementTree.SubElement(
        modules, "MODULE", FULLNAME=f"/{name}", INSTANCE=name, MODTYPE=vlnv.split(":")[2], VLNV=vlnv, IS_PL="TRUE"
    )
    buses = ElementTree.SubElement(module, "BUSINTERFACES")
    ElementTree.SubElement(buses, "BUSINTERFACE", NAME=interface, TYPE="SLAVE", VLNV=_AXI)
    return module


def _clock_parameters(family: str, clock_mhz: float) -> dict[str, str]:
    """PL clock 0 on, the others off, as the processing system states them."""
    divisors = max(1, round(PLL_MHZ[family] / clock_mhz)), 1
    # PYNQ looks for the frequency under this name on every family
    return clock_parameters(family, [divisors] * 4) | {"PSU__CRL_APB__PL0_REF_CTRL__ACT_FREQMHZ": str(clock_mhz)}


def _port_parameters(family: str, board: Board) -> dict[str, str]:
    """The memory ports that are used, as the processing system states them: those of the board, else the first of its family."""
    names = board.platform.memory_ports if board.platform else tuple(port.name for port in MEMORY_PORTS[family])
    values: dict[str, str] = {}
    for port in MEMORY_PORTS[family]:
        used = port.name in names[: board.config.ports] and board.config.port_bits in port.data_bits
        values |= {port.used: str(int(used))} | ({port.width: str(board.config.port_bits)} if used else {})
    return values


def hwh_text(board: Board, *, base_address: int, leds_address: int) -> str:
    """Hand-off of a virtual board: processing system, accelerator, and LEDs that PYNQ's self-test can switch."""
    seven = board.part.startswith("xc7")
    family, ps_port = ("processing_system7", "M_AXI_GP0") if seven else ("zynq_ultra_ps_e", "M_AXI_HPM0_FPD")
    ps_name = f"{family}_0"
    root = ElementTree.Element("EDKSYSTEM", VERSION="1.2")
    arch = "zynq" if seven else "zynquplus"
    ElementTree.SubElement(root, "SYSTEMINFO", ARCH=arch, NAME=f"{board.name}_simulated", PART=board.part)
    ElementTree.SubElement(root, "EXTERNALPORTS")
    modules = ElementTree.SubElement(root, "MODULES")

    ps = ElementTree.SubElement(
        modules, "MODULE", FULLNAME=f"/{ps_name}", INSTANCE=ps_name, MODTYPE=family, VLNV=f"xilinx.com:ip:{family}:3.5",
        IS_PL="FALSE",  # by which pynqmetadata 0.1 knows it
    )
    parameters = ElementTree.SubElement(ps, "PARAMETERS")
    values = _clock_parameters(family, board.config.clock_mhz) | _port_parameters(family, board)
    for name, value in values.items():
        ElementTree.SubElement(parameters, "PARAMETER", NAME=name, VALUE=value)
    buses = ElementTree.SubElement(ps, "BUSINTERFACES")
    ElementTree.SubElement(buses, "BUSINTERFACE", NAME=ps_port, TYPE="MASTER", VLNV=_AXI)
    ranges = ElementTree.SubElement(ps, "MEMORYMAP")

    accelerator = _slave(modules, NAME, VLNV, "s_axi")
    block = ElementTree.SubElement(
        ElementTree.SubElement(accelerator, "ADDRESSBLOCKS"),
        "ADDRESSBLOCK",
        ACCESS="read-write", INTERFACE="s_axi", NAME="registers", RANGE=str(WINDOW_BYTES), USAGE="register",
    )
    registers = ElementTree.SubElement(block, "REGISTERS")
    for row in flat_registers(board.config):
        _register(registers, row)
    _slave(modules, "axi_gpio_leds", "xilinx.com:ip:axi_gpio:2.0", "S_AXI")

    for name, interface, base, size in (
        (NAME, "s_axi", base_address, WINDOW_BYTES),
        ("axi_gpio_leds", "S_AXI", leds_address, 0x1_0000),
    ):
        ElementTree.SubElement(
            ranges, "MEMRANGE", ADDRESSBLOCK="registers" if name == NAME else "Reg", INSTANCE=name, MEMTYPE="REGISTER",
            BASEVALUE=f"0x{base:X}", HIGHVALUE=f"0x{base + size - 1:X}", MASTERBUSINTERFACE=ps_port, SLAVEBUSINTERFACE=interface,
        )
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def write_overlay(board: Board, directory: Path) -> Path:
    """Write ``<board>.hwh`` and the simulated ``<board>.bit`` for a virtual board; the path of the latter."""
    from ...sim.board.bitstream import make_bitstream
    from ...sim.board.board import ACCELERATOR_BASE, LEDS_BASE

    text = hwh_text(board, base_address=ACCELERATOR_BASE, leds_address=LEDS_BASE)
    bit = directory / f"{board.name}.bit"
    write_whole(bit.with_suffix(".hwh"), text)
    write_whole(bit, make_bitstream(board.config, text, board.part))
    return bit


def virtual_board(
    board: Board, memory_bytes: int, progress: Callable[[str], None] | None = None, **options: Any
) -> VirtualBoard:
    """A virtual board around the Verilated accelerator of ``board``; ``options`` go to :class:`VerilatorDevice`."""
    from ...sim.board.board import VirtualBoard
    from .verilator import VerilatorDevice

    device = VerilatorDevice(board.config, memory_bytes=memory_bytes, progress=progress, **options)
    arch = "armv7l" if board.part.startswith("xc7") else "aarch64"
    return VirtualBoard(device.accelerator, board.config, board=board.name, arch=arch)
