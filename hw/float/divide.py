"""Pipelined float divider."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ...rounding import ceil_div
from .format import BIAS, EXPONENT, MANTISSA, pack, pipelined, unpack

__all__ = ["FloatDiv"]

#: Bits of the quotient's fraction: if its integer bit is 0, 24 bits of significand follow and one to round.
QUOTIENT = MANTISSA + 2

BITS_PER_STAGE = 2


class FloatDiv(wiring.Component):
    """``o = flush(a / b)``, and 0 where ``b`` is 0; a new operation every cycle.

    No reset.

    Non-restoring long division of the significands, two bits a stage: ``r[0] = a - b``; quotient bit
    ``q[i] = (r[i] >= 0)``; ``r[i+1] = 2 r[i] - b`` where ``q[i]`` is 1, else ``2 r[i] + b``. The bits equal those of
    schoolbook division, and ``r`` stays in ``-b .. b - 1``.

    The remainder is not needed for rounding: a quotient of two 24-bit integers never lies halfway between two 24-bit
    numbers, for b times such a quotient would need 25 bits or more. Nor can rounding reach the next power of two.

    Members
    -------
    a, b : In(32)
        Sampled at one rising edge.
    o : Out(32)
        The result, from the ``latency``-th edge on, that one counted, for one cycle.
    """

    latency = 1 + ceil_div(QUOTIENT, BITS_PER_STAGE) + 1

    def __init__(self) -> None:
        super().__init__({"a": In(32), "b": In(32), "o": Out(32)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        a, b = unpack(self.a), unpack(self.b)
        divisor: Value = pipelined(m, b.mantissa, "divisor_0")
        remainder: Value = pipelined(m, Cat(a.mantissa, Const(1, 1)) - Cat(b.mantissa, Const(1, 1)), "remainder_0")
        quotient: Value = Const(0, 0)
        sign: Value = pipelined(m, a.sign ^ b.sign, "sign_0")
        zero: Value = pipelined(m, ~(a.exponent.any() & b.exponent.any()), "zero_0")
        exponent: Value = pipelined(m, (a.exponent - b.exponent + BIAS)[: EXPONENT.width].as_signed(), "exponent_0")

        for first in range(0, QUOTIENT, BITS_PER_STAGE):
            if first == 0:  # an integer bit of 0 halves the significand's weight
                exponent = (exponent - remainder[-1])[: EXPONENT.width].as_signed()
            for i in range(first, min(first + BITS_PER_STAGE, QUOTIENT)):
                bit = ~remainder[-1]
                following = Signal(signed(25), name=f"following_{i}")
                # 2 r - b = 2 r + ~b + 1, and the lowest bit of 2 r is free
                addend = Cat(divisor, Const(1, 2)) ^ bit.replicate(25)
                m.d.comb += following.eq((Cat(bit, remainder[:24]) + addend)[:25].as_signed())
                quotient = Cat(bit, quotient)
                remainder = following
            stage = first // BITS_PER_STAGE + 1
            divisor = pipelined(m, divisor, f"divisor_{stage}")
            remainder = pipelined(m, remainder, f"remainder_{stage}")
            quotient = pipelined(m, quotient, f"quotient_{stage}")
            sign = pipelined(m, sign, f"sign_{stage}")
            zero = pipelined(m, zero, f"zero_{stage}")
            exponent = pipelined(m, exponent, f"exponent_{stage}")

        quotient = Cat(~remainder[-1], quotient)
        mantissa = Signal(MANTISSA)
        with m.If(quotient[-1]):
            m.d.comb += mantissa.eq(quotient[2:-1] + quotient[1])
        with m.Else():
            m.d.comb += mantissa.eq(quotient[1:-2] + quotient[0])
        m.d.comb += self.o.eq(pipelined(m, pack(sign, exponent, mantissa, zero), "result"))
        return m
