"""Pipelined float multiplier."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ...numerics import F32_MAX_BITS, F32_MIN_EXPONENT
from .format import BIAS, F32_MAX_EXPONENT, MANTISSA, pipelined, unpack

__all__ = ["FloatMul"]

#: Bits of a factor that one DSP slice takes, unsigned.
SPLIT = 17


class FloatMul(wiring.Component):
    """``o = flush(a * b)``; a new operation every cycle.

    No reset.

    ::

        1 unpack
        2 multiply  two partial products of the significands, one DSP slice each: 24 x 17 and 24 x 7 bits
        3 add       them; the 17 bits below the sum become one sticky bit; what would be out of range, for either exponent that
                    rounding may leave
        4 round     to 24 bits, with the exponent in the same carry chain; flush or saturate

    The registers behind the stages 2 and 3 are those that the DSP slices have (M and P).

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

        # 2
        low = pipelined(m, factor_a * factor_b[:SPLIT], "low2")
        high = pipelined(m, factor_a * factor_b[SPLIT:], "high2")
        sign2 = pipelined(m, sign, "sign2")
        zero2 = pipelined(m, zero, "zero2")
        biased = pipelined(m, exponent, "exponent2")

        # 3: in `total` the product's point is behind bit 29, for it is in [1, 4)
        total = pipelined(m, (high + low[SPLIT:])[: 2 * MANTISSA + 2 - SPLIT], "total3")
        lost = pipelined(m, low[:SPLIT].any(), "lost3")
        sign3 = pipelined(m, sign2, "sign3")
        exponent3 = pipelined(m, (biased - BIAS)[:8], "exponent3")
        # Of the exponent as it is, and of one more.
        small = [pipelined(m, zero2 | (biased + more < BIAS + F32_MIN_EXPONENT), f"small{more}") for more in (0, 1)]
        large = [pipelined(m, biased + more >= BIAS + F32_MAX_EXPONENT + 1, f"large{more}") for more in (0, 1)]

        # 4: at 2 or more the product has one bit more; it is below 4 by so much that rounding does not reach it
        long = total[-1]
        kept = Mux(long, total[-1 - MANTISSA : -1], total[-2 - MANTISSA : -2])
        guard = Mux(long, total[-2 - MANTISSA], total[-3 - MANTISSA])
        sticky = lost | total[: -3 - MANTISSA].any() | (long & total[-3 - MANTISSA])
        round_up = guard & (sticky | kept[0])
        rounded = Signal(MANTISSA + 8)
        operands = Cat(Const(1, 1), kept, exponent3), Cat(round_up, Const(0, MANTISSA), long)
        m.d.comb += rounded.eq((operands[0] + operands[1])[1:])
        more = rounded[MANTISSA] ^ exponent3[0]
        number = Mux(Mux(more, large[1], large[0]), Const(F32_MAX_BITS, 31), rounded)
        result = Mux(Mux(more, small[1], small[0]), 0, Cat(number, sign3))
        m.d.comb += self.o.eq(pipelined(m, result, "result4"))
        return m
