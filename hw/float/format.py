"""The number format of the float units, and the steps that several of them share."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Shape, Signal, Value, ValueLike, unsigned
from amaranth.lib import data

from ...numerics import F32_MAX_BITS, F32_MIN_EXPONENT

__all__ = ["BIAS", "EXPONENT", "F32_MAX_EXPONENT", "FLOAT32", "MANTISSA", "normalize", "pack", "pipelined", "significand", "unpack"]

#: Exponent field of 1.0.
BIAS = 127

#: Stored bits of the mantissa; the significand has a leading one more.
MANTISSA = 23

#: Exponent field of the largest number.
F32_MAX_EXPONENT = F32_MAX_BITS >> MANTISSA

#: Exponents of results before they are held against the range.
EXPONENT = Shape(10, signed=True)

FLOAT32 = data.StructLayout({"mantissa": unsigned(MANTISSA), "exponent": unsigned(8), "sign": unsigned(1)})


def unpack(bits: ValueLike) -> data.View:
    """The fields of a number."""
    return data.View(FLOAT32, bits)


def significand(number: data.View) -> Value:
    """24 bits: the leading one, which zero does not have, and the mantissa."""
    return Cat(number.mantissa, number.exponent.any())


def pack(sign: ValueLike, exponent: Value, mantissa: ValueLike, zero: ValueLike) -> Value:
    """Bits of a rounded result: +0 if ``zero`` or ``exponent`` (signed) is below the range, +-MAX if it is above."""
    too_small = zero | (exponent < F32_MIN_EXPONENT)
    too_large = exponent >= F32_MAX_EXPONENT + 1
    number = Mux(too_large, Const(F32_MAX_BITS, 31), Cat(mantissa, exponent[:8]))
    return Mux(too_small, 0, Cat(number, sign))


def pipelined(m: Module, value: Value, name: str) -> Signal:
    """``value`` of the cycle before, in a register without reset."""
    register = Signal(value.shape(), name=name, reset_less=True)
    m.d.sync += register.eq(value)
    return register


def normalize(m: Module, value: Value, occupied: Value, name: str) -> tuple[Value, Value]:
    """Shift ``value`` left until its top bit is set: ``(shifted, count)``, the distance in bits. Combinational.

    ``occupied`` has one bit for each four bits of ``value`` (whose width is a multiple of four): whether any of the
    four is set, lowest first. The shift goes by whole groups, then by the leading zeros of the top group, so that about
    five LUTs are in series. A ``value`` of 0 stays 0, with a ``count`` of no meaning.
    """
    groups = len(value) // 4
    assert len(value) == 4 * groups and len(occupied) == groups
    coarse = Signal(range(max(groups, 2)), name=f"{name}_coarse")
    fine = Signal(2, name=f"{name}_fine")
    grouped = Signal(len(value), name=f"{name}_grouped")
    for k in range(groups):  # the highest occupied group is assigned last
        with m.If(occupied[k]):
            m.d.comb += coarse.eq(groups - 1 - k)
    m.d.comb += grouped.eq(value << Cat(Const(0, 2), coarse))
    with m.If(grouped[-1]):
        m.d.comb += fine.eq(0)
    with m.Elif(grouped[-2]):
        m.d.comb += fine.eq(1)
    with m.Elif(grouped[-3]):
        m.d.comb += fine.eq(2)
    with m.Else():
        m.d.comb += fine.eq(3)
    return (grouped << fine)[: len(value)], Cat(fine, coarse)
