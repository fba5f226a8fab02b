"""Ternary matrices with scales of groups of inputs, in panels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...config import TRITS_PER_BYTE, BuildConfig
from ...descriptors import Descriptor, Fetch, Format, Opcode
from ...errors import HwgenError
from ...grouped_layout import GroupedLayout
from ...layout import ZERO_BYTE
from ...numerics import GROUP
from ...rounding import ceil_div
from .layers import Bytes
from .ternary import TernaryCompiler

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
