"""The float adder against the sum of two integers, rounded: golden's formulation without float arithmetic."""

from __future__ import annotations

from amaranth.asserts import AnyConst
from amaranth.hdl import Assert, Assume, Cat, Const, Cover, Module, Mux, Signal, Value

from hwgen.hw.float.add import FloatAdd
from hwgen.hw.float.format import unpack
from hwgen.numerics import F32_MAX_BITS, F32_MIN_EXPONENT

from .prover import Bench

__all__ = ["Add"]

#: Exponents of a number that is not zero: those of contract values.
FIRST, LAST = F32_MIN_EXPONENT, F32_MAX_BITS >> 23


class Add(Bench):
    """Any sum and difference of two numbers of the contract whose exponents are among ``span`` from ``first`` on, zeros included:
    both are integers times 2 ** (first - 150), so their sum is one, and rounding it to nearest even is the result.
    """

    def __init__(self, first: int, span: int) -> None:
        self.first, self.span = first, span

    def environment(self, m: Module) -> None:
        m.submodules.dut = dut = FloatAdd()
        a, b, sub = AnyConst(32), AnyConst(32), AnyConst(1)
        m.d.comb += [dut.a.eq(a), dut.b.eq(b), dut.sub.eq(sub)]
        since = Signal(range(dut.latency + 1))
        with m.If(since < dut.latency):
            m.d.sync += since.eq(since + 1)
        for number in (a, b):
            exponent = unpack(number).exponent
            inside = (exponent >= self.first) & (exponent < self.first + self.span) & (exponent <= LAST)
            m.d.comb += Assume((number == 0) | inside)
        expected = Signal(32)
        m.d.comb += expected.eq(self.sum(m, a, b, sub))
        ready = since == dut.latency
        m.d.comb += [
            Assert(~ready | (dut.o == expected)), Cover(ready & (dut.o == 0) & (a != 0)),
            Cover(ready & (unpack(dut.o).exponent == self.first + self.span)),
        ]

    def integer(self, number: Value) -> Value:
        """Magnitude as a multiple of the last place of the smallest exponent."""
        fields = unpack(number)
        shift = Mux(number == 0, 0, fields.exponent - self.first)[: (self.span - 1).bit_length()]
        return Cat(fields.mantissa, number != 0) << shift

    def sum(self, m: Module, a: Value, b: Value, sub: Value) -> Value:
        """Bits of the rounded sum."""
        signs = unpack(a).sign, unpack(b).sign ^ sub
        bits = 24 + self.span
        terms = [Signal(range(-(1 << bits), 1 << bits), name=f"term{i}") for i in range(2)]
        for term, number, sign in zip(terms, (a, b), signs, strict=True):
            magnitude = self.integer(number)
            m.d.comb += term.eq(Mux(sign, -magnitude, magnitude))
        total, size = Signal(range(-(2 << bits), 2 << bits)), Signal(bits + 1)
        m.d.comb += [total.eq(terms[0] + terms[1]), size.eq(Mux(total < 0, -total, total))]
        rounded = Signal(31)
        for top in range(bits + 1):  # the highest set bit decides: the last one holds
            with m.If(size[top]):
                m.d.comb += rounded.eq(self.rounded(size, top))
        large = rounded > F32_MAX_BITS
        small = rounded < (F32_MIN_EXPONENT << 23)
        return Mux((size == 0) | small, 0, Cat(Mux(large, Const(F32_MAX_BITS, 31), rounded), total < 0))

    def rounded(self, size: Value, top: int) -> Value:
        """Exponent and mantissa of ``size``, whose highest set bit is ``top``, to nearest even; one too many carries into the
        exponent.
        """
        exponent = Const(max(0, self.first + top - 23), 9)
        if top <= 23:
            return Cat((size << (23 - top))[:23], exponent)
        kept, guard, rest = size[top - 23 : top], size[top - 24], size[: top - 24].any()
        return Cat(kept, exponent) + (guard & (rest | kept[0]))
