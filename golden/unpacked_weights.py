"""Weights unpacked from memory once, and again only when the memory was written to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..config import BuildConfig
from ..descriptors import Descriptor, Format
from ..formats import widen_bf16
from ..grouped import SCALES
from ..grouped_layout import GroupedLayout
from ..int4 import MIDPOINT_STEP, spread
from ..layout import Int4Layout, head_block_beats, unpack_ternary
from ..numerics import GROUP

__all__ = ["StationaryWeights"]

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class _Entry:
    #: The last write to the packed bytes.
    written: int
    unpacked: tuple[Tensor, ...]


#: Bytes of matrices that are kept as what products take (float32 or float64): SmolLM2-135M is below, 2B4T above.
KEPT_BYTES = 5 << 28


class StationaryWeights:
    """Unpacked matrices by address. ``last_write(address, size)`` tells whether they still are what the memory holds. Matrices
    are kept as what products take, for as many as `KEPT_BYTES` hold; the others are integers.
    """

    def __init__(self, config: BuildConfig, last_write: Callable[[int, int], int]) -> None:
        self.config = config
        self._last_write = last_write
        self._entries: dict[tuple[int, ...], _Entry] = {}
        self._kept = 0

    def _matrix(self, integers: npt.NDArray[np.generic], kind: torch.dtype) -> Tensor:
        """A matrix as ``kind``, or as it is when there is no room."""
        matrix = torch.from_numpy(integers)
        size = matrix.numel() * kind.itemsize
        if self._kept + size > KEPT_BYTES:
            return matrix
        self._kept += size
        return matrix.to(kind)

    def _get(self, key: tuple[int, ...], packed: Bytes, unpack: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """What was made of ``packed``, the bytes at address ``key[0]``."""
        entry, written = self._entries.get(key), self._last_write(key[0], packed.nbytes)
        if entry is None or entry.written != written:
            if entry is not None and entry.unpacked[0].is_floating_point():
                self._kept -= entry.unpacked[0].nbytes
            entry = self._entries[key] = _Entry(written, unpack())
        return entry.unpacked

    def panel(self, d: Descriptor, address: int, beats: Bytes) -> Tensor:
        """The panel of a LINEAR operator in units of its scales, ``[rows, inputs]``: floats, or integers where there is no room."""
        if Format.FP8 in d.format:
            return self.int4(address, beats, Int4Layout.of(self.config, d))
        if Format.GROUPED in d.format:
            return self.grouped(address, beats, GroupedLayout.of(self.config, d))
        return self.ternary(address, beats, d.slices, d.row_blocks)

    def grouped(self, address: int, beats: Bytes, layout: GroupedLayout) -> Tensor:
        """The panel packed in ``beats``, ``[rows, inputs]`` in int16 or float32."""

        def unpack() -> tuple[Tensor, ...]:
            trits, codes = layout.unpack(beats)
            return (self._matrix(trits * spread(SCALES[codes], GROUP, layout.inputs), torch.float32),)

        return self._get((address, layout.rows, layout.inputs, -GROUP), beats, unpack)[0]

    def ternary(self, address: int, beats: Bytes, slices: int, row_blocks: int) -> Tensor:
        """The matrix packed in ``beats``, ``[row_blocks * rows, slices * slice_inputs]`` in int8 or float32."""
        c = self.config

        def unpack() -> tuple[Tensor, ...]:
            trits = unpack_ternary(c, beats, row_blocks * c.rows, slices * c.slice_inputs)
            return (self._matrix(trits, torch.float32),)

        return self._get((address, slices, row_blocks), beats, unpack)[0]

    def int4(self, address: int, beats: Bytes, layout: Int4Layout) -> Tensor:
        """The panel packed in ``beats`` in units of its row scales, ``[rows, inputs]`` in int16 or float64."""

        def unpack() -> tuple[Tensor, ...]:
            codes, scales, midpoints = layout.unpack(beats)
            shape = layout.group, layout.inputs
            w = codes * spread(scales.astype(np.int16), *shape) + MIDPOINT_STEP * spread(midpoints.astype(np.int16), *shape)
            return (self._matrix(w, torch.float64),)

        return self._get((address, layout.rows, layout.inputs, layout.group), beats, unpack)[0]

    def head(self, address: int, beats: Bytes, inputs: int, vocab: int) -> tuple[Tensor, Tensor]:
        """Rows ``[vocab, inputs]``, int8 or float32, and their scales ``[vocab]``, packed as by
        ``layout.pack_head``.
        """
        c = self.config

        def unpack() -> tuple[Tensor, ...]:
            blocks = beats.reshape(-1, head_block_beats(c, inputs), c.beat_bytes)
            header = c.header_beats
            scales = blocks[:, :header].reshape(len(blocks), -1).view(np.uint16)[:, : c.kv_block].reshape(-1)[:vocab]
            data = blocks[:, header : header + inputs // c.key_bytes].view(np.int8)
            data = (
                data.reshape(len(blocks), -1, c.kv_block, c.key_bytes).transpose(0, 2, 1, 3).reshape(-1, inputs)[:vocab]
            )
            scale = torch.from_numpy(widen_bf16(scales))
            return self._matrix(np.ascontiguousarray(data), torch.float32), scale

        rows, scale = self._get((address, inputs, vocab), beats, unpack)
        return rows, scale
