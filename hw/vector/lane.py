"""Arithmetic of one vector element."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, ShapeLike, Signal, Value
from amaranth.lib import data, enum, wiring
from amaranth.lib.wiring import In, Out

from ...config import BuildConfig
from ...layout import lane_strides
from ..float.add import FloatAdd
from ..float.convert import FloatToInt, IntToFloat
from ..float.e4m3 import FloatToE4m3
from ..float.format import pipelined
from ..float.multiply import FloatMul
from .sigmoid import Sigmoid

__all__ = ["ONE", "Addend", "Gate", "Lane", "LaneControl", "Operand"]

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


class Addend(enum.Enum, shape=3):  # type: ignore[call-arg]  # amaranth has no type information
    """What the adder takes as its operands."""

    #: ``left`` and ``right``.
    COLUMNS = 0
    #: ``left``, and the right operand of the step before.
    COLUMNS_HELD = 1
    #: ``left`` and the second product.
    SQUARE = 2
    #: 0 and the second product.
    FIRST_SQUARE = 3
    #: The products.
    ROTATED = 4
    #: The second product and 0.
    CHAIN = 5
    #: The second product and the scratch data.
    RESIDUAL = 6


class Operand(enum.Enum, shape=2):  # type: ignore[call-arg]  # amaranth has no type information
    """What the first product is of. One of four takes no more look-up tables than one of two."""

    #: The scratch data.
    OWN = 0
    #: That of the lane a quarter of a vector away.
    NEAR = 1
    #: That of the lane half a vector away.
    FAR = 2
    #: The accumulator.
    ACCUMULATOR = 3


def LaneControl(config: BuildConfig) -> data.StructLayout:
    """Selections that all lanes share; each acts in the cycle that is given (see `hwgen.hw.vector.step`).

    HELD: ``dequantize`` takes accumulator and ``scale`` as the first operands, ``unscaled`` takes 1.0 for the
    ``unrotated`` makes the second product 0; with ``mixed`` it takes 1.0 as its second operand, and with ``halved`` the two take
    0.5 and -0.5. ``operand`` says of what the first product is; of a partner it has the sign of both, and the second product none.
    GATE - 1: ``gate``. GATE: ``chain``. FIRST_PRODUCT or SECOND_PRODUCT:
    ``addend``, and with the first ``minus``. QUANTIZED: ``e4m3`` takes e4m3 codes, not int8. The whole operator:
    ``row_scaled`` takes the parameter data for the row scales, not 1.0. The last two, ``mixed``, ``halved`` and
    ``operand`` only where there is a choice.
    """
    fields: dict[str, ShapeLike] = {
        "dequantize": 1, "unscaled": 1, "square": 1, "second": 1, "unrotated": 1,
        "chain": 1, "gate": Gate, "addend": Addend, "minus": 1,
    }
    if config.has_int4 or config.fp8_query:
        fields["e4m3"] = 1
    if config.has_int4 and config.has_ternary:
        fields["row_scaled"] = 1
    if config.int4_kv:
        fields |= {"mixed": 1, "halved": 1, "operand": Operand}
    return data.StructLayout(fields)


class Lane(wiring.Component):
    """Two multipliers, sigmoid and adder of one element; no stalls, no reset. A third multiplier with an INT4 engine.

    With an INT4 engine ``row`` is the float of the accumulator times its row scale, else the float itself. The integer
    and its row scale then come FloatMul's latency earlier: ``param`` one cycle before the float is there.

    ::

        row    = float(accumulator) [param | 1]
        first  = a b           a = scratch | row                   b = param | 1 | scale
        second = c d           short: c = scratch, d = scratch | param; chained: c = first, d = gate(first)
        total  = x +- y        x = left | first | second            y = right | second | scratch | 0

    A rotary pair (x1, x2), (cos, sin) comes as two successive steps: x1 and cos, then x2 and sin. The first gives
    x1 cos - x2 sin, the second x2 cos + x1 sin.

    Of a pair in one vector each lane has one element, and its partner's: x1 gives -x2 + x1, x2 gives x1 + x2, and with halves
    x2 / 2 + x1 / 2 and -x1 / 2 + x2 / 2.

    Members
    -------
    control : In(LaneControl)
    scratch, param : In(32)
        Memory data of a step.
    accumulator : In
        The integer, IntToFloat's latency before the hold register of ``scratch`` is full.
    scale, factor : In(32)
        float32 operands of all lanes.
    near, far : In(32), kept : Out(32)
        In builds with 4-bit keys: scratch data of the lanes a quarter and half a vector away, and of this one, in their hold
        registers.
    left, right : In(32)
        Operands of the adder from the column sums.
    product, total : Out(32), quantized : Out(8)
        First product; sum; second product as int8 or e4m3.
    """

    def __init__(self, config: BuildConfig, number: int) -> None:
        self.config, self.number = config, number
        super().__init__({
            "control": In(LaneControl(config)),
            "scratch": In(32),
            "param": In(32),
            "accumulator": In(config.result_bits),
            "scale": In(32),
            "factor": In(32),
            "left": In(32),
            "right": In(32),
            **({"near": In(32), "far": In(32), "kept": Out(32)} if config.int4_kv else {}),
            "product": Out(32),
            "total": Out(32),
            "quantized": Out(8),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        m.submodules.integer = integer = IntToFloat(config.result_bits)
        m.submodules.first = first = FloatMul()
        m.submodules.sigmoid = sigmoid = Sigmoid()
        m.submodules.second = second = FloatMul()
        m.submodules.adder = FloatAdd()
        m.submodules.quantizer = quantizer = FloatToInt(8)
        control = self.control

        held = pipelined(m, self.scratch, "held")
        held_param = pipelined(m, self.param, "held_param")
        m.d.comb += integer.i.eq(self.accumulator)

        a, b, c, d = (Signal(32, name=name, reset_less=True) for name in "abcd")
        row = integer.o
        if config.has_int4:
            m.submodules.row = row_product = FloatMul()
            scaled = Mux(control.row_scaled, held_param, ONE) if config.has_ternary else held_param
            m.d.comb += [row_product.a.eq(integer.o), row_product.b.eq(scaled)]
            row = row_product.o
        m.d.sync += a.eq(self._operand(m, row, held) if config.int4_kv else Mux(control.dequantize, row, held))
        with m.If(control.dequantize):
            m.d.sync += b.eq(self.scale)
        with m.Elif(control.unscaled):
            m.d.sync += b.eq(ONE)
            if config.int4_kv:
                m.d.sync += [b[23].eq(~control.halved), b[31].eq(self._partner_sign())]  # 0.5
        with m.Elif(~control.second):
            m.d.sync += b.eq(held_param)
        m.d.comb += [first.a.eq(a), first.b.eq(b), self.product.eq(first.o)]

        gated, gate = self._gate(m, first.o, sigmoid)

        with m.If(control.chain):
            m.d.sync += c.eq(gated)
        with m.Elif(control.second):
            m.d.sync += c.eq(a)
        with m.Elif(control.square):
            m.d.sync += c.eq(held)
        with m.Else():
            m.d.sync += c.eq(self.scratch)

        with m.If(control.chain):
            m.d.sync += d.eq(gate)
        with m.Elif(control.unrotated):
            m.d.sync += d.eq(0)
            if config.int4_kv:
                with m.If(control.mixed):
                    negative = control.halved & (control.operand == Operand.OWN)
                    m.d.sync += [d.eq(ONE), d[23].eq(~control.halved), d[31].eq(negative)]
        with m.Elif(control.square):
            m.d.sync += d.eq(held)
        with m.Elif(~control.second):
            m.d.sync += d.eq(self.param)
        m.d.comb += [second.a.eq(c), second.b.eq(d), quantizer.a.eq(second.o), self.quantized.eq(quantizer.o)]
        if config.has_int4 or config.fp8_query:
            m.submodules.e4m3 = e4m3 = FloatToE4m3()
            m.d.comb += e4m3.a.eq(second.o)
            with m.If(control.e4m3):
                m.d.comb += self.quantized.eq(e4m3.o)

        self._add(m, held, first.o, second.o)
        return m

    def _operand(self, m: Module, row: Value, held: Value) -> Value:
        """What the first product is of."""
        operand = Signal(32)
        m.d.comb += self.kept.eq(held)
        with m.Switch(self.control.operand):
            for choice, value in (
                (Operand.OWN, held), (Operand.NEAR, self.near), (Operand.FAR, self.far), (Operand.ACCUMULATOR, row),
            ):
                with m.Case(choice):
                    m.d.comb += operand.eq(value)
        return operand

    def _partner_sign(self) -> Value:
        """Whether the partner is subtracted: the second of a pair from the first; with halves the first from the second."""
        control = self.control
        return Cat(
            (control.operand == choice) & (control.halved == self.number // distance % 2)
            for choice, distance in zip((Operand.NEAR, Operand.FAR), lane_strides(self.config), strict=True)
        ).any()

    def _gate(self, m: Module, product: Value, sigmoid: Sigmoid) -> tuple[Value, Value]:
        """The first product, and what it is multiplied by: factor, sigmoid or ReLU of itself, or scratch data."""
        control = self.control
        delayed = Signal(32 * Sigmoid.latency, reset_less=True)
        m.d.sync += delayed.eq(Cat(product, delayed))
        ungated = delayed[-32:]
        gated = pipelined(m, ungated, "gated")
        m.d.comb += sigmoid.a.eq(product)
        gate = Signal(32, reset_less=True)
        with m.Switch(control.gate):
            with m.Case(Gate.FACTOR):
                m.d.sync += gate.eq(self.factor)
            with m.Case(Gate.SIGMOID):
                m.d.sync += gate.eq(sigmoid.o)
            with m.Case(Gate.RELU):
                m.d.sync += gate.eq(ungated)
            with m.Case(Gate.SCRATCH):
                m.d.sync += gate.eq(self.scratch)
        with m.If((control.gate == Gate.RELU) & ungated[31]):
            m.d.sync += gate.eq(0)
        return gated, gate

    def _add(self, m: Module, held: Value, first: Value, second: Value) -> None:
        """Operands of the adder, of the two products, the scratch data that is held, and the column sums."""
        control, adder = self.control, m.submodules.adder
        x, y, minus = Signal(32, reset_less=True), Signal(32, reset_less=True), Signal(reset_less=True)
        m.d.sync += minus.eq(control.minus)
        with m.Switch(control.addend):
            with m.Case(Addend.CHAIN, Addend.RESIDUAL):
                m.d.sync += x.eq(second)
            with m.Case(Addend.ROTATED):
                m.d.sync += x.eq(first)
            with m.Case(Addend.FIRST_SQUARE):
                m.d.sync += x.eq(0)
            with m.Default():
                m.d.sync += x.eq(self.left)
        with m.Switch(control.addend):
            with m.Case(Addend.SQUARE, Addend.FIRST_SQUARE, Addend.ROTATED):
                m.d.sync += y.eq(second)
            with m.Case(Addend.CHAIN):
                m.d.sync += y.eq(0)
            with m.Case(Addend.RESIDUAL):
                m.d.sync += y.eq(held)
            with m.Case(Addend.COLUMNS):
                m.d.sync += y.eq(self.right)
        m.d.comb += [adder.a.eq(x), adder.b.eq(y), adder.sub.eq(minus), self.total.eq(adder.o)]
