"""e4m3 codes to integers: every finite value is a multiple of 2^-9."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["INTEGER_BITS", "E4m3Integers"]

#: Bits of a value in units of 2^-9 (signed): at most 229376.
INTEGER_BITS = 19


class E4m3Integers(wiring.Component):
    """Values in units of 2^-9 of ``count`` codes, one set a cycle.

    ::

        cycle   0                     1                  2
                signed mantissa,      shift by 0..3      shift by 0, 4, 8, 12
                shift

    Members: ``codes``: In; ``integers``: Out, `INTEGER_BITS` bits each, `LATENCY` cycles later. Code 0x80 is 0; what NaN codes
    give is not defined.
    """

    #: Cycles from ``codes`` to ``integers``.
    LATENCY = 3

    def __init__(self, count: int) -> None:
        if count < 1:
            raise ValueError(f"count must be at least 1, not {count!r}")
        self.count = count
        super().__init__({"codes": In(8 * count), "integers": Out(INTEGER_BITS * count)})

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
            value = Signal(signed(INTEGER_BITS), name=f"value_{i}")
            with m.Switch(far):
                for k in range(4):
                    with m.Case(k):
                        m.d.comb += value.eq(Cat(Const(0, 4 * k), near).as_signed())
            m.d.sync += self.integers.word_select(i, INTEGER_BITS).eq(value)
        return m
