"""A block design as Vivado would hold it: cells, nets and addresses, and the checks of ``validate_bd_design``."""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree as ET

from ....memory_ports import AxiWidths
from ..catalogue import CATALOGUE, Definition, Interface, Pin, SegmentOf
from ..ipxact import SPIRIT
from .tcl import CommandError

__all__ = ["BlockDesign", "read_component"]

_NS = {"s": SPIRIT}

#: Least range of an address segment.
_PAGE = 4096

#: Parameters that exist, by core.
_SETTINGS = {
    "zynq_ultra_ps_e": r"PSU__(USE__(M_AXI_GP[0-2]|S_AXI_GP[0-6]|IRQ[01]|FABRIC__RST)|[MS]AXIGP[0-6]__DATA_WIDTH"
    r"|FPGA_PL[0-3]_ENABLE|CRL_APB__PL[0-3]_REF_CTRL__FREQMHZ|NUM_FABRIC_RESETS)",
    "processing_system7": r"PCW_(USE_(M_AXI_GP[01]|S_AXI_HP[0-3]|FABRIC_INTERRUPT)|IRQ_F2P_INTR|EN_(CLK|RST)[0-3]_PORT"
    r"|FPGA[0-3]_PERIPHERAL_FREQMHZ|S_AXI_HP[0-3]_DATA_WIDTH)",
    "smartconnect": r"NUM_(SI|MI|CLKS)",
    "axi_intc": r"C_IRQ_CONNECTION|C_IRQ_IS_LEVEL",
    "proc_sys_reset": r"C_EXT_RST_WIDTH|C_AUX_RESET_HIGH",
}

#: What a new processing system, or the preset of a board, switches on.
_DEFAULTS = {
    "zynq_ultra_ps_e": {
        "PSU__USE__M_AXI_GP0": "1",
        "PSU__USE__M_AXI_GP1": "1",
        "PSU__USE__IRQ0": "1",
        "PSU__USE__FABRIC__RST": "1",
        "PSU__FPGA_PL0_ENABLE": "1",
    },
    "processing_system7": {"PCW_USE_M_AXI_GP0": "1", "PCW_EN_CLK0_PORT": "1", "PCW_EN_RST0_PORT": "1"},
}


def describe_widths(widths: AxiWidths) -> str:
    return f"{widths.id} bits of ID, {widths.address} of address and {widths.user} of AxUSER"


def text_of(element: ET.Element, path: str) -> str:
    found = element.find(path, _NS)
    return (found.text or "").strip() if found is not None else ""


def read_widths(bus: ET.Element, ports: dict[str, tuple[bool, int]], values: dict[str, str]) -> AxiWidths | None:
    """Widths of an AXI4 interface from its pins, which must be what its parameters say."""
    if values["PROTOCOL"] == "AXI4LITE":
        return None
    pins = {
        text_of(m, "s:logicalPort/s:name"): ports[text_of(m, "s:physicalPort/s:name")][1]
        for m in bus.iterfind("s:portMaps/s:portMap", _NS)
    }
    for channel in ("AR", "AW"):
        for pin, parameter in (("ID", "ID_WIDTH"), ("ADDR", "ADDR_WIDTH"), ("USER", f"{channel}USER_WIDTH")):
            width, said = pins.get(channel + pin, 0), int(values.get(parameter, "0"))
            if width != said:
                raise CommandError(f"{text_of(bus, 's:name')}: {channel}{pin} has {width} bits and {parameter} says {said}")
    return AxiWidths(pins["ARID"], pins["ARADDR"], pins.get("ARUSER", 0))


def read_component(path: Path) -> tuple[str, Definition, list[Path]]:
    """VLNV, definition and files of a ``component.xml``, as the catalogue of Vivado reads it."""
    root = ET.parse(path).getroot()
    vlnv = ":".join(text_of(root, f"s:{part}") for part in ("vendor", "library", "name", "version"))
    ports: dict[str, tuple[bool, int]] = {}
    for port in root.iterfind("s:model/s:ports/s:port", _NS):
        left = text_of(port, "s:wire/s:vector/s:left")
        ports[text_of(port, "s:name")] = (text_of(port, "s:wire/s:direction") == "out", int(left or 0) + 1)
    spaces = {
        text_of(s, "s:name"): int(text_of(s, "s:range"), 0).bit_length() - 1
        for s in root.iterfind("s:addressSpaces/s:addressSpace", _NS)
    }
    maps = {
        text_of(m, "s:name"): tuple(
            SegmentOf(text_of(b, "s:name"), int(text_of(b, "s:range"), 0)) for b in m.iterfind("s:addressBlock", _NS)
        )
        for m in root.iterfind("s:memoryMaps/s:memoryMap", _NS)
    }
    interfaces: list[Interface] = []
    pins: list[Pin] = []
    clocks: dict[str, str] = {}
    inside: set[str] = set()
    for bus in root.iterfind("s:busInterfaces/s:busInterface", _NS):
        name = text_of(bus, "s:name")
        reference = bus.find("s:busType", _NS)
        kind = reference.get(f"{{{SPIRIT}}}name") if reference is not None else ""
        physical = [text_of(m, "s:physicalPort/s:name") for m in bus.iterfind("s:portMaps/s:portMap", _NS)]
        for port_name in physical:
            if port_name not in ports:
                raise CommandError(f"{path.name}: interface {name} maps port {port_name}, which the model has not")
            if port_name in inside:
                raise CommandError(f"{path.name}: port {port_name} is mapped twice")
            inside.add(port_name)
        values = {
            text_of(p, "s:name"): text_of(p, "s:value") for p in bus.iterfind("s:parameters/s:parameter", _NS)
        }
        if kind == "aximm":
            master = bus.find("s:master/s:addressSpaceRef", _NS)
            slave = bus.find("s:slave/s:memoryMapRef", _NS)
            space = (master.get(f"{{{SPIRIT}}}addressSpaceRef") or "") if master is not None else ""
            block = (slave.get(f"{{{SPIRIT}}}memoryMapRef") or "") if slave is not None else ""
            interfaces.append(
                Interface(name, "aximm", master is not None, values["PROTOCOL"], int(values["DATA_WIDTH"]), "", block,
                          maps.get(block, ()), space, spaces.get(space, 0), read_widths(bus, ports, values))
            )
        else:
            output, width = ports[physical[0]]
            short = {"clock": "clk", "reset": "rst", "interrupt": "intr"}.get(kind or "", "")
            pins.append(Pin(physical[0], output, width, short, required=not output))
            if kind == "clock":
                clocks |= dict.fromkeys(values.get("ASSOCIATED_BUSIF", "").split(":"), physical[0])
    missing = [i.name for i in interfaces if i.name not in clocks]
    if missing:
        raise CommandError(f"{path.name}: interface {missing[0]} has no clock (ASSOCIATED_BUSIF)")
    pins += [Pin(name, out, width, required=not out) for name, (out, width) in ports.items() if name not in inside]
    clocked = tuple(Interface(**{**vars(i), "clock": clocks[i.name]}) for i in interfaces)
    files = [path.parent / text_of(f, "s:name") for f in root.iterfind("s:fileSets/s:fileSet/s:file", _NS)]
    return vlnv, Definition(clocked, tuple(pins)), list(dict.fromkeys(files))


@dataclass
class ModelCell:
    core: str
    fixed: Definition | None
    settings: dict[str, str]
    preset: bool = False

    @property
    def definition(self) -> Definition:
        return self.fixed or CATALOGUE[self.core](self.settings)


@dataclass(frozen=True)
class Assigned:
    segment: str
    base: int
    bytes: int


@dataclass
class BlockDesign:
    """Names are paths without the leading slash."""

    name: str
    cells: dict[str, ModelCell] = field(default_factory=dict)
    #: ``{interface pin: peer}``, both ways.
    links: dict[str, str] = field(default_factory=dict)
    #: ``{pin: number of its net}``.
    nets: dict[str, int] = field(default_factory=dict)
    external: set[str] = field(default_factory=set)
    assigned: dict[str, list[Assigned]] = field(default_factory=dict)
    excluded: dict[str, set[str]] = field(default_factory=dict)

    # ---- lookup ------------------------------------------------------------------------------------------------
    def cell(self, name: str) -> ModelCell:
        if name not in self.cells:
            raise CommandError(f"no cell {name}")
        return self.cells[name]

    def interface(self, path: str) -> Interface:
        cell, _, name = path.rpartition("/")
        for i in self.cell(cell).definition.interfaces:
            if i.name == name:
                return i
        raise CommandError(f"no interface pin {path}")

    def pin(self, path: str) -> Pin:
        cell, _, name = path.rpartition("/")
        for p in self.cell(cell).definition.pins:
            if p.name == name:
                return p
        raise CommandError(f"no pin {path}")

    def segments(self) -> dict[str, tuple[str, SegmentOf]]:
        """``{segment path: (interface pin, segment)}``."""
        return {
            f"{cell}/{i.address_block}/{s.name}": (f"{cell}/{i.name}", s)
            for cell, of in self.cells.items()
            for i in of.definition.interfaces
            for s in i.segments
        }

    def spaces(self) -> dict[str, list[str]]:
        """``{address space: its master interface pins}``."""
        found: dict[str, list[str]] = {}
        for cell, of in self.cells.items():
            for i in of.definition.interfaces:
                if i.space:
                    found.setdefault(f"{cell}/{i.space}", []).append(f"{cell}/{i.name}")
        return found

    def matching_segments(self, pattern: str) -> list[str]:
        return fnmatch.filter(self.segments(), pattern)

    # ---- changes -----------------------------------------------------------------------------------------------
    def add(self, name: str, core: str, fixed: Definition | None) -> None:
        if name in self.cells:
            raise CommandError(f"cell {name} exists already")
        if fixed is None and core not in CATALOGUE:
            raise CommandError(f"core {core} is not in the catalogue")
        self.cells[name] = ModelCell(core, fixed, dict(_DEFAULTS.get(core, {})))

    def configure(self, name: str, settings: dict[str, str]) -> None:
        cell = self.cell(name)
        for setting, value in settings.items():
            if not setting.startswith("CONFIG."):
                raise CommandError(f"cell {name} has no property {setting}")
            parameter = setting.removeprefix("CONFIG.")
            if not re.fullmatch(_SETTINGS.get(cell.core, "(?!)"), parameter):
                raise CommandError(f"core {cell.core} has no parameter {parameter}")
            cell.settings[parameter] = value

    def automate(self, name: str, rule: str, settings: dict[str, str]) -> None:
        cell = self.cell(name)
        if rule != f"xilinx.com:bd_rule:{cell.core}":
            raise CommandError(f"rule {rule} does not apply to {cell.core}")
        cell.preset = settings.get("apply_board_preset") == "1"
        cell.settings |= _DEFAULTS.get(cell.core, {})
        self.external |= {f"{name}/{i.strip()}" for i in settings.get("make_external", "").split(",") if i.strip()}

    def connect_interfaces(self, one: str, two: str) -> None:
        a, b = self.interface(one), self.interface(two)
        for path in (one, two):
            if path in self.links:
                raise CommandError(f"interface pin {path} is connected to {self.links[path]} already")
        if a.master == b.master:
            raise CommandError(f"{one} and {two} are both {'masters' if a.master else 'slaves'}")
        if a.protocol and b.protocol and a.protocol != b.protocol:
            raise CommandError(f"{one} speaks {a.protocol} and {two} {b.protocol}")
        if a.width and b.width and a.width != b.width:
            raise CommandError(f"{one} is {a.width} bits wide and {two} {b.width}")
        if a.widths and b.widths and a.widths != b.widths:
            raise CommandError(f"pins of {one} are {describe_widths(a.widths)}, those of {two} {describe_widths(b.widths)}")
        self.links |= {one: two, two: one}

    def connect_pins(self, pins: list[str]) -> None:
        widths = {self.pin(p).width for p in pins}
        if len(widths) > 1:
            raise CommandError(f"widths differ: {', '.join(pins)}")
        joined = {self.nets[p] for p in pins if p in self.nets}
        number = min(joined, default=max(self.nets.values(), default=0) + 1)
        members = [p for p, net in self.nets.items() if net in joined]
        self.nets |= dict.fromkeys([*members, *pins], number)

    def assign(self, space: str, segment: str, base: int | None, size: int | None) -> None:
        if space not in self.spaces():
            raise CommandError(f"no address space {space}")
        of = self.segments()[segment][1]
        if of.base is not None and base not in (None, of.base):
            raise CommandError(f"segment {segment} stands at {of.base:#x} and cannot be assigned at {base:#x}")
        start = of.base if base is None else base
        if start is None:
            raise CommandError(f"segment {segment} needs an offset")
        self.assigned.setdefault(space, []).append(Assigned(segment, start, of.bytes if size is None else size))

    def exclude(self, space: str, segment: str) -> None:
        self.excluded.setdefault(space, set()).add(segment)

    # ---- checks ------------------------------------------------------------------------------------------------
    def reached(self, master: str) -> list[str]:
        """Slave interface pins behind a master, through every SmartConnect."""
        peer = self.links.get(master)
        if peer is None:
            return []
        cell = peer.rpartition("/")[0]
        if self.cells[cell].core != "smartconnect":
            return [peer]
        return [
            slave
            for i in self.cells[cell].definition.interfaces
            if i.master
            for slave in self.reached(f"{cell}/{i.name}")
        ]

    def problems(self) -> list[str]:
        """Everything that is wrong, in one line each."""
        return [*self._open(), *self._clocks(), *self._addresses()]

    def _open(self) -> list[str]:
        found = []
        drivers: dict[int, list[str]] = {}
        for cell, of in self.cells.items():
            if of.core in _DEFAULTS and not of.preset:
                found.append(f"cell {cell} has no board preset")
            for i in of.definition.interfaces:
                path = f"{cell}/{i.name}"
                if path not in self.links and path not in self.external:
                    found.append(f"interface pin {path} is left open")
            for p in of.definition.pins:
                path = f"{cell}/{p.name}"
                if path in self.nets and p.output:
                    drivers.setdefault(self.nets[path], []).append(path)
                elif path not in self.nets and (p.required or p.kind == "intr"):
                    found.append(f"pin {path} is left open")
        for path, net in self.nets.items():
            if net not in drivers:
                found.append(f"pin {path} has no driver")
        found += [f"pins {' and '.join(d)} drive one net" for d in drivers.values() if len(d) > 1]
        for path in self.nets:
            cell, _, name = path.rpartition("/")
            if all(p.name != name for p in self.cells[cell].definition.pins):
                found.append(f"pin {path} is connected and does not exist any more")
        return found

    def _clocks(self) -> list[str]:
        found = []
        for path, peer in self.links.items():
            clocks = [f"{p.rpartition('/')[0]}/{self.interface(p).clock}" for p in (path, peer)]
            if path < peer and self.nets.get(clocks[0]) != self.nets.get(clocks[1]):
                found.append(f"{path} and {peer} have different clocks")
        return found

    def _addresses(self) -> list[str]:
        found = []
        segments, spaces = self.segments(), self.spaces()
        for space, masters in spaces.items():
            reached = {slave for master in masters for slave in self.reached(master)}
            bits = max(self.interface(master).address_bits for master in masters)
            assigned = sorted(self.assigned.get(space, []), key=lambda a: a.base)
            for a in assigned:
                where = f"segment {a.segment} in {space}"
                if segments[a.segment][0] not in reached:
                    found.append(f"{where} cannot be reached")
                if a.bytes < _PAGE or a.bytes & (a.bytes - 1):
                    found.append(f"{where} has a range of {a.bytes:#x}, which is not a power of two of at least {_PAGE}")
                elif a.base % a.bytes:
                    found.append(f"{where} is not aligned: {a.base:#x} with a range of {a.bytes:#x}")
                if a.bytes < segments[a.segment][1].bytes:
                    found.append(f"{where} has a range of {a.bytes:#x} and needs {segments[a.segment][1].bytes:#x}")
                if a.base + a.bytes > 1 << bits:
                    found.append(f"{where} ends beyond {bits} address bits")
            for low, high in zip(assigned, assigned[1:], strict=False):
                if low.base + low.bytes > high.base:
                    found.append(f"segments {low.segment} and {high.segment} overlap in {space}")
            known = {a.segment for a in assigned} | self.excluded.get(space, set())
            found += [
                f"segment {name} is not mapped into {space}"
                for name, (slave, _) in segments.items()
                if slave in reached and name not in known
            ]
        return found
