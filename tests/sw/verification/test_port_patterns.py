"""Patterns through the ports: of every shipped board on the golden model, and what was made of damaged bytes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from hwgen.boards import load_board
from hwgen.sw.verification.port_patterns import BLOCKS, find_fault

CONFIG = load_board("demo").config
ROWS = BLOCKS * CONFIG.kv_block


def pattern() -> npt.NDArray[np.int8]:
    return np.random.default_rng(3).integers(-128, 128, (ROWS, CONFIG.width), dtype=np.int8)


@pytest.mark.parametrize("board", ["demo", "kv260", "pynq-z2", "zcu104"])
def test_the_golden_machine_gives_the_bytes_back(board: str) -> None:
    pytest.importorskip("torch", reason="the golden model needs torch")
    from hwgen.sw.devices.golden import GoldenDevice
    from hwgen.sw.verification.port_patterns import PortPatterns

    config = load_board(board).config
    test = PortPatterns(GoldenDevice(config, memory_bytes=1 << 22))
    found = test.read_back(0, 0)
    assert np.array_equal(np.rint(found).astype(np.int8), test.pattern)
    assert find_fault(config, test.pattern, found, 0) is None


def test_one_byte() -> None:
    was = pattern()
    logits = was.astype(np.float32)
    assert find_fault(CONFIG, was, logits, 0) is None
    logits[3, 1] = np.float32(was[3, 1] ^ 0x21)
    fault = find_fault(CONFIG, was, logits, 1)
    # row 3 of a key beat of 2-byte parts: byte 7, behind a header of two beats
    assert fault is not None and (fault.port, fault.wrong, fault.lanes, fault.bits) == (1, 1, (7,), 0x21)
    assert fault.offset == CONFIG.header_beats * CONFIG.beat_bytes + 7
    assert (fault.written, fault.read) == (int(was[3, 1]) & 0xFF, (int(was[3, 1]) ^ 0x21) & 0xFF)
    assert str(fault).startswith("port 1: 1 of ") and "on byte lane 7, bits 0x21" in str(fault)


def test_a_scale_is_told_from_the_bytes_of_its_row() -> None:
    """bf16 of row 5 is 0x3f80, at bytes 10 and 11; with bit 0x20 of byte 11 the row is 2^-64 of what it was."""
    was = pattern()
    logits = was.astype(np.float32)
    logits[5] *= np.float32(2.0**-64)
    fault = find_fault(CONFIG, was, logits, 0)
    assert fault is not None and (fault.wrong, fault.lanes, fault.bits, fault.offset) == (1, (11,), 0x20, 11)


def test_nothing_arrives() -> None:
    logits = np.full((ROWS, CONFIG.width), np.nan, np.float32)
    fault = find_fault(CONFIG, pattern(), logits, 0)
    assert fault is not None and fault.wrong == ROWS * CONFIG.width and fault.lanes == tuple(range(16))
