"""Digits in base 3 become one integer."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ...config import BuildConfig

__all__ = ["DigitSum"]


class DigitSum(wiring.Component):
    """``total = 3 * total + digit``, or ``digit`` where it is the first: of the accumulators of a row's digits, which come in
    successive cycles, the highest first, that of the row is made. No reset.

    ::

        total + 2 total + digit:  a level of full adders, then one carry chain

    Members
    -------
    first : In(1)
        The digit of the next cycle is a first one.
    digit : In(acc_bits)
    total : Out(result_bits)
        `latency` cycles later.
    """

    latency = 1

    def __init__(self, config: BuildConfig) -> None:
        self.config = config
        super().__init__({"first": In(1), "digit": In(signed(config.acc_bits)), "total": Out(signed(config.result_bits))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bits = self.config.result_bits
        first, joined = Signal(), Signal(signed(bits), reset_less=True)
        m.d.sync += first.eq(self.first)
        digit, once = Signal(bits), Signal(bits)
        m.d.comb += [digit.eq(self.digit), once.eq(Mux(first, 0, joined)), self.total.eq(joined)]
        twice = Cat(0, once)[:bits]
        carries = (digit & once) | (digit & twice) | (once & twice)
        m.d.sync += joined.eq((digit ^ once ^ twice) + Cat(0, carries)[:bits])
        return m
