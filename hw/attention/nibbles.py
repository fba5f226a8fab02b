"""Beats of 4-bit keys and values: the upper halves of two beats of elements in one (:class:`hwgen.layout.KvBlockLayout`)."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Mux, Value

__all__ = ["expand_beat", "push_beat"]


def expand_beat(beat: Value, packed: Value, upper: Value) -> Value:
    """``beat``, or where ``packed`` its low nibbles, with ``upper`` (only then) the high ones, each above the lower half 8."""
    moved = packed & ~upper
    elements: list[Value] = []
    for i in range(0, len(beat), 8):
        low, high = beat[i : i + 4], beat[i + 4 : i + 8]
        elements += [Mux(packed, Const(8, 4), low), Mux(moved, low, high)]
    return Cat(*elements)


def push_beat(nibbles: Value, beat: Value) -> Value:
    """``beat`` with the high nibbles of ``nibbles`` in the place of its low ones: two pushes make a packed beat."""
    return Cat(part for i in range(0, len(beat), 8) for part in (nibbles[i + 4 : i + 8], beat[i + 4 : i + 8]))
