from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from hwgen.errors import HwgenError
from hwgen.sw.compiler import file_sections
from hwgen.sw.compiler.file_sections import SECTOR, FileConstants, FileRows, Section, read_section, sector_checksum

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


#: Six blocks of four sectors, and one of a sector and a few bytes.
CONSTANTS = np.random.default_rng(6).integers(0, 256, 25 * SECTOR + 24, dtype=np.uint8)


def constants_of(path: Path, data: npt.NDArray[np.uint8]) -> FileConstants:
    """``data`` behind 4096 other bytes, in blocks of four sectors."""
    path.write_bytes(bytes(4096) + data.tobytes() + bytes(4096))
    sums = [naive(data[first : first + 4 * SECTOR].tobytes()) for first in range(0, data.size, 4 * SECTOR)]
    return FileConstants(path, Section(4096, data.size, 4 * SECTOR, 1), np.array([7, *sums], "<u4"))


def read_in(constants: FileConstants, sizes: Sequence[int]) -> npt.NDArray[np.uint8]:
    """All bytes, in windows of these sizes and one of what is left."""
    out = np.zeros(constants.bytes, np.uint8)
    with constants.reading() as read:
        for window in np.split(out, np.cumsum(sizes)):
            read(window)
    return out


@pytest.mark.parametrize("sectors", [(), (4,), (1, 1, 1), (3, 2, 8), (5, 0, 1, 13)])
def test_constants_in_windows_that_end_within_blocks(tmp_path: Path, sectors: tuple[int, ...]) -> None:
    sizes = [SECTOR * count for count in sectors]
    np.testing.assert_array_equal(read_in(constants_of(tmp_path / "file", CONSTANTS), sizes), CONSTANTS)


@pytest.mark.parametrize("offset", [0, 2047, 2048, 9 * SECTOR, 25 * SECTOR + 23])
def test_the_block_with_a_wrong_byte_is_named(tmp_path: Path, offset: int) -> None:
    constants = constants_of(tmp_path / "file", CONSTANTS)
    with (tmp_path / "file").open("r+b") as file:
        file.seek(4096 + offset)
        file.write(bytes([CONSTANTS[offset] ^ 1]))
    block = 4096 + offset // 2048 * 2048
    with pytest.raises(HwgenError, match=f"is damaged: wrong checksum at byte {block:,}\\b"):
        read_in(constants, (SECTOR, 6 * SECTOR))


def test_the_system_is_told_what_comes_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every block once, in order, when it is at most so many bytes ahead; and that it should not guess."""
    told = list[tuple[int, int, int]]()
    monkeypatch.setattr(os, "posix_fadvise", lambda file, *what: told.append(what))
    monkeypatch.setattr(file_sections, "AHEAD", 4096)
    blocks = [(4096 + 2048 * n, 2048, os.POSIX_FADV_WILLNEED) for n in range(7)]
    with constants_of(tmp_path / "file", CONSTANTS).reading() as read:
        assert told == [(4096, CONSTANTS.size, os.POSIX_FADV_RANDOM)]
        for size, ahead in ((2047 + 1 - SECTOR, 3), (SECTOR, 3), (SECTOR, 4), (CONSTANTS.size - 2048 - SECTOR, 7)):
            read(np.empty(size, np.uint8))
            assert told[1:] == blocks[:ahead]


def test_reads_that_end_early_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = os.preadv
    monkeypatch.setattr(os, "preadv", lambda file, views, offset: read(file, [views[0][:100]], offset))
    np.testing.assert_array_equal(read_in(constants_of(tmp_path / "file", CONSTANTS), (SECTOR, 7 * SECTOR)), CONSTANTS)


@pytest.mark.parametrize("change", [-1, 0, 1])
def test_a_checksum_is_wrong_whichever_is_larger(tmp_path: Path, change: int) -> None:
    """Of a small section, of constants and of a row: the one of the file is 1 less or 1 more than that of the bytes."""
    path, data = tmp_path / "file", CONSTANTS[:4096]
    path.write_bytes(bytes(512) + data.tobytes())

    def small() -> None:
        with path.open("rb") as file:
            sums = np.array([5, zlib.crc32(data) + change], "<u4")
            assert read_section(path, file, Section(512, data.size, data.size, 1), sums) == data.tobytes()

    def constants() -> None:
        sums = np.array([5, *(naive(part.tobytes()) + change for part in (data[:2048], data[2048:]))], "<u4")
        np.testing.assert_array_equal(read_in(FileConstants(path, Section(512, data.size, 2048, 1), sums), ()), data)

    def row() -> None:
        sums = np.array([5, *(zlib.crc32(data[first : first + 64]) + change for first in range(0, 4096, 64))], "<u4")
        rows = FileRows(path, Section(512, data.size, 64, 1), sums).gather([63, 0, 9])
        np.testing.assert_array_equal(rows, data.view("<u2").reshape(64, 32)[[63, 0, 9]])

    for read in (small, constants, row):
        if not change:
            read()
            continue
        with pytest.raises(HwgenError, match="is damaged: wrong checksum at byte"):
            read()
