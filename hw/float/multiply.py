"""Pipelined float multiplier."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .format import BIAS, EXPONENT, MANTISSA, pack, pipelined, unpack

__all__ = ["FloatMul"]


class FloatMul(wiring.Component):
    """``o = flush(a * b)``; a new operation every cycle.

    No reset.

    The significands are multiplied by a plain 24 x 24 bit ``*`` with one register before and two behind it, which
    synthesis moves into the DSP slices (two DSP48E2). The fourth stage rounds.

    Members
    -------
    a, b : In(32)
        Sampled at one rising edge.
    o : Out(32)
        The result, from the ``latency``-th edge on, that one counted, for one cycle.
    """

    latency = 4

    def __init__(self) -> None:
        super().__init__({"a": In(32), "b": In(32), "o": Out(32)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        a, b = unpack(self.a), unpack(self.b)

        # 1: a factor of zero is noted beside, so that the leading ones are constant
        factor_a = Cat(pipelined(m, a.mantissa, "mantissa_a"), Const(1, 1))
        factor_b = Cat(pipelined(m, b.mantissa, "mantissa_b"), Const(1, 1))
        sign = pipelined(m, a.sign ^ b.sign, "sign1")
        zero = pipelined(m, ~(a.exponent.any() & b.exponent.any()), "zero1")
        exponent = pipelined(m, a.exponent + b.exponent, "exponent1")

        # 2, 3
        product2 = pipelined(m, factor_a * factor_b, "product2")
        product = pipelined(m, product2, "product3")
        sign3 = pipelined(m, pipelined(m, sign, "sign2"), "sign3")
        zero3 = pipelined(m, pipelined(m, zero, "zero2"), "zero3")
        exponent3 = pipelined(m, pipelined(m, (exponent - BIAS)[: EXPONENT.width], "exponent2"), "exponent3")

        # 4: the product is in [1, 4); at 2 or more it has one bit more
        long = product[47]
        kept = Mux(long, product[24:47], product[23:46])
        guard = Mux(long, product[23], product[22])
        sticky = product[:22].any() | (long & product[22])
        round_up = guard & (sticky | kept[0])
        rounded = Signal(MANTISSA + EXPONENT.width)
        operands = Cat(Const(1, 1), kept, exponent3), Cat(round_up, Const(0, MANTISSA), long)
        m.d.comb += rounded.eq((operands[0] + operands[1])[1:])
        result = pack(sign3, rounded[MANTISSA:].as_signed(), rounded[:MANTISSA], zero3)
        m.d.comb += self.o.eq(pipelined(m, result, "result4"))
        return m
