"""Reciprocal of a float, two bits a cycle."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ...numerics import F32_MIN_EXPONENT
from ..float.format import BIAS, MANTISSA, unpack

__all__ = ["Reciprocal"]

#: Bits of the quotient: the integer bit, then the significand of a quotient below 1 and a bit to round by.
QUOTIENT = MANTISSA + 3


class Reciprocal(wiring.Component):
    """``o = fdiv(1, a)`` for ``a`` not negative, one number every ``latency`` cycles.

    Non-restoring division as in :class:`hwgen.hw.float.FloatDiv`, on one register in the place of a pipeline.

    Members
    -------
    a, o : In(stream of 32 bits), Out(stream of 32 bits)
    """

    #: Cycles from the transfer of ``a`` until ``o`` is valid.
    latency = QUOTIENT // 2 + 2

    def __init__(self) -> None:
        super().__init__({"a": In(stream.Signature(32)), "o": Out(stream.Signature(32))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        a = unpack(self.a.payload)
        divisor = Signal(MANTISSA)
        remainder = Signal(signed(MANTISSA + 2), reset_less=True)
        quotient = Signal(QUOTIENT)
        exponent = Signal(signed(9))
        zero = Signal()
        step = Signal(range(QUOTIENT // 2 + 1))
        running = Signal()

        bits = []
        rest = remainder
        for i in range(2):
            bit = ~rest[-1]
            following = Signal(signed(len(remainder)), name=f"following_{i}")
            # 2 r - b = 2 r + ~b + 1, and the lowest bit of 2 r is free
            addend = Cat(divisor, Const(1, 2)) ^ bit.replicate(len(remainder))
            m.d.comb += following.eq((Cat(bit, rest[: MANTISSA + 1]) + addend)[: len(remainder)].as_signed())
            bits.append(bit)
            rest = following
        m.d.comb += self.a.ready.eq(~running & (~self.o.valid | self.o.ready))
        with m.If(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        # Two steps lead from here to minus the mantissa, the remainder of the division's first one.
        m.d.sync += remainder.eq(Mux(running, rest, 1 << MANTISSA - 2))
        with m.If(running):
            m.d.sync += [quotient.eq(Cat(bits[1], bits[0], quotient)), step.eq(step + 1)]
            with m.If(step == QUOTIENT // 2):
                m.d.sync += [running.eq(0), self.o.valid.eq(1)]
        with m.Elif(self.a.valid & self.a.ready):
            m.d.sync += [
                running.eq(1),
                step.eq(0),
                divisor.eq(a.mantissa),
                # A quotient below 1 counts from one binade lower.
                exponent.eq(2 * BIAS - a.exponent - a.mantissa.any()),
                zero.eq(a.exponent == 0),
            ]
        mantissa = Signal(MANTISSA)
        m.d.comb += [
            mantissa.eq(Mux(quotient[-1], quotient[2:-1] + quotient[1], quotient[1:-2] + quotient[0])),
            self.o.payload.eq(Mux(zero | (exponent < F32_MIN_EXPONENT), 0, Cat(mantissa, exponent[:8]))),
        ]
        return m
