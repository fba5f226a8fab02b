"""How a ternary matrix with scales of groups lies in memory, and how the engine cuts its groups into slices."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .config import TRITS_PER_BYTE, BuildConfig, nearest_power_of_two
from .descriptors import Descriptor
from .layout import ZERO_BYTE, pad_beats, unpack_trits
from .numerics import GROUP
from .rounding import align, ceil_div

__all__ = ["GroupSlices", "GroupedLayout"]

Bytes = npt.NDArray[np.uint8]


class GroupSlices:
    """The slices of a group of `GROUP` inputs: whole ones, then a short one with what is left, which is never nothing. A beat of
    whole slices has one row block, a beat of short ones ``parts``.

    With slices of 40 inputs a group is three of them and 8 inputs in two bytes a row, so that a beat holds four row blocks: 3.25
    beats for 128 inputs, 130 trits.
    """

    def __init__(self, config: BuildConfig) -> None:
        #: Whole slices of a group, and all.
        self.whole, self.rest_inputs = divmod(GROUP, config.slice_inputs)
        self.count = self.whole + 1
        #: Bytes of a row in a whole slice, and in a short one.
        self.row_bytes = config.beat_bytes // config.rows
        self.rest_bytes = ceil_div(self.rest_inputs, TRITS_PER_BYTE)
        #: Row blocks in a beat of short slices.
        self.parts = nearest_power_of_two(self.row_bytes // self.rest_bytes)


class GroupedLayout:
    """A panel of ``rows`` rows of a `hwgen.grouped.GroupedMatrix` as the ternary engine reads it.

    Beats, for every group of inputs: scale beats, then the weight beats of its slices (`GroupSlices`), slices outermost, row blocks
    inside. A scale beat holds the codes of ``beat_bytes`` rows; scale beats are padded to whole ring rows. Whole slices lie as in
    matrices without groups. In short ones a ring row (``groups`` beats) holds ``parts * groups`` row blocks: beat b of ring row i
    has row block ``(parts * i + p) * groups + b`` in its p-th part, the rows one behind the other. Missing rows are zero.
    """

    def __init__(self, config: BuildConfig, rows: int, inputs: int) -> None:
        if inputs % GROUP:
            raise ValueError(f"inputs must be a multiple of {GROUP}, not {inputs!r}")
        self.config, self.rows, self.inputs = config, rows, inputs
        self.slicing = GroupSlices(config)
        step = config.block_step
        #: Groups of inputs, their slices, and row blocks.
        self.groups = inputs // GROUP
        self.slices = self.groups * self.slicing.count
        self.row_blocks = ceil_div(rows, config.rows * step) * step
        #: Scale beats, and beats of the short slice, of a group.
        self.scale_beats = pad_beats(config, ceil_div(self.row_blocks * config.rows, config.beat_bytes))
        self.rest_beats = ceil_div(self.row_blocks, self.slicing.parts * config.groups) * config.groups
        #: Beats of a group, and of the panel.
        self.group_beats = self.scale_beats + self.slicing.whole * self.row_blocks + self.rest_beats
        self.beats = self.groups * self.group_beats

    @classmethod
    def of(cls, config: BuildConfig, d: Descriptor) -> GroupedLayout:
        """The panel that a LINEAR operator with GROUPED reads."""
        return cls(config, d.row_blocks * config.rows, d.slices // GroupSlices(config).count * GROUP)

    def pack(self, packed: Bytes, codes: Bytes) -> Bytes:
        """Packed trits ``[rows, groups, bytes]`` (`GroupedMatrix.packed`) and scale codes ``[rows, groups]`` -> beats ``[beats,
        beat_bytes]``."""
        c, s = self.config, self.slicing
        blocks, whole = self.row_blocks, s.whole * s.row_bytes
        full = np.full((blocks * c.rows, self.groups, packed.shape[2]), ZERO_BYTE, np.uint8)
        full[: self.rows] = packed
        scales = np.zeros((self.groups, self.scale_beats * c.beat_bytes), np.uint8)
        scales[:, : self.rows] = codes.T
        weights = full[..., :whole].reshape(blocks, c.rows, self.groups, s.whole, s.row_bytes).transpose(2, 3, 0, 1, 4)
        rest = np.full((align(blocks, s.parts * c.groups), c.rows, self.groups, s.rest_bytes), ZERO_BYTE, np.uint8)
        rest[:blocks] = full[..., whole:].reshape(blocks, c.rows, self.groups, s.rest_bytes)
        by_beat = rest.reshape(-1, s.parts, c.groups, c.rows, self.groups, s.rest_bytes).transpose(4, 0, 2, 1, 3, 5)
        tail = np.zeros((self.groups, self.rest_beats, c.beat_bytes), np.uint8)
        tail[..., : s.parts * c.rows * s.rest_bytes] = by_beat.reshape(self.groups, self.rest_beats, -1)
        parts = (
            scales.reshape(self.groups, self.scale_beats, -1), weights.reshape(self.groups, s.whole * blocks, -1), tail,
        )
        beats: Bytes = np.concatenate(parts, axis=1).reshape(self.beats, c.beat_bytes)
        return beats

    def unpack(self, beats: Bytes) -> tuple[npt.NDArray[np.int8], Bytes]:
        """The inverse of :meth:`pack`: trits ``[rows, inputs]`` and scale codes ``[rows, groups]``."""
        c, s = self.config, self.slicing
        blocks = self.row_blocks
        by_group = beats.reshape(self.groups, self.group_beats, c.beat_bytes)
        scales, weights, tail = np.split(by_group, (self.scale_beats, self.scale_beats + s.whole * blocks), axis=1)
        codes = scales.reshape(self.groups, -1)[:, : self.rows].T
        whole = weights.reshape(self.groups, s.whole, blocks * c.rows, s.row_bytes).transpose(2, 0, 1, 3)
        used = tail[..., : s.parts * c.rows * s.rest_bytes]
        by_part = used.reshape(self.groups, -1, c.groups, s.parts, c.rows, s.rest_bytes).transpose(1, 3, 2, 4, 0, 5)
        rest = by_part.reshape(-1, self.groups, s.rest_bytes)[: blocks * c.rows]
        packed = np.concatenate((whole.reshape(blocks * c.rows, self.groups, -1), rest), axis=2)
        trits = unpack_trits(packed)[: self.rows, :, :GROUP]
        return np.ascontiguousarray(trits.reshape(self.rows, self.inputs)), np.ascontiguousarray(codes)
