"""Where the bytes of a compiled model come from: packed when they are asked for, or an array; a file is in `image_file`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ..progress import Ticker
from .placement import Bytes, SegmentPlan

__all__ = ["ArrayConstants", "ArrayRows", "Constants", "EmbeddingRows", "LazyRows", "PackedConstants", "Reader"]

#: Fills the array it is given with the bytes that follow those it gave before.
Reader = Callable[[Bytes], None]


class Constants(Protocol):
    """What the machine reads and never writes, from the first byte to the last."""

    bytes: int

    @contextmanager
    def reading(self) -> Iterator[Reader]:
        """A reader from the first byte on; the block must read all of them. Bytes that are damaged raise
        :class:`HwgenError`, at the end of the block at the latest.
        """


class EmbeddingRows(Protocol):
    """The embedding of a model."""

    def gather(self, tokens: Sequence[int]) -> npt.NDArray[np.uint16]:
        """bf16 bits of the rows of ``tokens``, ``[tokens, hidden]``, contiguous."""


class ArrayConstants:
    """Constants in memory, ``uint8 [bytes]``."""

    def __init__(self, data: Bytes) -> None:
        self.data = data
        self.bytes = data.size

    @contextmanager
    def reading(self) -> Iterator[Reader]:
        at = 0

        def read(window: Bytes) -> None:
            nonlocal at
            window[:] = self.data[at : at + window.size]
            at += window.size

        yield read


class PackedConstants:
    """Constants that are packed, segment by segment, while they are read."""

    def __init__(self, memory: SegmentPlan, progress: Callable[[str], None]) -> None:
        self._memory, self._progress = memory, progress
        self.bytes = memory.end

    def _segments(self) -> Iterator[Bytes]:
        """Segments and the gaps between them, in order."""
        at, ticker = 0, Ticker(self._progress)
        for name, segment in self._memory.segments.items():
            ticker.tick(f"packing {name}")
            yield np.zeros(segment.region.offset - at, np.uint8)
            data = segment.make()
            if data.size != segment.region.bytes:
                raise AssertionError(f"{name} has {data.size} bytes, {segment.region.bytes} were planned")
            yield data
            at = segment.region.offset + segment.region.bytes
        yield np.zeros(self.bytes - at, np.uint8)

    @contextmanager
    def reading(self) -> Iterator[Reader]:
        parts, left = self._segments(), np.zeros(0, np.uint8)

        def read(window: Bytes) -> None:
            nonlocal left
            while window.size:
                while not left.size:
                    left = next(parts)
                count = min(window.size, left.size)
                window[:count] = left[:count]
                window, left = window[count:], left[count:]

        yield read

    def packed(self) -> ArrayConstants:
        """All of them in memory."""
        data = np.empty(self.bytes, np.uint8)
        with self.reading() as read:
            read(data)
        return ArrayConstants(data)


class ArrayRows:
    """An embedding in memory, bf16 bits ``[vocab, hidden]``."""

    def __init__(self, table: npt.NDArray[np.uint16]) -> None:
        self._table = table

    def gather(self, tokens: Sequence[int]) -> npt.NDArray[np.uint16]:
        return self._table[np.asarray(tokens, np.intp)]


class LazyRows:
    """An embedding that is made, whole, when its first row is asked for."""

    def __init__(self, make: Callable[[], npt.NDArray[np.uint16]]) -> None:
        self._make = make
        self._rows: ArrayRows | None = None

    def gather(self, tokens: Sequence[int]) -> npt.NDArray[np.uint16]:
        if self._rows is None:
            self._rows = ArrayRows(self._make())
        return self._rows.gather(tokens)
