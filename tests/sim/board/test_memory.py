from __future__ import annotations

import numpy as np
import pytest

from hwgen.rounding import ceil_div
from hwgen.sim.board.memory import LINE, CachedBuffer, ContiguousMemory, OutOfMemory


def test_first_fit_reuses_what_was_freed() -> None:
    memory = ContiguousMemory(0x1000_0000, 5 * 4096)
    a, b, c = (memory.allocate(size) for size in (1, 4097, 4096))
    assert (a, b, c) == (0x1000_0000, 0x1000_1000, 0x1000_3000)
    memory.free(b)
    memory.free(b)
    assert memory.free_bytes == 3 * 4096
    with pytest.raises(OutOfMemory, match="12288 contiguous bytes are not free, 12288 bytes are free in all"):
        memory.allocate(3 * 4096)  # enough, but in two pieces
    assert memory.allocate(8192) == b
    assert memory.allocate(0) == 0x1000_4000
    memory.free_all()
    assert memory.allocate(5 * 4096) == a


@pytest.mark.parametrize("seed", range(6))
def test_cache_against_a_naive_one(seed: int) -> None:
    """Random accesses of CPU and accelerator, on a cache that keeps one flag a byte's line in plain Python."""
    rng = np.random.default_rng(seed)
    size = 8 * LINE
    memory = rng.integers(0, 256, size, np.uint8)
    cached = CachedBuffer(memory)
    expected = memory.copy()
    lines: dict[int, bytearray] = {}
    dirty: set[int] = set()
    for _ in range(300):
        action = rng.integers(5)
        offset = int(rng.integers(size))
        length = int(rng.integers(size - offset + 1))
        touched = range(offset // LINE, ceil_div(offset + length, LINE)) if length else range(0)
        if action == 0:
            data = rng.integers(0, 256, length, np.uint8).tobytes()
            cached.write(offset, data)
            for i in touched:
                lines.setdefault(i, bytearray(expected[i * LINE : (i + 1) * LINE]))
                dirty.add(i)
            for i, value in enumerate(data, offset):
                lines[i // LINE][i % LINE] = value
        elif action == 1:
            for i in touched:
                lines.setdefault(i, bytearray(expected[i * LINE : (i + 1) * LINE]))
            assert cached.read(offset, length) == bytes(lines[i // LINE][i % LINE] for i in range(offset, offset + length))
        elif action == 2:
            cached.flush()
            for i in dirty:
                expected[i * LINE : (i + 1) * LINE] = lines[i]
            dirty.clear()
        elif action == 3:
            cached.invalidate()
            lines.clear()
            dirty.clear()
        else:  # the accelerator writes memory
            memory[offset : offset + length] += 1
            expected[offset : offset + length] += 1
        assert (memory == expected).all()


def test_forgotten_maintenance_shows() -> None:
    memory = np.zeros(4 * LINE, np.uint8)
    cached = CachedBuffer(memory)
    cached.write(10, b"abc")
    assert not memory.any()
    cached.flush()
    assert memory[10:13].tobytes() == b"abc"
    memory[11] = 0
    assert cached.read(10, 3) == b"abc"
    cached.invalidate()
    assert cached.read(10, 3) == b"a\0c"


def test_flush_leaves_lines_alone_that_were_not_written() -> None:
    memory = np.zeros(4 * LINE, np.uint8)
    cached = CachedBuffer(memory)
    assert cached.read(0, 4 * LINE) == bytes(4 * LINE)
    memory[2 * LINE] = 7  # an accelerator's result, in a line that the CPU has an old copy of
    cached.write(0, b"x")
    cached.flush()
    assert memory[2 * LINE] == 7 and memory[0] == ord("x")
