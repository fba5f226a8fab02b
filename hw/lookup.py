"""Small tables of constants, bit by bit."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Cat, Const, Value

__all__ = ["looked_up"]


def looked_up(values: Sequence[int], index: Value, bits: range) -> Value:
    """``bits`` of ``values[index]``, as in two's complement. Every bit is a function of ``index`` by itself, one LUT up to 64
    values, which no synthesiser takes for a memory.
    """
    return Cat(
        Const(sum((value >> bit & 1) << place for place, value in enumerate(values)), len(values)).bit_select(index, 1)
        for bit in bits
    )
