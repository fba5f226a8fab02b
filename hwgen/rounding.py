"""Integer division and alignment that round up."""

from __future__ import annotations

__all__ = ["align", "ceil_div"]


def ceil_div(value: int, divisor: int) -> int:
    """The smallest integer that is at least ``value / divisor``."""
    return -(-value // divisor)


def align(value: int, step: int) -> int:
    """The smallest multiple of ``step`` that is at least ``value``."""
    return ceil_div(value, step) * step
