"""Ternary matrices with scales of groups of inputs, in panels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from ...config import TRITS_PER_BYTE, BuildConfig
from ...descriptors import Buffers, Descriptor, Fetch, Flag, Format, Opcode
from ...errors import HwgenError
from ...grouped_layout import GroupedLayout
from ...layout import ZERO_BYTE
from ...numerics import GROUP
from ...rounding import ceil_div
from .layers import Bytes, Panel, Span
from .placement import REGION_ALIGNMENT
from .ternary import TernaryCompiler
from .vocabulary import compute_rows, head_cuts

__all__ = ["GroupedCompiler"]


class GroupedCompiler(TernaryCompiler):
    """One compilation of a model with such matrices."""

    def __init__(self, config: BuildConfig, weights: Any, head: str = "exact") -> None:
        if not config.has_groups:
            raise HwgenError(
                "model", f"the model is ternary with scales of groups of {GROUP} inputs, build {config.name!r} takes one a matrix",
                "build with engine=grouped",
            )
        if head != "exact":
            raise HwgenError("usage", f"the {head} head needs a scale a matrix, the model has scales of groups", "use --head exact")
        super().__init__(config, weights, head)

    def head_panels(self) -> list[Panel]:
        matrix = self.weights.grouped_head
        if matrix is None:
            return super().head_panels()
        c, s = self.config, self.shape
        panels = []
        for i, (first, vectors) in enumerate(head_cuts(c, "grouped", s.vocab, c.scratch_vectors - self.plan.qkv)):
            command = self.panel_command(vectors * c.width, s.hidden)
            self.memory.align(REGION_ALIGNMENT)
            make = partial(self.panel_bytes, [matrix], [0], first * c.width, vectors * c.width)
            address = self.memory.add(f"head.{i}", command.stream_beats * c.beat_bytes, make)
            panels.append(Panel(replace(command, stream_address=address), (Span(matrix.scale, 0, first, vectors),)))
        return panels

    def head_rows(self, panels: list[Panel], half: Buffers, tokens: dict[str, int]) -> None:
        if self.weights.grouped_head is None:
            super().head_rows(panels, half, tokens)
        else:
            compute_rows(self, panels, half, tokens, Flag.STORE | Flag.CANDIDATES, lambda number: {})

    def panel_command(self, height: int, inputs: int) -> Descriptor:
        layout = GroupedLayout(self.config, height, inputs)
        return Descriptor(
            opcode=Opcode.LINEAR, format=Format.GROUPED, fetch=Fetch.STREAM, slices=layout.slices, row_blocks=layout.row_blocks,
            stream_beats=layout.beats,
        )

    def panel_bytes(self, parts: Sequence[Any], starts: list[int], first: int, height: int) -> Bytes:
        inputs = parts[0].inputs
        block = np.full((height, inputs // GROUP, ceil_div(GROUP, TRITS_PER_BYTE)), ZERO_BYTE, np.uint8)
        codes = np.zeros((height, inputs // GROUP), np.uint8)
        for part, to, of in self.rows_of(parts, starts, first, height):
            block[to], codes[to] = self.packed.of(part)[of], part.codes[of]
        return GroupedLayout(self.config, height, inputs).pack(block, codes).reshape(-1)
