"""Beats of 4-bit keys and values: the codes of two beats of elements in one (:class:`hwgen.layout.KvBlockLayout`)."""

from __future__ import annotations

from amaranth.hdl import Cat, Mux, Value

from ...numerics import four_bit_values
from ..lookup import looked_up

__all__ = ["expand_beat", "push_beat"]


def expand_beat(beat: Value, packed: Value, upper: Value) -> Value:
    """``beat``, or where ``packed`` the levels of its low nibbles, with ``upper`` (only then) of the high ones."""
    elements: list[Value] = []
    for i in range(0, len(beat), 8):
        byte = beat[i : i + 8]
        low = Mux(packed & upper, byte[4:7], byte[:3])  # of the code as of the level
        sign = Mux(packed & ~upper, byte[3], byte[7])
        middle = looked_up(four_bit_values(), Cat(low, sign), range(3, 7))
        elements += [low, Mux(packed, middle, byte[3:7]), sign]
    return Cat(*elements)


def push_beat(nibbles: Value, beat: Value) -> Value:
    """The high nibbles of ``nibbles``, each below the code of an element of ``beat``: two pushes make a packed beat."""
    return Cat(part for i in range(0, len(beat), 8) for part in (nibbles[i + 4 : i + 8], beat[i : i + 3], beat[i + 7]))
