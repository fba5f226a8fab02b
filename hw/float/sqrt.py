"""Iterative float square root."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .format import BIAS, MANTISSA, unpack

__all__ = ["FloatSqrt"]

#: Bits of the root: the significand and one to round.
ROOT = MANTISSA + 2


class FloatSqrt(wiring.Component):
    """``o = flush(sqrt(a))``, and 0 where ``a`` is 0 or negative; one operation at a time.

    Schoolbook root extraction: each cycle takes two bits of the radicand and gives one of the root. As in `FloatDiv` no
    remainder is needed for rounding: the square of a number halfway between two 24-bit numbers has more than 24 bits. A
    root is never too small or too large, and rounding never reaches the next power of two.

    Members
    -------
    start : In(1), a : In(32)
        ``a`` is sampled at a rising edge with ``start``. A ``start`` before ``done`` drops the running operation for the new one.
        Reset drops it too.
    done : Out(1)
        High for the one cycle that begins with the ``latency``-th edge, that one counted.
    o : Out(32)
        The result, from ``done`` until the next one.
    """

    latency = ROOT + 2

    def __init__(self) -> None:
        super().__init__({"start": In(1), "a": In(32), "o": Out(32), "done": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        a = unpack(self.a)

        radicand = Signal(MANTISSA + 2)  # two integer bits; what lies below is 0
        remainder = Signal(ROOT + 1)  # at most twice the root
        root = Signal(ROOT)
        steps = Signal(range(ROOT + 1))
        running = Signal()
        exponent = Signal(8)
        zero = Signal()

        do_step = Signal()
        do_finish = Signal()
        m.d.comb += [do_step.eq(running & (steps != 0)), do_finish.eq(running & (steps == 0))]

        trial = Signal(ROOT + 3)
        m.d.comb += trial.eq(Cat(radicand[-2:], remainder) - Cat(Const(1, 2), root))
        fits = ~trial[-1]
        with m.If(do_step):
            m.d.sync += [
                remainder.eq(Mux(fits, trial, Cat(radicand[-2:], remainder))),
                root.eq(Cat(fits, root)),
                radicand.eq(radicand << 2),
                steps.eq(steps - 1),
            ]

        m.d.sync += self.done.eq(do_finish & ~self.start)
        with m.If(do_finish & ~self.start):
            mantissa = (root[1:-1] + root[0])[:MANTISSA]
            m.d.sync += [self.o.eq(Mux(zero, 0, Cat(mantissa, exponent, Const(0, 1)))), running.eq(0)]

        with m.If(self.start):
            # e - BIAS is halved; where it is odd, the significand is doubled first: BIAS itself is odd
            even = a.exponent[0]
            doubled = Mux(even, Cat(a.mantissa, Const(1, 2)), Cat(Const(0, 1), a.mantissa, Const(1, 1)))
            m.d.sync += [
                radicand.eq(doubled),
                exponent.eq(a.exponent[1:] + even + BIAS // 2),
                zero.eq(a.sign | ~a.exponent.any()),
                remainder.eq(0),
                root.eq(0),
                steps.eq(ROOT),
                running.eq(1),
            ]
        return m
