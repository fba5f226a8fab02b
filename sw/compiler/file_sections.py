"""Sections of an image file: read once, in windows, every block against its checksum."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import astuple, dataclass
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


#: Threads that read and check, and bytes that the system is told of before they are wanted.
WORKERS, AHEAD = 2, 1 << 24


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


class _Reading:
    """One reading of constants, from the first byte to the last. Two threads read and check blocks, so that one copies while the
    other waits for the disk or adds up; neither holds the interpreter meanwhile. The system is told what comes next, since it
    guesses badly where two threads take turns; what it has read stays in its cache for the next start.
    """

    def __init__(self, path: Path, file: int, section: Section, checksums: npt.NDArray[np.uint32], workers: Executor) -> None:
        self._path, self._file, self._section, self._checksums, self._workers = path, file, section, checksums, workers
        #: Bytes of the section that were read, those that the system was told of, and the checksum of a block that has begun.
        self._at = self._told = self._begun = 0
        os.posix_fadvise(file, section.offset, section.bytes, os.POSIX_FADV_RANDOM)

    def __call__(self, window: Bytes) -> None:
        parts: list[tuple[Bytes, int, int]] = []
        block, at = self._section.block, self._at
        while at < self._at + window.size:
            end = min(at // block * block + block, self._at + window.size)
            parts.append((window[at - self._at : end - self._at], at, 0 if parts else self._begun))
            at = end
        self._tell(at + AHEAD)
        for begun in self._workers.map(self._load, parts):
            self._begun = begun
        self._at = at

    def _tell(self, end: int) -> None:
        while self._told < min(end, self._section.bytes):
            os.posix_fadvise(self._file, self._section.offset + self._told, self._section.block, os.POSIX_FADV_WILLNEED)
            self._told += self._section.block

    def _load(self, job: tuple[Bytes, int, int]) -> int:
        """Read the part of a block that begins at a byte of the section: its array, that byte, and the checksum of the block before
        it. Returns the checksum of the block so far, 0 at its end.
        """
        part, at, before = job
        section, end = self._section, at + part.size
        self._read(part.data, section.offset + at)
        found = sector_checksum(part, before)
        if end % section.block and end != section.bytes:
            return found
        number = (end - 1) // section.block
        if found != self._checksums[section.first + number]:
            raise _damaged(self._path, section.offset + number * section.block)
        return 0

    def _read(self, view: memoryview, offset: int) -> None:
        while view:
            try:
                count = os.preadv(self._file, [view], offset)
            except OSError as error:
                raise HwgenError("model", f"{self._path} cannot be read: {error.strerror}", "check the disk") from error
            if not count:
                raise HwgenError("model", f"{self._path} was cut short while it was read", MISSING)
            view, offset = view[count:], offset + count


class FileConstants:
    """Constants in an image file."""

    def __init__(self, path: Path, section: Section, checksums: npt.NDArray[np.uint32]) -> None:
        self._path, self._section, self._checksums = path, section, checksums
        self.bytes = section.bytes

    @contextmanager
    def reading(self) -> Iterator[Reader]:
        with self._path.open("rb", buffering=0) as file, ThreadPoolExecutor(WORKERS) as workers:
            yield _Reading(self._path, file.fileno(), self._section, self._checksums, workers)


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
