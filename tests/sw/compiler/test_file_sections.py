from __future__ import annotations

import zlib

import numpy as np
import pytest

from hwgen.sw.compiler.file_sections import SECTOR, sector_checksum

DATA = np.random.default_rng(5).integers(0, 256, 5 * SECTOR + 37, dtype=np.uint8)


def naive(data: bytes) -> int:
    """As the docstring says, word by word."""
    crc, whole = 0, len(data) // SECTOR * SECTOR
    for first in range(0, whole, SECTOR):
        words = [int.from_bytes(data[i : i + 8], "little") for i in range(first, first + SECTOR, 8)]
        crc = zlib.crc32((sum(words) % (1 << 64)).to_bytes(8, "little"), crc)
    return zlib.crc32(data[whole:], crc)


@pytest.mark.parametrize("size", [0, 1, 90, SECTOR - 1, SECTOR, SECTOR + 1, 4 * SECTOR, DATA.size])
def test_against_word_by_word(size: int) -> None:
    assert sector_checksum(DATA[:size]) == naive(DATA[:size].tobytes())


def test_in_pieces_of_whole_sectors() -> None:
    for cut in range(0, 6 * SECTOR, SECTOR):
        assert sector_checksum(DATA[cut:], sector_checksum(DATA[:cut])) == sector_checksum(DATA)


def test_what_it_finds() -> None:
    """Every wrong bit, a byte lane that is stuck, and sectors in another order."""
    right = sector_checksum(DATA)
    for bit in range(0, 8 * DATA.size, 7):
        wrong = DATA.copy()
        wrong[bit // 8] ^= 1 << bit % 8
        assert sector_checksum(wrong) != right
    for value in (0, 255):
        stuck = DATA.copy()
        stuck[3 : 2 * SECTOR : 16] = value
        assert sector_checksum(stuck) != right
    swapped = DATA.copy()
    swapped[:SECTOR], swapped[SECTOR : 2 * SECTOR] = DATA[SECTOR : 2 * SECTOR], DATA[:SECTOR]
    assert sector_checksum(swapped) != right
    shifted = np.roll(DATA[: 5 * SECTOR], 1)
    assert sector_checksum(shifted) != sector_checksum(DATA[: 5 * SECTOR])
