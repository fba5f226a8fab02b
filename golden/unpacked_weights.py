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
from ..panels import panel_beats
from .panels import E4m3Panel, IntegerPanel, Panel, TernaryPanel

__all__ = ["StationaryWeights"]

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class _Entry:
    #: The last write to the packed bytes.
    written: int
    panel: Panel
    #: Scales of rows of the short-list head.
    row_scale: Tensor | None = None


class StationaryWeights:
    """Unpacked matrices by address. ``last_write(address, size)`` tells whether they still are what the memory holds."""

    def __init__(self, config: BuildConfig, last_write: Callable[[int, int], int]) -> None:
        self.config = config
        self._last_write = last_write
        self._entries: dict[tuple[int, ...], _Entry] = {}
        self._beats: dict[tuple[int, ...], int] = {}

    def _get(self, key: tuple[int, ...], packed: Bytes, unpack: Callable[[int], _Entry]) -> _Entry:
        """What was made of ``packed``, the bytes at address ``key[0]``."""
        entry, written = self._entries.get(key), self._last_write(key[0], packed.nbytes)
        if entry is None or entry.written != written:
            entry = self._entries[key] = unpack(written)
        return entry

    @staticmethod
    def _shape(d: Descriptor) -> tuple[int, ...]:
        """What in a LINEAR operator the layout of its panel follows from."""
        return d.slices, d.row_blocks, d.vectors, d.format.value

    def beats(self, d: Descriptor) -> int:
        """Beats that a LINEAR operator takes."""
        shape = self._shape(d)
        if shape not in self._beats:
            self._beats[shape] = panel_beats(self.config, d)
        return self._beats[shape]

    def panel(self, d: Descriptor, address: int, beats: Bytes) -> Panel:
        """The panel of a LINEAR operator, its inputs as far as there are activations for them."""
        unpack = self._int4 if Format.FP8 in d.format else self._grouped if Format.GROUPED in d.format else self._ternary
        return self._get((address, *self._shape(d)), beats, lambda written: _Entry(written, unpack(d, beats))).panel

    def _ternary(self, d: Descriptor, beats: Bytes) -> Panel:
        c = self.config
        trits = unpack_ternary(c, beats, d.row_blocks * c.rows, min(d.slices * c.slice_inputs, c.max_inputs))
        return TernaryPanel(trits)

    def _grouped(self, d: Descriptor, beats: Bytes) -> Panel:
        layout = GroupedLayout.of(self.config, d)
        trits, codes = layout.unpack(beats)
        scaled = trits * spread(SCALES[codes], GROUP, layout.inputs)
        return IntegerPanel(scaled[:, : self.config.max_inputs])

    def _int4(self, d: Descriptor, beats: Bytes) -> Panel:
        layout = Int4Layout.of(self.config, d)
        codes, scales, midpoints = layout.unpack(beats)
        shape = layout.group, layout.inputs
        w = codes * spread(scales.astype(np.int16), *shape) + MIDPOINT_STEP * spread(midpoints.astype(np.int16), *shape)
        return E4m3Panel(w[:, : self.config.max_inputs])

    def head(self, address: int, beats: Bytes, inputs: int, vocab: int) -> tuple[Panel, Tensor]:
        """Rows ``[vocab, inputs]`` and their scales ``[vocab]``, packed as by ``layout.pack_head``."""
        c = self.config

        def unpack(written: int) -> _Entry:
            blocks = beats.reshape(-1, head_block_beats(c, inputs), c.beat_bytes)
            header = c.header_beats
            scales = blocks[:, :header].reshape(len(blocks), -1).view(np.uint16)[:, : c.kv_block].reshape(-1)[:vocab]
            data = blocks[:, header : header + inputs // c.key_bytes].view(np.int8)
            data = (
                data.reshape(len(blocks), -1, c.kv_block, c.key_bytes).transpose(0, 2, 1, 3).reshape(-1, inputs)[:vocab]
            )
            return _Entry(written, IntegerPanel(data.astype(np.int16)), torch.from_numpy(widen_bf16(scales)))

        entry = self._get((address, inputs, vocab), beats, unpack)
        assert entry.row_scale is not None
        return entry.panel, entry.row_scale
