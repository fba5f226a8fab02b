"""8-bit floats: floats to their codes, and codes to integers, since every finite value is a multiple of 2^-9."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ...numerics import E4M3_LARGEST
from .convert import FloatToInt
from .format import BIAS, MANTISSA, pipelined, unpack

__all__ = ["E4M3_BITS", "E4m3Integers", "FloatToE4m3", "e4m3_integer"]

#: Exponent field of a float32 below which e4m3 is subnormal (2^-6).
NORMAL = BIAS - 6

#: Stored bits of an e4m3 mantissa.
FRACTION = 3

#: Code of the largest finite value, 448; the one above is not a number.
LARGEST = 0x7E

#: Bits of a value as an integer, in units of 2^-9 (signed).
E4M3_BITS = E4M3_LARGEST.bit_length() + 1


class FloatToE4m3(wiring.Component):
    """``o`` = the 8-bit e4m3 code nearest to ``a``: ties to even mantissa, subnormals, saturated at +-448; what rounds
    to zero is +0 (0x00). A new one every cycle.

    No reset. The latency is that of `FloatToInt`: the two may stand side by side.

    ::

        1 range   below 2^-6 the significand must go right by one bit more for each binade, by five at most
        2 shift   the leading one and three bits, one to round by, and whether anything lies lower
        3 round   exponent field and mantissa in one carry chain; saturate

    Members
    -------
    a : In(32)
        Sampled at one rising edge.
    o : Out(8)
        The result, from the ``latency``-th edge on, that one counted, for one cycle.
    """

    latency = FloatToInt.latency

    def __init__(self) -> None:
        super().__init__({"a": In(32), "o": Out(8)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        a = unpack(self.a)

        # 1: four bits and one to round by are looked at; after five steps to the right none of them is left
        cut = MANTISSA - FRACTION - 1
        normal, too_small = Signal(), Signal()
        m.d.comb += [normal.eq(a.exponent >= NORMAL), too_small.eq(a.exponent < NORMAL - 4)]
        shift = Mux(normal, 0, Mux(too_small, 5, (NORMAL - a.exponent)[:3]))
        field = Mux(normal, (a.exponent - (NORMAL - 1))[:4], 0)
        shift1 = pipelined(m, shift, "shift1")
        field1 = pipelined(m, field, "field1")
        too_large1 = pipelined(m, a.exponent > NORMAL + 14, "too_large1")
        top1 = pipelined(m, a.mantissa[cut:], "top1")
        low1 = pipelined(m, a.mantissa[:cut].any(), "low1")
        sign1 = pipelined(m, a.sign, "sign1")

        # 2
        top = Cat(top1, Const(1, 1))
        kept, lost = Signal(len(top)), Signal()
        with m.Switch(shift1):
            for k in range(6):
                with m.Case(k):
                    m.d.comb += [kept.eq(top >> k), lost.eq(top[:k].any())]
        mantissa2 = pipelined(m, kept[1 : 1 + FRACTION], "mantissa2")
        round_up2 = pipelined(m, kept[0] & (kept[1] | lost | low1), "round_up2")
        field2 = pipelined(m, field1, "field2")
        too_large2 = pipelined(m, too_large1, "too_large2")
        sign2 = pipelined(m, sign1, "sign2")

        # 3: a carry out of the mantissa is the next binade, whose mantissa is 0
        code = Cat(mantissa2, field2)
        rounded = Signal(7)
        saturated = Signal()
        m.d.comb += [rounded.eq(code + round_up2), saturated.eq(too_large2 | code[1:].all())]
        sign = sign2 & (code.any() | round_up2 | too_large2)
        result = Cat(Mux(saturated, Const(LARGEST, 7), rounded), sign)
        m.d.comb += self.o.eq(pipelined(m, result, "result3"))
        return m


def e4m3_integer(code: Value) -> Value:
    """The integer of 8 bits ``code``, signed, `E4M3_BITS`, in the same cycle; -0 is 0. `E4m3Integers` takes three."""
    mantissa, exponent, sign = code[:3], code[3:7], code[7]
    normal = exponent.any()
    # Negated before the shift, where it is short. Subnormals have the exponent 1.
    magnitude = Cat(mantissa, normal)
    significand = Mux(sign, -magnitude, magnitude)
    shift = Cat(exponent[0] | ~normal, exponent[1:])
    return (significand << shift)[1:].as_signed()


class E4m3Integers(wiring.Component):
    """Values in units of 2^-9 of ``count`` codes, one set a cycle.

    ::

        cycle   0                     1                  2
                signed mantissa,      shift by 0..3      shift by 0, 4, 8, 12
                shift

    Members
    -------
    codes : In
        Code 0x80 is 0; what NaN codes give is not defined.
    integers : Out
        `E4M3_BITS` bits each, `LATENCY` cycles later.
    """

    #: Cycles from ``codes`` to ``integers``.
    LATENCY = 3

    def __init__(self, count: int) -> None:
        if count < 1:
            raise ValueError(f"count must be at least 1, not {count!r}")
        self.count = count
        super().__init__({"codes": In(8 * count), "integers": Out(E4M3_BITS * count)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for i in range(self.count):
            code = self.codes.word_select(i, 8)
            field = code[3:7]
            mantissa = Signal(signed(5), name=f"mantissa_{i}", reset_less=True)
            shift = Signal(4, name=f"shift_{i}", reset_less=True)
            magnitude = Cat(code[:3], field != 0)
            m.d.sync += [mantissa.eq(Mux(code[7], -magnitude, magnitude)), shift.eq(Mux(field == 0, 0, field - 1))]
            near = Signal(signed(8), name=f"near_{i}", reset_less=True)
            far = Signal(2, name=f"far_{i}", reset_less=True)
            m.d.sync += [near.eq(mantissa << shift[:2]), far.eq(shift[2:])]
            # Any bit of the result is one of at most two of ``near``, its sign, or zero.
            value = Signal(signed(E4M3_BITS), name=f"value_{i}")
            with m.Switch(far):
                for k in range(4):
                    with m.Case(k):
                        m.d.comb += value.eq(Cat(Const(0, 4 * k), near).as_signed())
            m.d.sync += self.integers.word_select(i, E4M3_BITS).eq(value)
        return m
