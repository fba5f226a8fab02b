"""Pipelined float adder."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ...numerics import F32_MAX_BITS, F32_MIN_EXPONENT
from .format import F32_MAX_EXPONENT, MANTISSA, normalize, pipelined, significand, unpack

__all__ = ["FloatAdd"]

#: Exponents of more bits than these are larger than any number of leading zeros.
SHORT = 5


class FloatAdd(wiring.Component):
    """``o = flush(a + b)``, or ``flush(a - b)`` with ``sub``; a new operation every cycle.

    No reset: after power-up ``o`` has no meaning for ``latency`` cycles. Tie ``sub`` to a constant and its logic vanishes.

    ::

        1 compare   larger and smaller magnitude, distance of their exponents
        2 align     smaller significand >> distance, lost bits kept as one sticky bit
        3 add       larger +- smaller in 24 bits + guard, round, sticky
        4 normalize leading one to the top
        5 round     to 24 bits, exponent less the leading zeros in the same carry chain; flush or saturate

    Members
    -------
    a, b : In(32), sub : In(1)
        Sampled at one rising edge.
    o : Out(32)
        The result, from the ``latency``-th edge on, that one counted, for one cycle.
    """

    latency = 5

    def __init__(self) -> None:
        super().__init__({"a": In(32), "b": In(32), "sub": In(1), "o": Out(32)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        a, b = unpack(self.a), unpack(self.b)
        b_sign = b.sign ^ self.sub

        # 1: magnitudes compare like integers
        b_larger = Signal()
        m.d.comb += b_larger.eq(self.b[:31] > self.a[:31])
        distance = Mux(b_larger, (b.exponent - a.exponent)[:8], (a.exponent - b.exponent)[:8])
        sign1 = pipelined(m, Mux(b_larger, b_sign, a.sign), "sign1")
        differ1 = pipelined(m, a.sign ^ b_sign, "differ1")
        exponent1 = pipelined(m, Mux(b_larger, b.exponent, a.exponent), "exponent1")
        larger1 = pipelined(m, Mux(b_larger, significand(b), significand(a)), "larger1")
        smaller1 = pipelined(m, Mux(b_larger, significand(a), significand(b)), "smaller1")
        distance1 = pipelined(m, distance, "distance1")

        # 2: three bits below the significand suffice; a distance above 31 leaves nothing but the sticky bit, as 31 does
        shift = Signal(5)
        m.d.comb += shift.eq(distance1[:5] | distance1[5:].any().replicate(5))
        fine = Signal(27)
        m.d.comb += fine.eq(Cat(Const(0, 3), smaller1) >> shift[:2])
        aligned = Signal(27)
        m.d.comb += aligned.eq(fine >> Cat(Const(0, 2), shift[2:]))
        lost = Signal()
        m.d.comb += lost.eq(Cat(fine[4 * k : 4 * k + 4].any() & (shift[2:] > k) for k in range(7)).any())
        sign2 = pipelined(m, sign1, "sign2")
        differ2 = pipelined(m, differ1, "differ2")
        exponent2 = pipelined(m, exponent1, "exponent2")
        larger2 = pipelined(m, larger1, "larger2")
        aligned2 = pipelined(m, Cat(aligned[0] | lost, aligned[1:]), "aligned2")

        # 3: the bit appended on the right carries the +1 of the two's complement into one adder
        total = Signal(28)
        addend = Cat(aligned2, Const(0, 1)) ^ differ2.replicate(28)
        m.d.comb += total.eq((Cat(differ2, Const(0, 3), larger2, Const(0, 1)) + Cat(differ2, addend))[1:])
        sign3 = pipelined(m, sign2, "sign3")
        exponent3 = pipelined(m, exponent2, "exponent3")
        total3 = pipelined(m, total, "total3")
        occupied3 = pipelined(m, Cat(total[4 * k : 4 * k + 4].any() for k in range(7)), "occupied3")

        # 4
        shifted, zeros = normalize(m, total3, occupied3, "total3")
        sign4 = pipelined(m, sign3, "sign4")
        exponent4 = pipelined(m, (exponent3 + 2)[:8], "exponent4")
        zeros4 = pipelined(m, zeros, "zeros4")
        shifted4 = pipelined(m, shifted, "shifted4")
        largest4 = pipelined(m, exponent3 == F32_MAX_EXPONENT, "largest4")
        safe4 = pipelined(m, exponent3[SHORT:].any(), "safe4")

        # 5: exponent3 + 1 - zeros = exponent4 + ~zeros; the rounding increment enters at the very right
        kept = shifted4[4:27]
        round_up = shifted4[3] & (shifted4[:3].any() | kept[0])
        rounded = Signal(MANTISSA + 8)
        no_zeros = ~Cat(zeros4, Const(0, 8 - len(zeros4)))
        operands = Cat(Const(1, 1), kept, exponent4), Cat(round_up, Const(0, MANTISSA), no_zeros)
        m.d.comb += rounded.eq((operands[0] + operands[1])[1:])
        exponent = rounded[MANTISSA:]
        # From the largest exponent a carry leads to one more, or rounding does. (A sum with a carry is not rounded up to the next
        # power of two: at most it is twice a number.)
        too_large = largest4 & (zeros4 <= 1) & exponent[0]
        # Below 2^SHORT the exponent can become too small, or negative: at most 27 zeros leave bit SHORT + 1 clear otherwise.
        too_small = ~safe4 & (exponent[SHORT + 1] | (exponent[: SHORT + 1] < F32_MIN_EXPONENT))
        number = Mux(too_large, Const(F32_MAX_BITS, 31), rounded)
        result = Mux(too_small | ~shifted4[27], 0, Cat(number, sign4))
        m.d.comb += self.o.eq(pipelined(m, result, "result5"))
        return m
