"""Base-2 exponential of the softmax, in fixed point."""

from __future__ import annotations

from amaranth.hdl import Array, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ...numerics import SCORE_BITS, SCORE_FRACTION, exp2_table

__all__ = ["Exp2"]

#: Halvings after which the result is 0.
_LAST_SHIFT = 16


class Exp2(wiring.Component):
    """``p = 2^-(d / 1024)`` with 15 fraction bits (numerics contract, ``exp2``), 0 with ``zero``; a new one every cycle.

    Members
    -------
    d : In, zero : In(1)
        Sampled at one rising edge.
    p : Out(16)
        The result, from the ``latency``-th edge on, that one counted, for one cycle.
    """

    latency = 4

    def __init__(self) -> None:
        super().__init__({"d": In(SCORE_BITS + 1), "zero": In(1), "p": Out(16)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        low_bits = SCORE_FRACTION - 6
        bases, slopes = (Array(Const(value, max(column).bit_length()) for value in column) for column in exp2_table())
        segment = self.d[low_bits:SCORE_FRACTION]

        # 1: table
        base, slope, low = Signal(17), Signal(10), Signal(low_bits)
        m.d.sync += [base.eq(bases[segment]), slope.eq(slopes[segment]), low.eq(self.d[:low_bits])]
        # 2: interpolate
        product, base2 = Signal(10 + low_bits), Signal(17)
        m.d.sync += [product.eq(slope * low), base2.eq(base)]
        # 3: round, subtract
        fall, value = Signal(10), Signal(17)
        m.d.comb += fall.eq((product + (1 << (low_bits - 1))) >> low_bits)
        m.d.sync += value.eq(base2 - fall)
        # 4: halve and round
        shift = [Signal(range(_LAST_SHIFT + 1), name=f"shift_{i}") for i in range(3)]
        zero = [Signal(name=f"zero_{i}") for i in range(3)]
        whole = self.d[SCORE_FRACTION:]
        m.d.sync += [
            shift[0].eq(whole[: len(shift[0])]),
            zero[0].eq(self.zero | (whole > _LAST_SHIFT)),
            *(after.eq(before) for line in (shift, zero) for before, after in zip(line, line[1:], strict=False)),
            self.p.eq(Mux(zero[2], 0, ((value >> shift[2]) + 1) >> 1)),
        ]
        return m
