"""Beats of 4-bit keys and values: two beats of int8 elements in the nibbles of one (:class:`hwgen.layout.KvBlockLayout`)."""

from __future__ import annotations

from amaranth.hdl import Cat, Mux, Value

__all__ = ["expand_beat", "push_beat"]


def expand_beat(beat: Value, packed: Value, upper: Value) -> Value:
    """``beat``, or where ``packed`` its low nibbles, with ``upper`` (only then) the high ones, sign-extended to bytes."""
    elements = []
    for i in range(0, len(beat), 8):
        low, high = beat[i : i + 4], beat[i + 4 : i + 8]
        sign = Mux(upper, high[-1], low[-1])
        elements += [Mux(upper, high, low), Mux(packed, sign.replicate(4), high)]
    return Cat(*elements)


def push_beat(nibbles: Value, beat: Value) -> Value:
    """``nibbles`` with its high ones moved down and the low ones of ``beat`` above them: two pushes make a packed beat."""
    return Cat(part for i in range(0, len(beat), 8) for part in (nibbles[i + 4 : i + 8], beat[i : i + 4]))
