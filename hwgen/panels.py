"""Beats of the panel of a matrix, whatever its number format."""

from __future__ import annotations

from .config import BuildConfig
from .descriptors import Descriptor, Format
from .grouped_layout import GroupedLayout
from .layout import Int4Layout

__all__ = ["panel_beats"]


def panel_beats(config: BuildConfig, d: Descriptor) -> int:
    """Beats that a LINEAR operator takes, fetched or held for replay."""
    if Format.FP8 in d.format:
        return Int4Layout.of(config, d).beats
    if Format.GROUPED in d.format:
        return GroupedLayout.of(config, d).beats
    return d.slices * d.row_blocks
