"""Conversion of floats to 8-bit floats."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .convert import FloatToInt
from .format import BIAS, MANTISSA, pipelined, unpack

__all__ = ["FloatToE4m3"]

#: Exponent field of a float32 below which e4m3 is subnormal (2^-6).
NORMAL = BIAS - 6

#: Stored bits of an e4m3 mantissa.
FRACTION = 3

#: Code of the largest finite value, 448; the one above is no number.
LARGEST = 0x7E


class FloatToE4m3(wiring.Component):
    """``o`` = the 8-bit e4m3 code nearest to ``a``: ties to even mantissa, subnormals, saturated at +-448; what rounds
    to zero is +0 (0x00). A new one every cycle.

    Members: ``a`` is sampled at one rising edge; its result is on ``o`` from the ``latency``-th edge on, that one
    counted, for one cycle. No reset. The latency is that of `FloatToInt`: the two may stand side by side.

    ::

        1 range   below 2^-6 the significand must go right by one bit more for each binade, by five at most
        2 shift   the leading one and three bits, one to round by, and whether anything lies lower
        3 round   exponent field and mantissa in one carry chain; saturate
    """

    latency = FloatToInt.latency

    def __init__(self) -> None:
        super().__init__({"a": In(32), "o": Out(8)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        a = unpack(self.a)

        # 1: four bits and one to round by are looked at; after five steps to the right none of them is left
        cut = MANTISSA - FRACTION - 1
        normal, too_small = Signal(), Signal()
        m.d.comb += [normal.eq(a.exponent >= NORMAL), too_small.eq(a.exponent < NORMAL - 4)]
        shift = Mux(normal, 0, Mux(too_small, 5, (NORMAL - a.exponent)[:3]))
        field = Mux(normal, (a.exponent - (NORMAL - 1))[:4], 0)
        shift1 = pipelined(m, shift, "shift1")
        field1 = pipelined(m, field, "field1")
        too_large1 = pipelined(m, a.exponent > NORMAL + 14, "too_large1")
        top1 = pipelined(m, a.mantissa[cut:], "top1")
        low1 = pipelined(m, a.mantissa[:cut].any(), "low1")
        sign1 = pipelined(m, a.sign, "sign1")

        # 2
        top = Cat(top1, Const(1, 1))
        kept, lost = Signal(len(top)), Signal()
        with m.Switch(shift1):
            for k in range(6):
                with m.Case(k):
                    m.d.comb += [kept.eq(top >> k), lost.eq(top[:k].any())]
        mantissa2 = pipelined(m, kept[1 : 1 + FRACTION], "mantissa2")
        round_up2 = pipelined(m, kept[0] & (kept[1] | lost | low1), "round_up2")
        field2 = pipelined(m, field1, "field2")
        too_large2 = pipelined(m, too_large1, "too_large2")
        sign2 = pipelined(m, sign1, "sign2")

        # 3: a carry out of the mantissa is the next binade, whose mantissa is 0
        code = Cat(mantissa2, field2)
        rounded = Signal(7)
        saturated = Signal()
        m.d.comb += [rounded.eq(code + round_up2), saturated.eq(too_large2 | code[1:].all())]
        sign = sign2 & (code.any() | round_up2 | too_large2)
        result = Cat(Mux(saturated, Const(LARGEST, 7), rounded), sign)
        m.d.comb += self.o.eq(pipelined(m, result, "result3"))
        return m
