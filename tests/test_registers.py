"""Registers, fields and descriptors against the published page: a number that moves here is another contract."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hwgen import descriptors, draw, registers
from hwgen.config import BuildConfig
from hwgen.contract import CONTRACT_VERSION, contract_hash
from hwgen.descriptors import DESCRIPTOR_BYTES, Buffers, Descriptor, Fetch, Flag, Opcode, field_bits, pack_program
from hwgen.flat_registers import flat_registers
from hwgen.registers import Control, PassFlag, Register, Status, register, register_map

CONFIG = BuildConfig(name="demo")
PAGE = (Path(__file__).parents[1] / "docs" / "reference.md").read_text()

#: Rows of the page: offset, last offset, name, count, access, text; register, field, last and first bit, text.
REGISTERS = re.findall(r"^\| 0x(\w+)(?: \.\. 0x(\w+))? \| `(\w+)(?:\[(\d+)\])?` \| ([\w-]+) \| (.*) \|$", PAGE, re.M)
FIELDS = re.findall(r"^\| \| `(\w+)\.(\w+)` \| bits (?:(\d+):)?(\d+) \| (.*) \|$", PAGE, re.M)


def test_registers_are_those_of_the_page() -> None:
    assert len(REGISTERS) == 48
    found = {r.name: r for r in register_map(CONFIG)}
    assert list(found) == [row[2] for row in REGISTERS]
    for first, last, name, count, access, text in REGISTERS:
        r = found[name]
        end = r.offset + (r.count - 1) * r.step
        assert (r.offset, end, r.count) == (int(first, 16), int(last or first, 16), int(count or 1)), name
        assert ({"ro": "read-only", "rw": "read-write", "wo": "write-only"}[r.access], r.description) == (access, text), name


def test_fields_are_those_of_the_page() -> None:
    found = [(r.name, f.name, f.first, f.first + f.width - 1, f.description) for r in register_map(CONFIG) for f in r.fields]
    expected = [(name, field, int(first), int(last or first), text) for name, field, last, first, text in FIELDS]
    assert len(expected) == 20 and sorted(found) == sorted(expected)
    # what the page says of an answer of the memory: the code of AXI, the direction, the port, the operator
    fields = (registers.ERROR_RESPONSE, registers.ERROR_WRITE, registers.ERROR_PORT, registers.ERROR_OPERATOR)
    assert [f.extract(0x1234_5607) for f in fields] == [3, 1, 0x56, 0x1234] and [f.put(1) for f in fields] == [1, 4, 256, 65536]


def test_numbers_of_the_page() -> None:
    version, written = re.findall(r"^Contract version (\d+), hash `(\w+)`", PAGE, re.M)[0]
    assert (CONTRACT_VERSION, f"{contract_hash(CONFIG):016x}") == (int(version), written)
    window = re.findall(r"a window of (0x\w+) bytes", PAGE)[0]
    assert (int(window, 16), int.from_bytes(b"hwgn", "little")) == (registers.WINDOW_BYTES, registers.MAGIC)
    assert (registers.STOP_TOKENS, registers.CHOSEN_TOKENS, registers.TRACE_WORDS, registers.NUMBER_BITS) == (8, 512, 4, 24)
    assert [int(flag) for flag in (*Control, *Status, *(f for f in PassFlag if f))] == [1, 2, 4, 1, 2, 4, 8, 1, 2]


def test_descriptors_are_those_of_the_page() -> None:
    rows = re.findall(r"^\| (\d+):(\d+) \| `(\w+)` \|", PAGE, re.M)
    assert {name: (int(low), int(high) - int(low) + 1) for high, low, name in rows} == field_bits()
    for members in (Opcode, Fetch, Flag, Buffers):
        part = PAGE.split(f"### {members.__name__}\n")[1].split("###")[0]
        listed = {name: int(value) for value, name in re.findall(r"^\| (\d+) \| `(\w+)` \|", part, re.M)}
        assert listed == {m.name: int(m) for m in members if m or members not in (Flag, Buffers)}
    assert [int(f) for f in descriptors.Format if f] == [1, 2, 4, 8, 16, 32, 64, 128]
    empty = Descriptor()
    assert {getattr(empty, name) for name in field_bits() if name != "check"} == {0}
    packed = pack_program([Descriptor(opcode=Opcode.NORM), Descriptor(opcode=Opcode.HEAD)])
    assert len(packed) == (2 + 8) * DESCRIPTOR_BYTES == 640, "eight END close a program"


def test_elements_of_arrays_one_by_one() -> None:
    flat = {r.name: r for r in flat_registers(CONFIG)}
    assert [flat[f"TOKEN_{i}"].offset for i in range(8)] == [0x1000 + 4 * i for i in range(8)] and "TOKEN_8" not in flat
    assert (flat["CONTROL"].offset, flat["CONTROL"].access) == (0x10, "write-only") and "CONTROL_0" not in flat
    assert (flat["COUNT_PORT_BUSY_1"].offset, flat["COUNT_PORT_BUSY_1"].access) == (0x468, "read-only")
    assert flat["RUNS"].access == "read-write" and len(flat) == sum(r.count for r in register_map(CONFIG))


def test_a_field_takes_what_fits() -> None:
    count, scale = registers.DRAW_COUNT, registers.DRAW_SCALE
    assert (count.first, count.width, scale.first, scale.width) == (26, 6, 0, 26)
    assert count.put(0) == 0 and count.put(63) == 0xFC00_0000 and count.extract(0xFC00_0001) == 63 and scale.extract(1 << 26) == 0
    for wrong in (-1, 64):
        with pytest.raises(ValueError, match="COUNT must have at most 6 bits"):
            count.put(wrong)
    assert registers.draw_words(draw.Draw(3, 5, 7)) == (3 << 26 | 5, 7)


def test_windows_end_where_the_next_begins() -> None:
    """As many entries as there is room for, and not one more."""
    rows = [Register("A", 0, "ro", ""), Register("B", 8, "rw", "", count=(0x20000 - 8) // 4)]
    registers._check_windows(rows)
    for wrong in ([Register("A", 0, "ro", "", count=3), rows[1]], [rows[0], Register("B", 8, "rw", "", count=0x7FFF)]):
        with pytest.raises(ValueError, match="must have at most (2|32766) entries, not (3|32767)"):
            registers._check_windows(wrong)
    with pytest.raises(KeyError):
        register(CONFIG, "NOTHING")
