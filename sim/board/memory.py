"""Contiguous memory of the virtual board, and the CPU's cache in front of it."""

from __future__ import annotations

from bisect import insort

import numpy as np
import numpy.typing as npt

from ...rounding import ceil_div

__all__ = ["CachedBuffer", "ContiguousMemory", "OutOfMemory"]

Bytes = npt.NDArray[np.uint8]

#: Bytes of a cache line of the Cortex-A53.
LINE = 64


class OutOfMemory(Exception):
    """No free piece is large enough."""


class ContiguousMemory:
    """First-fit allocator of page-aligned physical memory, like Linux's CMA."""

    PAGE = 4096

    def __init__(self, base: int, size: int) -> None:
        self.base = base
        self.size = size
        #: ``(address, bytes)`` of what is taken, by address.
        self._taken: list[tuple[int, int]] = []

    @property
    def free_bytes(self) -> int:
        return self.size - sum(size for _, size in self._taken)

    def allocate(self, size: int) -> int:
        """Address of ``size`` bytes."""
        size = max(1, ceil_div(size, self.PAGE)) * self.PAGE
        address = self.base
        for start, taken in self._taken:
            if start - address >= size:
                break
            address = start + taken
        if address + size > self.base + self.size:
            raise OutOfMemory(f"{size} contiguous bytes are not free, {self.free_bytes} bytes are free in all")
        insort(self._taken, (address, size))
        return address

    def free(self, address: int) -> None:
        """Give a piece back; one that was given back already is left alone."""
        self._taken = [piece for piece in self._taken if piece[0] != address]

    def free_all(self) -> None:
        self._taken.clear()


class CachedBuffer:
    """Memory as a CPU sees it through its write-back cache.

    What is written reaches ``memory`` when it is flushed, and only the lines that were written; what ``memory`` gets from
    elsewhere is seen after :meth:`invalidate`. Host code that forgets either fails here as on the board.
    """

    def __init__(self, memory: Bytes) -> None:
        self.size = memory.size
        self._lines = memory[: memory.size // LINE * LINE].reshape(-1, LINE)
        if self._lines.size != memory.size:
            raise ValueError(f"size must be a multiple of {LINE}, not {memory.size!r}")
        self._cache = np.zeros(memory.size, np.uint8)
        self._valid = np.zeros(memory.size // LINE, bool)
        self._dirty = np.zeros(memory.size // LINE, bool)

    def _fetch(self, first: int, last: int) -> None:
        """Bring lines ``first`` to ``last - 1`` into the cache."""
        missing = np.flatnonzero(~self._valid[first:last]) + first
        self._cache.reshape(-1, LINE)[missing] = self._lines[missing]
        self._valid[missing] = True

    def write(self, offset: int, data: bytes) -> None:
        if not data:
            return
        first, last = offset // LINE, ceil_div(offset + len(data), LINE)
        self._fetch(first, first + 1)
        self._fetch(last - 1, last)
        self._cache[offset : offset + len(data)] = np.frombuffer(data, np.uint8)
        self._valid[first:last] = self._dirty[first:last] = True

    def read(self, offset: int, size: int) -> bytes:
        self._fetch(offset // LINE, ceil_div(offset + size, LINE))
        return self._cache[offset : offset + size].tobytes()

    def flush(self) -> None:
        """Write back every line that was written."""
        dirty = np.flatnonzero(self._dirty)
        self._lines[dirty] = self._cache.reshape(-1, LINE)[dirty]
        self._dirty[:] = False

    def invalidate(self) -> None:
        """Forget every line, written or not."""
        self._valid[:] = self._dirty[:] = False
