"""Sections of an image file: read once, in windows, every block against its checksum."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from io import RawIOBase
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from ...errors import HwgenError
from .constants import Reader
from .placement import Bytes

__all__ = ["MISSING", "FileConstants", "FileRows", "Section", "read_section", "sector_checksum"]

#: What to do about a file with wrong bytes.
MISSING = "copy the file again, or compile the model again: hwgen compile"


#: Bytes that are read at a time: they stay in the cache until they are checked.
PIECE = 1 << 18


@dataclass(frozen=True)
class Section:
    """Where a section lies in the file."""

    offset: int
    bytes: int
    #: Bytes that share a checksum, and the number of the first checksum.
    block: int
    first: int

    def to_list(self) -> list[int]:
        return list(astuple(self))


#: Bytes that are added up before the CRC: what a disk or a card reads or loses at once.
SECTOR = 512


def sector_checksum(data: Bytes, before: int = 0) -> int:
    """CRC-32 of the sums of sectors, each as 64-bit words modulo 2^64; a last sector that is not whole goes into the CRC as it is.
    ``before`` is that of whole sectors before.

    It takes a third of the time of a CRC of all bytes, and misses of what a CRC finds only faults within one sector that leave its
    sum: words in another order, or two bits of the same weight that changed both ways.
    """
    whole = data.size // SECTOR * SECTOR
    if whole:
        sums = np.add.reduce(data[:whole].view("<u8").reshape(-1, SECTOR // 8), axis=1)
        before = zlib.crc32(sums.data, before)
    return zlib.crc32(data[whole:].data, before) if whole < data.size else before


def _damaged(path: Path, offset: int) -> HwgenError:
    return HwgenError("model", f"{path} is damaged: wrong checksum at byte {offset:,}", MISSING)


def read_section(path: Path, file: BinaryIO, section: Section, checksums: npt.NDArray[np.uint32]) -> bytes:
    """A small section, one block or none."""
    file.seek(section.offset)
    data = file.read(section.bytes)
    if data and zlib.crc32(data) != checksums[section.first]:
        raise _damaged(path, section.offset)
    return data


class _BlockChecker:
    """Compares what follows one another in a section with the checksums of its blocks."""

    def __init__(self, path: Path, section: Section, checksums: npt.NDArray[np.uint32]) -> None:
        self._path, self._section, self._checksums = path, section, checksums
        self._at = self._sum = 0

    def check(self, data: Bytes) -> None:
        section = self._section
        while data.size:
            left = section.block - self._at % section.block
            part, data = data[:left], data[left:]
            self._sum = sector_checksum(part, self._sum)
            self._at += part.size
            if self._at % section.block == 0 or self._at == section.bytes:
                number = (self._at - 1) // section.block
                if self._sum != self._checksums[section.first + number]:
                    raise _damaged(self._path, section.offset + number * section.block)
                self._sum = 0


class FileConstants:
    """Constants in an image file. A piece is checked while it is in the cache, and the system reads ahead meanwhile. (A second
    thread for that made it slower, since both wait for the interpreter.)
    """

    def __init__(self, path: Path, section: Section, checksums: npt.NDArray[np.uint32]) -> None:
        self._path, self._section, self._checksums = path, section, checksums
        self.bytes = section.bytes

    @contextmanager
    def reading(self) -> Iterator[Reader]:
        checker = _BlockChecker(self._path, self._section, self._checksums)
        with self._path.open("rb", buffering=0) as file:
            file.seek(self._section.offset)
            os.posix_fadvise(file.fileno(), self._section.offset, self._section.bytes, os.POSIX_FADV_SEQUENTIAL)

            def read(window: Bytes) -> None:
                for first in range(0, window.size, PIECE):
                    piece = window[first : first + PIECE]
                    self._read(file, piece.data)
                    checker.check(piece)

            yield read

    def _read(self, file: RawIOBase, view: memoryview) -> None:
        while view:
            try:
                count = file.readinto(view)
            except OSError as error:
                raise HwgenError("model", f"{self._path} cannot be read: {error.strerror}", "check the disk") from error
            if not count:
                raise HwgenError("model", f"{self._path} was cut short while it was read", MISSING)
            view = view[count:]


class FileRows:
    """The embedding in an image file: rows are read when they are wanted, and checked every time."""

    def __init__(self, path: Path, section: Section, checksums: npt.NDArray[np.uint32]) -> None:
        self._path, self._section, self._checksums = path, section, checksums
        self._file = path.open("rb", buffering=0)

    def gather(self, tokens: Sequence[int]) -> npt.NDArray[np.uint16]:
        section = self._section
        out = np.empty((len(tokens), section.block), np.uint8)
        for row, token in zip(out, tokens, strict=True):
            offset = section.offset + token * section.block
            try:
                data = os.pread(self._file.fileno(), section.block, offset)
            except OSError as error:
                raise HwgenError("model", f"{self._path} cannot be read: {error.strerror}", "check the disk") from error
            if zlib.crc32(data) != self._checksums[section.first + token]:
                raise _damaged(self._path, offset)
            row[:] = np.frombuffer(data, np.uint8)
        return out.view(np.uint16)
