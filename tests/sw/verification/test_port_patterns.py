"""Patterns through the ports: of every shipped board on the golden model, and what was made of damaged bytes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from hwgen.boards import load_board
from hwgen.formats import widen_bf16
from hwgen.sw.verification.port_patterns import find_fault, pattern_of

CONFIG = load_board("demo").config


def damaged(offset: int | slice, mask: int) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.float32]]:
    """The pattern, and what comes of it where bits of some bytes are flipped."""
    pattern = pattern_of(CONFIG, 3)
    found = pattern.view(np.uint8).copy()
    found[offset] ^= np.uint8(mask)
    return pattern, widen_bf16(found.view(np.uint16))


@pytest.mark.parametrize(("board", "engine"), [("demo", ""), ("kv260", "int4"), ("pynq-z2", ""), ("zcu104", "")])
def test_the_golden_machine_gives_the_bytes_back(board: str, engine: str) -> None:
    pytest.importorskip("torch", reason="the golden model needs torch")
    from hwgen.sw.devices.golden import GoldenDevice
    from hwgen.sw.verification.port_patterns import PortPatterns

    chosen = load_board(board)
    config = (chosen.for_engine(engine) if engine else chosen).config
    test = PortPatterns(GoldenDevice(config, memory_bytes=1 << 22))
    found = test.read_back(0)
    assert np.array_equal(found.view(np.uint32), test.pattern.astype(np.uint32) << 16)
    assert find_fault(config, test.pattern, found, 0) is None


@pytest.mark.parametrize("board", ["demo", "kv260", "pynq-z2", "zcu104"])
def test_every_lane_sees_many_bytes(board: str) -> None:
    config = load_board(board).config
    lanes = pattern_of(config, 1).view(np.uint8).reshape(-1, config.port_bytes)
    assert all(len(np.unique(lane)) > 40 for lane in lanes.T)


def test_one_byte() -> None:
    pattern, found = damaged(39, 0x21)
    fault = find_fault(CONFIG, pattern, found, 1)
    assert fault is not None and (fault.port, fault.wrong, fault.lanes, fault.bits) == (1, 1, (7,), 0x21)
    was = int(pattern.view(np.uint8)[39])
    assert (fault.offset, fault.written, fault.read) == (39, was, was ^ 0x21)
    assert str(fault).startswith("port 1: 1 of ") and "on byte lane 7, bits 0x21" in str(fault)


@pytest.mark.parametrize("level", [0x00, 0xFF])
@pytest.mark.parametrize("lane", [4, 5])
def test_a_lane_that_is_stuck(lane: int, level: int) -> None:
    """Also where that makes numbers that the machine has not: it flushes small ones, and saturates large ones."""
    pattern = pattern_of(CONFIG, 3)
    found = pattern.view(np.uint8).copy()
    found[lane :: CONFIG.port_bytes] = level
    number = widen_bf16(found.view(np.uint16))
    exponent = number.view(np.uint32) >> 23 & 0xFF
    number = np.where(exponent < 2, np.float32(0), np.where(exponent == 255, np.float32(-3.4e38), number)).astype(np.float32)
    fault = find_fault(CONFIG, pattern, number, 0)
    assert fault is not None and fault.lanes == (lane,)


def test_nothing_arrives() -> None:
    pattern = pattern_of(CONFIG, 3)
    fault = find_fault(CONFIG, pattern, np.zeros(pattern.size, np.float32), 0)
    assert fault is not None and fault.lanes == tuple(range(CONFIG.port_bytes)) and fault.wrong > 0.9 * pattern.nbytes
