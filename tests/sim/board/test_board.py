"""The virtual board without PYNQ: bus, files, FPGA manager, time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hwgen.contract import contract_hash
from hwgen.registers import MAGIC, register
from hwgen.sim.board.bitstream import make_bitstream, parse_bitstream
from hwgen.sim.board.board import ACCELERATOR_BASE, FPGA_MANAGER, LEDS_BASE, BusError, VirtualBoard
from tests.virtual_board import CONFIG, new_board

HEADER_END = b"e"


def firmware(data: bytes) -> bytes:
    """What the FPGA manager gets: no header, the bytes of every word turned round."""
    offset = 2 + int.from_bytes(data[:2], "big") + 2
    while data[offset : offset + 1] != HEADER_END:
        offset += 3 + int.from_bytes(data[offset + 1 : offset + 3], "big")
    payload = data[offset + 5 :]
    assert len(payload) == int.from_bytes(data[offset + 1 : offset + 5], "big") and len(payload) % 4 == 0
    return b"".join(payload[i : i + 4][::-1] for i in range(0, len(payload), 4))


@pytest.fixture
def board() -> VirtualBoard:
    return new_board()


def test_bitstream_names_its_design() -> None:
    values = parse_bitstream(firmware(make_bitstream(CONFIG, "hand-off", "xck26")))
    assert values["contract_hash"] == f"{contract_hash(CONFIG):016x}" and values["configuration"] == CONFIG.name
    assert make_bitstream(CONFIG, "hand-off") == make_bitstream(CONFIG, "hand-off")
    assert make_bitstream(CONFIG, "another") != make_bitstream(CONFIG, "hand-off")
    with pytest.raises(ValueError, match="not a simulated bitstream"):
        parse_bitstream(b"\xff" * 64)


def test_fabric_answers_once_it_is_configured(board: VirtualBoard) -> None:
    with pytest.raises(BusError, match="0xa0000000: no bitstream is loaded"):
        board.read_word(ACCELERATOR_BASE)
    board.load_bitstream(firmware(make_bitstream(CONFIG, "")))
    assert board.read_word(ACCELERATOR_BASE) == MAGIC
    board.write_word(LEDS_BASE, 5)
    assert board.read_word(LEDS_BASE) == 5
    for address in (ACCELERATOR_BASE - 4, LEDS_BASE + 0x1_0000, 0):
        with pytest.raises(BusError, match="nothing answers"):
            board.read_word(address)


def test_memory_is_on_the_bus(board: VirtualBoard) -> None:
    base = board.contiguous.base
    board.write_word(base + 8, 0x0403_0201)
    assert board.memory(base + 8, 4).tobytes() == b"\1\2\3\4"
    assert board.read_word(base + 8) == 0x0403_0201
    with pytest.raises(BusError, match="no memory at"):
        board.memory(base + board.contiguous.size - 4, 8)


def test_fpga_manager(board: VirtualBoard) -> None:
    assert board.read_file(FPGA_MANAGER + "state") == b"unknown\n"
    with pytest.raises(FileNotFoundError, match=r"/lib/firmware/x\.bin"):
        board.write_file(FPGA_MANAGER + "firmware", b"x.bin")
    board.write_file("/lib/firmware/x.bin", firmware(make_bitstream(CONFIG, "")))
    assert not board.loaded
    board.write_file(FPGA_MANAGER + "firmware", b"x.bin\n")
    assert board.loaded and board.read_file(FPGA_MANAGER + "state") == b"operating\n"


def test_another_design_is_refused(board: VirtualBoard) -> None:
    other = replace(CONFIG, name="other", ring_beats=128)
    with pytest.raises(ValueError, match=r"simulates configuration 'system'.*the bitstream is of 'other'"):
        board.load_bitstream(firmware(make_bitstream(other, "")))
    assert not board.loaded


def test_files_are_the_boards_own(board: VirtualBoard) -> None:
    assert b"aarch64" in (board.read_file("/proc/version") or b"")
    assert board.read_file("/etc/passwd") is None and not board.file_exists("/etc/passwd")
    board.write_file("/tmp/a", b"b")
    assert board.file_exists("/tmp/a") and board.read_file("/tmp/a") == b"b"
    taken = board.contiguous.allocate(1 << 19)
    assert f"CmaFree: {board.contiguous.free_bytes >> 10} kB".encode() in (board.read_file("/proc/meminfo") or b"")
    board.contiguous.free(taken)


def test_time_stands_still_without_a_pass(board: VirtualBoard) -> None:
    board.load_bitstream(firmware(make_bitstream(CONFIG, "")))
    status = ACCELERATOR_BASE + register(CONFIG, "STATUS").offset
    before = board.accelerator.cycle
    for _ in range(20):
        assert board.read_word(status) == 0
    assert board.accelerator.cycle - before < 20 * 20  # register reads alone
