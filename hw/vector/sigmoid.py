"""Sigmoid of the SiLU gate."""

from __future__ import annotations

from amaranth.hdl import Array, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from ...numerics import SIGMOID_ONE, sigmoid_table
from ..float.convert import FloatToInt, IntToFloat
from ..float.format import pipelined

__all__ = ["Sigmoid"]

#: Fraction bits of the table's argument.
FRACTION = 10

#: Bits of the table's argument: |y| below 16, larger ones saturate.
MAGNITUDE = 14

#: Lowest bits of the argument, over which a segment of the table is interpolated.
STEP = 6


class Sigmoid(wiring.Component):
    """``o = sigmoid(a)`` of the numerics contract; a new one every cycle.

    No reset.

    ::

        u = round(|a| 2^10), at most 2^14 - 1; i = u >> 6; l = u & 63       FloatToInt
        base[i], slope[i]                                                   1
        slope[i] l;  start = a < 0 ? base : 2^17 - base                     1
        fall = (slope[i] l + 32) >> 6;  w = start -+ fall                   1
        float(w 2^-17)                                                      IntToFloat

    Members
    -------
    a : In(32)
        Sampled at one rising edge.
    o : Out(32)
        The result, from the ``latency``-th edge on, that one counted, for one cycle.
    """

    latency = FloatToInt.latency + 3 + IntToFloat.latency

    def __init__(self) -> None:
        super().__init__({"a": In(32), "o": Out(32)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        base, slope = sigmoid_table()
        one_bits = bits_for(SIGMOID_ONE)
        m.submodules.argument = argument = FloatToInt(MAGNITUDE + 1, FRACTION)
        m.submodules.convert = convert = IntToFloat(one_bits + 1, fraction=bits_for(SIGMOID_ONE - 1))

        m.d.comb += argument.a.eq(self.a[:31])
        negative = self.a[31]
        for k in range(FloatToInt.latency):
            negative = pipelined(m, negative, f"negative_{k}")

        segment = argument.o[STEP:MAGNITUDE]
        base1 = pipelined(m, Array(Const(v, bits_for(max(base))) for v in base)[segment], "base1")
        slope1 = pipelined(m, Array(Const(v, bits_for(max(slope))) for v in slope)[segment], "slope1")
        inside1 = pipelined(m, argument.o[:STEP], "inside1")
        negative1 = pipelined(m, negative, "negative1")

        product2 = pipelined(m, slope1 * inside1, "product2")
        start2 = pipelined(m, Mux(negative1, base1, SIGMOID_ONE - base1)[:one_bits], "start2")
        negative2 = pipelined(m, negative1, "negative2")

        fall2 = Signal(len(product2) + 1 - STEP)
        m.d.comb += fall2.eq((product2 + (1 << (STEP - 1))) >> STEP)
        result3 = pipelined(m, Mux(negative2, start2 - fall2, start2 + fall2)[:one_bits], "result3")
        m.d.comb += [convert.i.eq(result3), self.o.eq(convert.o)]
        return m
