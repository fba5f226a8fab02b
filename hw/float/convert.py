"""Conversions between integers and floats."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ...rounding import ceil_div
from .format import BIAS, MANTISSA, normalize, pipelined, significand, unpack

__all__ = ["FloatToInt", "IntToFloat"]


class IntToFloat(wiring.Component):
    """``o`` = the number nearest to ``i * 2**-fraction``, ``i`` a signed integer of ``width`` bits (ties to even); a new one
    every cycle.

    No reset.

    Members
    -------
    i : In
        Sampled at one rising edge.
    o : Out(32)
        The result, from the ``latency``-th edge on, that one counted, for one cycle.
    """

    latency = 3

    def __init__(self, width: int, fraction: int = 0) -> None:
        if not isinstance(width, int) or not 2 <= width <= 64:
            raise ValueError(f"width must be 2 to 64, not {width!r}")
        if not isinstance(fraction, int) or not -64 <= fraction <= 64:
            raise ValueError(f"fraction must be -64 to 64, not {fraction!r}")
        self.width = width
        self.fraction = fraction
        super().__init__({"i": In(signed(width)), "o": Out(32)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        groups = ceil_div(self.width, 4)

        # 1: magnitude, at the top of whole groups of four bits
        magnitude = Signal(self.width)
        m.d.comb += magnitude.eq((self.i ^ self.i[-1].replicate(self.width)) + self.i[-1])
        aligned = Cat(Const(0, 4 * groups - self.width), magnitude)
        aligned1 = pipelined(m, aligned, "aligned1")
        occupied1 = pipelined(m, Cat(aligned[4 * k : 4 * k + 4].any() for k in range(groups)), "occupied1")
        sign1 = pipelined(m, self.i[-1], "sign1")

        # 2: leading one to the top
        shifted, zeros = normalize(m, aligned1, occupied1, "aligned1")
        shifted2 = pipelined(m, shifted, "shifted2")
        zeros2 = pipelined(m, zeros, "zeros2")
        sign2 = pipelined(m, sign1, "sign2")

        # 3: the number of leading zeros is taken from the exponent of 2^(width-1)
        digits = Cat(Const(0, max(0, MANTISSA + 3 - len(shifted2))), shifted2)  # with a bit to round by, and one below it
        kept = digits[-1 - MANTISSA : -1]
        below = digits[: -1 - MANTISSA]
        round_up = below[-1] & (below[:-1].any() | kept[0])
        rounded = Signal(MANTISSA + 8)
        m.d.comb += rounded.eq(Cat(kept, (BIAS + self.width - 1 - self.fraction - zeros2)[:8]) + round_up)
        m.d.comb += self.o.eq(pipelined(m, Mux(shifted2[-1], Cat(rounded, sign2), 0), "result3"))
        return m


class FloatToInt(wiring.Component):
    """``o = round(a * 2**fraction)``, ties to even, saturated to +-(2**(bits-1) - 1); a new one every cycle.

    No reset.

    ``fraction`` is a constant of the unit: how many of the result's bits lie behind the binary point.

    Members
    -------
    a : In(32)
        Sampled at one rising edge.
    o : Out
        The result, from the ``latency``-th edge on, that one counted, for one cycle.
    """

    latency = 3

    def __init__(self, bits: int, fraction: int = 0) -> None:
        if not isinstance(bits, int) or not 2 <= bits <= 32:
            raise ValueError(f"bits must be 2 to 32, not {bits!r}")
        if not isinstance(fraction, int) or not -64 <= fraction <= 64:
            raise ValueError(f"fraction must be -64 to 64, not {fraction!r}")
        self.bits = bits
        self.fraction = fraction
        super().__init__({"a": In(32), "o": Out(signed(bits))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        a = unpack(self.a)
        size = self.bits - 1  # of the magnitude

        # 1: with the leading one at the top of the magnitude, the significand must go right by `distance`
        distance = Signal(signed(10))
        m.d.comb += distance.eq(BIAS + size - 1 - self.fraction - a.exponent)
        limited = Signal(range(size + 2))
        m.d.comb += limited.eq(Mux(distance > size, size + 1, distance))
        distance1 = pipelined(m, limited, "distance1")
        too_large1 = pipelined(m, distance < 0, "too_large1")
        significand1 = pipelined(m, significand(a), "significand1")
        sign1 = pipelined(m, a.sign, "sign1")

        # 2: below the magnitude one bit to round by, and one that says whether anything lies lower still
        width = max(size, MANTISSA + 1) + 2
        placed = Cat(Const(0, width - MANTISSA - 1), significand1)
        kept = Signal(width)
        m.d.comb += kept.eq(placed >> distance1)
        cut = width - size - 1
        # of the bits below `cut` after the shift, those that were shifted out are counted too
        passed = Signal(width)
        m.d.comb += passed.eq(placed & ~(Const(-1 << cut, signed(width + 1)) << distance1)[:width])
        kept2 = pipelined(m, kept[cut:], "kept2")
        sticky2 = pipelined(m, passed.any(), "sticky2")
        too_large2 = pipelined(m, too_large1, "too_large2")
        sign2 = pipelined(m, sign1, "sign2")

        # 3: -(magnitude + up) = ~magnitude + 1 - up
        magnitude = kept2[1:] | too_large2.replicate(size)
        round_up = kept2[0] & (sticky2 | kept2[1]) & ~magnitude.all()
        signed_magnitude = Cat(magnitude, Const(0, 1)) ^ sign2.replicate(self.bits)
        result = Signal(signed(self.bits))
        m.d.comb += result.eq(signed_magnitude + (sign2 ^ round_up))
        m.d.comb += self.o.eq(pipelined(m, result, "result3"))
        return m
