"""Digits in base 3 become one integer."""

from __future__ import annotations

from amaranth.hdl import Module, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ...config import TRITS_PER_BYTE, BuildConfig
from ..float.format import pipelined
from ..multiply_add import MultiplyAccumulate

__all__ = ["WEIGHT_BITS", "DigitSum"]

#: Bits of the weight of a row's highest digit.
WEIGHT_BITS = (3 ** (TRITS_PER_BYTE - 1)).bit_length()


class DigitSum(wiring.Component):
    """``total = total + weight * digit``, or ``weight * digit`` where it is the first: of the accumulators of a row's digits, which
    come in successive cycles, that of the row is made. No reset.

    ::

        1 take      digit and weight
        2 multiply
        3 add       to the sum of the digits before

    Accumulators that are wider than those of digits pass beside the DSP slice, where they are no digits.

    Members
    -------
    first : In(1), weight : In
        The digit of the next cycle is a first one, and what it counts: 1, or a power of 3.
    digit : In(acc_bits)
    total : Out(result_bits)
        `latency` cycles later.
    """

    latency = 3

    def __init__(self, config: BuildConfig) -> None:
        self.config = config
        super().__init__({
            "first": In(1),
            "weight": In(WEIGHT_BITS),
            "digit": In(signed(config.acc_bits)),
            "total": Out(signed(config.result_bits)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        m.submodules.multiply_add = slice_ = MultiplyAccumulate()
        first, weight = pipelined(m, self.first, "first0"), pipelined(m, self.weight, "weight0")
        m.d.comb += [
            slice_.a.eq(self.digit[: config.digit_bits].as_signed()), slice_.b.eq(weight),
            slice_.first.eq(pipelined(m, first, "first1")), self.total.eq(slice_.result[: config.result_bits].as_signed()),
        ]
        if config.acc_bits > config.digit_bits:
            plain, digit = first & (weight == 1), self.digit
            for stage in range(DigitSum.latency):
                plain, digit = pipelined(m, plain, f"plain{stage}"), pipelined(m, digit, f"digit{stage}")
            with m.If(plain):
                m.d.comb += self.total.eq(digit.as_signed())
        return m
