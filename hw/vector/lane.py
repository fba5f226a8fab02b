"""Arithmetic of one vector element."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, enum, wiring
from amaranth.lib.wiring import In, Out

from ..float import FloatAdd, FloatMul, FloatToInt, IntToFloat
from ..float.format import pipelined
from .sigmoid import Sigmoid

__all__ = ["Gate", "Lane", "LaneControl", "ONE"]

#: 1.0 as bits.
ONE = 0x3F800000


class Gate(enum.Enum, shape=2):  # type: ignore[call-arg]  # amaranth has no type information
    """What the first product of a chained step is multiplied by."""

    #: ``factor``.
    FACTOR = 0
    #: Its own sigmoid.
    SIGMOID = 1
    #: Itself, or 0 where it is negative.
    RELU = 2
    #: The scratch data.
    SCRATCH = 3


def LaneControl() -> data.StructLayout:
    """Selections that all lanes share; each acts in the cycle that is given (see `hwgen.hw.vector.step`).

    HELD: ``dequantize`` takes accumulator and ``scale`` as the first operands, ``unscaled`` takes 1.0 for the
    parameter, ``square`` scratch twice as the second operands, ``second`` crosses the operands of a rotary pair,
    ``unrotated`` makes the second product 0. GATE: ``chain``, ``gate``. FIRST_PRODUCT: ``add_square``,
    ``add_rotated``, and with it ``minus``. SECOND_PRODUCT: ``add_chain``, and with it ``residual`` (the scratch data
    is added).
    """
    return data.StructLayout({
        "dequantize": 1, "unscaled": 1, "square": 1, "second": 1, "unrotated": 1,
        "chain": 1, "gate": Gate,
        "add_square": 1, "add_rotated": 1, "minus": 1,
        "add_chain": 1, "residual": 1,
    })  # fmt: skip


class Lane(wiring.Component):
    """Two multipliers, sigmoid and adder of one element; no stalls, no reset.

    ``scratch``, ``param`` memory data of a step; ``accumulator`` the integer, IntToFloat's latency before the hold
    register of ``scratch`` is full; ``scale``, ``factor`` float32 operands of all lanes; ``left``, ``right`` operands
    of the adder while no step uses it. ``product`` first product, ``total`` sum, ``quantized`` second product as
    int8.

    ::

        first  = a b           a = scratch | float(accumulator)    b = param | 1 | scale
        second = c d           short: c = scratch, d = scratch | param; chained: c = first, d = gate(first)
        total  = x +- y        x = left | first | second            y = right | second | scratch | 0

    A rotary pair (x1, x2), (cos, sin) comes as two successive steps: x1 and cos, then x2 and sin. The first gives
    x1 cos - x2 sin, the second x2 cos + x1 sin.
    """

    def __init__(self, acc_bits: int) -> None:
        self.acc_bits = acc_bits
        super().__init__({
            "control": In(LaneControl()),
            "scratch": In(32),
            "param": In(32),
            "accumulator": In(acc_bits),
            "scale": In(32),
            "factor": In(32),
            "left": In(32),
            "right": In(32),
            "product": Out(32),
            "total": Out(32),
            "quantized": Out(8),
        })  # fmt: skip

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.integer = integer = IntToFloat(self.acc_bits)
        m.submodules.first = first = FloatMul()
        m.submodules.sigmoid = sigmoid = Sigmoid()
        m.submodules.second = second = FloatMul()
        m.submodules.adder = adder = FloatAdd()
        m.submodules.quantizer = quantizer = FloatToInt(8)
        control = self.control

        held = pipelined(m, self.scratch, "held")
        held_param = pipelined(m, self.param, "held_param")
        m.d.comb += integer.i.eq(self.accumulator)

        a, b, c, d = (Signal(32, name=name, reset_less=True) for name in "abcd")
        m.d.sync += a.eq(Mux(control.dequantize, integer.o, held))
        with m.If(control.dequantize):
            m.d.sync += b.eq(self.scale)
        with m.Elif(control.unscaled):
            m.d.sync += b.eq(ONE)
        with m.Elif(~control.second):
            m.d.sync += b.eq(held_param)
        m.d.comb += [first.a.eq(a), first.b.eq(b), self.product.eq(first.o)]

        delayed = Signal(32 * Sigmoid.latency, reset_less=True)
        m.d.sync += delayed.eq(Cat(first.o, delayed))
        gated = delayed[-32:]
        m.d.comb += sigmoid.a.eq(first.o)

        with m.If(control.chain):
            m.d.sync += c.eq(gated)
        with m.Elif(control.second):
            m.d.sync += c.eq(a)
        with m.Elif(control.square):
            m.d.sync += c.eq(held)
        with m.Else():
            m.d.sync += c.eq(self.scratch)

        with m.If(control.chain), m.Switch(control.gate):
            with m.Case(Gate.FACTOR):
                m.d.sync += d.eq(self.factor)
            with m.Case(Gate.SIGMOID):
                m.d.sync += d.eq(sigmoid.o)
            with m.Case(Gate.RELU):
                m.d.sync += d.eq(Mux(gated[31], 0, gated))
            with m.Case(Gate.SCRATCH):
                m.d.sync += d.eq(held)
        with m.Elif(control.unrotated):
            m.d.sync += d.eq(0)
        with m.Elif(control.square):
            m.d.sync += d.eq(held)
        with m.Elif(~control.second):
            m.d.sync += d.eq(self.param)
        m.d.comb += [second.a.eq(c), second.b.eq(d), quantizer.a.eq(second.o), self.quantized.eq(quantizer.o)]

        x, y, minus = Signal(32, reset_less=True), Signal(32, reset_less=True), Signal(reset_less=True)
        m.d.sync += minus.eq(control.minus)
        with m.If(control.add_chain):
            m.d.sync += [x.eq(second.o), y.eq(Mux(control.residual, held, Const(0, 32)))]
        with m.Elif(control.add_rotated):
            m.d.sync += [x.eq(first.o), y.eq(second.o)]
        with m.Else():
            m.d.sync += [x.eq(self.left), y.eq(Mux(control.add_square, second.o, self.right))]
        m.d.comb += [adder.a.eq(x), adder.b.eq(y), adder.sub.eq(minus), self.total.eq(adder.o)]
        return m
