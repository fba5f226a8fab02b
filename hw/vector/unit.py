"""The vector unit: NORM, DRAIN and ROPE."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ...config import BuildConfig
from ...descriptors import Buffers, Flag, Format, Opcode
from ...layout import lane_strides
from ...numerics import four_bit_table
from ..interfaces import (
    AccumulatorRead,
    ActivationWrite,
    KvScaleWrite,
    KvWrite,
    MemoryRead,
    MemoryWrite,
    Operator,
    QueryScaleWrite,
    QueryWrite,
    TableRead,
)
from ..lookup import looked_up
from .columns import ColumnSum
from .digits import DigitSum
from .drain import DrainSteps
from .lane import ONE, Addend, Gate, Lane, LaneControl, Operand
from .norm import NormSteps
from .peak import Peak
from .rope import RopeSteps
from .scales import E4M3_FORMATS, HeadName, Scales, formats_of
from .step import CHAIN_SUM, FIRST_PRODUCT, GATE, HELD, QUANTIZED, SECOND_PRODUCT, SHORT_SUM, Kind, Strobes, Tag

__all__ = ["VectorUnit"]


class Pipeline:
    """The steps on their way, and what the operator wants of them.

    ``strobes``, ``tags``: position k of the pipeline is k cycles after the address is on the memory bus. ``formats`` is a cycle
    behind the operator, before its first step, and so are ``partners`` (with 4-bit caches): pairs
    lie in one vector, a quarter or half of it apart.
    """

    def __init__(self, config: BuildConfig, descriptor: data.View) -> None:
        self.flags = {flag: (descriptor.flags & flag).any() for flag in Flag if flag}
        self.formats = Signal(8, reset_less=True)
        if config.int4_kv:
            self.partners = Signal(name="near", reset_less=True), Signal(name="far", reset_less=True)
        self.strobes = [Signal(Strobes(), name=f"strobes_{k}") for k in range(CHAIN_SUM + 1)]
        self.tags = [Signal(Tag(config), name=f"tag_{k}", reset_less=True) for k in range(CHAIN_SUM + 1)]

    def has(self, format: Format) -> Value:
        return (self.formats & format).any()


class VectorUnit(wiring.Component):
    """NORM, DRAIN and ROPE of the numerics contract, ``config.width`` elements a cycle.

    Memories answer after the latencies of `hwgen.hw.interfaces`; nothing stalls.

    The scales of the tokens, which NORM computes and DRAIN uses, stay inside. NORM ends when its activations are
    written: the last scale may follow up to about 150 cycles later, and the next operator of this unit waits for it.
    With TO_QUERY it is written before ``done``.

    Number formats (`Format`) that the build does not have are ignored.

    Steps (see `step.py`) come from one of three state machines, travel down a pipeline of fixed length beside the
    lanes' data, and act where they pass::

        steps | request | hold | operands | * | gate | * | + | write
                                            |-> maximum -> Scales -> factor, scales
                                        squares + ColumnSum

    Members
    -------
    op : In(Operator), start : In(1)
        Strobe with one of the three in ``op``, which must be stable until ``done``; other opcodes are ignored.
    done : Out(1)
        Strobe, at least one cycle after the operator's last write.
    scratch_read, param_read : Out(MemoryRead), scratch_write : Out(MemoryWrite)
    accumulator : Out(AccumulatorRead), activation : Out(ActivationWrite)
    want : Out(TableRead)
        Wanted tokens by number.
    lists_busy : In(1)
        Short lists or candidates are not ready for another token's results.
    room : In(1), begin : Out(1)
        Of DRAIN with CANDIDATES, see `DrainSteps`.
    query : Out(QueryWrite), query_scale : Out(QueryScaleWrite)
    kv : Out(KvWrite), kv_scale : Out(KvScaleWrite)
    """

    def __init__(self, config: BuildConfig) -> None:
        self.config = config
        ColumnSum.ways_of(config)  # refuses vectors that are too wide
        vector_bits = 32 * config.width
        super().__init__({
            "op": In(Operator(config)),
            "start": In(1),
            "done": Out(1),
            "scratch_read": Out(MemoryRead(config.scratch_vectors, vector_bits)),
            "scratch_write": Out(MemoryWrite(config.scratch_vectors, vector_bits)),
            "param_read": Out(MemoryRead(config.param_vectors, vector_bits)),
            "accumulator": Out(AccumulatorRead(config)),
            "activation": Out(ActivationWrite(config)),
            "want": Out(TableRead(config.chunk)),
            "lists_busy": In(1),
            "room": In(1),
            "begin": Out(1),
            "query": Out(QueryWrite(config)),
            "query_scale": Out(QueryScaleWrite(config)),
            "kv": Out(KvWrite(config)),
            "kv_scale": Out(KvScaleWrite(config)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        m.submodules.columns = ColumnSum(config)
        m.submodules.norm = NormSteps(config)
        m.submodules.drain = DrainSteps(config)
        m.submodules.rope = RopeSteps(config)
        m.submodules.scales = Scales(config)
        m.submodules.peak = Peak(config.width, HeadName(config).size)
        steps = Pipeline(config, self.op.descriptor)
        m.d.sync += steps.formats.eq(self.op.descriptor.format & (formats_of(config) | Format.PLAIN))
        if config.int4_kv:
            mixed = (self.op.descriptor.format & (Format.MIX | Format.UNMIX)).any()
            m.d.sync += [
                found.eq(mixed & (self.op.descriptor.param == distance))
                for found, distance in zip(steps.partners, lane_strides(config), strict=True)
            ]
        self._connect_generators(m, steps)
        self._request_operands(m, steps)
        control, factor = self._control_lanes(m, steps)
        products, totals, quantized = self._connect_lanes(m, control, factor)
        self._sum_columns(m, steps, totals)
        self._measure(m, steps, products, totals)
        self._connect_scales(m, steps)
        self._write_scratch(m, steps, totals)
        self._connect_quantized(m, steps, Cat(quantized))
        return m

    def _connect_generators(self, m: Module, steps: Pipeline) -> None:
        """The generator of the operator feeds the pipeline; ``drained`` tells it that its last result has left."""
        op, descriptor = self.op, self.op.descriptor
        columns, scales = m.submodules.columns, m.submodules.scales
        generators = (
            (Opcode.NORM, m.submodules.norm), (Opcode.DRAIN, m.submodules.drain), (Opcode.ROPE, m.submodules.rope),
        )
        with m.Switch(descriptor.opcode):
            for opcode, generator in generators:
                with m.Case(opcode):
                    m.d.sync += [steps.strobes[0].eq(generator.step.strobes), steps.tags[0].eq(generator.step.tag)]
        for k in range(CHAIN_SUM):
            m.d.sync += [steps.strobes[k + 1].eq(steps.strobes[k]), steps.tags[k + 1].eq(steps.tags[k])]
        drained = Signal()
        m.d.comb += drained.eq(
            (steps.strobes[QUANTIZED].quantize & steps.tags[QUANTIZED].final)
            | ((steps.strobes[CHAIN_SUM].drain | steps.strobes[CHAIN_SUM].store) & steps.tags[CHAIN_SUM].final)
            | (steps.strobes[SHORT_SUM].rotate & steps.tags[SHORT_SUM].final & steps.flags[Flag.STORE])
        )
        for _, generator in generators:
            wiring.connect(m, wiring.flipped(op), generator.op)
            m.d.comb += [
                generator.start.eq(self.start),
                generator.drained.eq(drained),
                generator.sums_busy.eq(columns.busy),
                generator.scales_busy.eq(scales.busy),
            ]
        wiring.connect(m, wiring.flipped(self.want), m.submodules.norm.want)
        drain = m.submodules.drain
        m.d.comb += [drain.lists_busy.eq(self.lists_busy), drain.room.eq(self.room), self.begin.eq(drain.begin)]
        m.d.comb += self.done.eq(Cat(generator.done for _, generator in generators).any())

    def _request_operands(self, m: Module, steps: Pipeline) -> None:
        """Addresses of scratch, parameters and accumulators. DRAIN reads the scratch late, when its data meets the product
        (MULTIPLY) or the sum (ADD)."""
        op, descriptor, drain = self.op, self.op.descriptor, m.submodules.drain
        late_multiply = GATE - HELD
        late_add = SECOND_PRODUCT - HELD
        m.d.comb += [
            self.scratch_read.addr.eq(steps.tags[0].source), self.scratch_read.en.eq(steps.strobes[0].as_value().any()),
            # Row scales are read before their step.
            self.param_read.addr.eq(steps.tags[0].param), self.param_read.en.eq(1),
        ]
        with m.If(steps.strobes[late_multiply].drain & steps.flags[Flag.MULTIPLY]):
            m.d.comb += [self.scratch_read.addr.eq(steps.tags[late_multiply].source), self.scratch_read.en.eq(1)]
        with m.Elif(steps.strobes[late_add].drain & steps.flags[Flag.ADD]):
            m.d.comb += [self.scratch_read.addr.eq(steps.tags[late_add].source), self.scratch_read.en.eq(1)]
        m.d.comb += [
            self.accumulator.gang.eq(op.gang),
            self.accumulator.half.eq((descriptor.buffers & Buffers.ACCUMULATOR).any()),
            self.accumulator.token.eq(drain.token),
            self.accumulator.vector.eq(drain.vector),
        ]

    def _control_lanes(self, m: Module, steps: Pipeline) -> tuple[data.View, Signal]:
        """What all lanes do at every position of the pipeline, and the factor that they multiply by."""
        config, columns, scales = self.config, m.submodules.columns, m.submodules.scales
        held, product, gate, chained = (steps.strobes[at] for at in (HELD, FIRST_PRODUCT, GATE, SECOND_PRODUCT))
        held_kind = steps.tags[HELD].kind
        control = Signal(LaneControl(config))
        constant_row: Value = held_kind == Kind.VALUE
        squared, second, minus = held.sum, held.rotate & steps.tags[HELD].second, product.rotate & ~steps.tags[FIRST_PRODUCT].second
        if config.int4_kv:
            near, far = steps.partners
            turned = held.rotate & (held_kind != Kind.VALUE)
            partner = turned & (near | far)
            squared, second, minus = squared | partner, second & ~partner, minus & ~(near | far)
            mixed, halved = steps.has(Format.MIX | Format.UNMIX), steps.has(Format.UNMIX)
            constant_row |= mixed
            m.d.comb += [
                control.mixed.eq(mixed & (held_kind != Kind.VALUE)),
                control.halved.eq(turned & halved),
                control.operand.eq(Mux(partner, Mux(far, Operand.FAR, Operand.NEAR), Operand.OWN)),
            ]
            with m.If(held.drain):
                m.d.comb += control.operand.eq(Operand.ACCUMULATOR)
        m.d.comb += [
            control.dequantize.eq(held.drain),
            control.unscaled.eq((held.quantize & (held_kind != Kind.TOKEN)) | (held.rotate & constant_row)),
            control.square.eq(squared),
            control.second.eq(second),
            control.unrotated.eq(held.rotate & constant_row),
            control.chain.eq(gate.quantize | gate.store | gate.drain),
            control.addend.eq(columns.addend),
            control.minus.eq(minus),
        ]
        with m.If((held.sum | held.quantize | held.store) & steps.has(Format.PLAIN)):
            m.d.comb += control.unscaled.eq(1)
        if config.has_int4 and config.has_ternary:
            m.d.comb += control.row_scaled.eq(steps.has(Format.FP8))
        if config.has_int4 or config.fp8_query:
            e4m3 = Signal(reset_less=True)
            of_token, of_query = (steps.tags[QUANTIZED - 1].kind == kind for kind in (Kind.TOKEN, Kind.QUERY))
            m.d.sync += e4m3.eq((of_token & steps.has(Format.FP8)) | (of_query & steps.has(Format.FP8_QUERY)))
            m.d.comb += control.e4m3.eq(e4m3)
        with m.If(chained.drain | chained.store):
            m.d.comb += control.addend.eq(Mux(steps.flags[Flag.ADD], Addend.RESIDUAL, Addend.CHAIN))
        with m.Elif(product.rotate):
            m.d.comb += control.addend.eq(Addend.ROTATED)
        with m.If(steps.strobes[GATE - 1].drain):
            with m.If(steps.flags[Flag.SILU]):
                m.d.comb += control.gate.eq(Gate.SIGMOID)
            with m.Elif(steps.flags[Flag.RELU2]):
                m.d.comb += control.gate.eq(Gate.RELU)
            with m.Elif(steps.flags[Flag.MULTIPLY]):
                m.d.comb += control.gate.eq(Gate.SCRATCH)
        factor = Signal(32, reset_less=True)
        m.d.comb += scales.index.eq(steps.tags[GATE - 2].index)
        m.d.sync += factor.eq(Mux(steps.strobes[GATE - 2].drain, ONE, scales.factor))
        return control, factor

    def _connect_lanes(self, m: Module, control: data.View, factor: Signal) -> tuple[list[Value], list[Value], list[Value]]:
        """``(products, totals, quantized)`` of every lane."""
        config, columns, scales = self.config, m.submodules.columns, m.submodules.scales
        products: list[Value] = []
        totals: list[Value] = []
        quantized: list[Value] = []
        lanes: list[Lane] = []
        for k in range(config.width):
            lanes.append(lane := Lane(config, k))
            m.submodules[f"lane_{k}"] = lane
            m.d.comb += [
                lane.control.eq(control),
                lane.scratch.eq(self.scratch_read.data.word_select(k, 32)),
                lane.param.eq(self.param_read.data.word_select(k, 32)),
                lane.accumulator.eq(self._result(m, k)),
                lane.scale.eq(scales.token_scale),
                lane.factor.eq(factor),
                lane.left.eq(columns.left.word_select(k, 32)),
                lane.right.eq(columns.right.word_select(k, 32)),
            ]
            products.append(lane.product)
            totals.append(lane.total)
            quantized.append(lane.quantized)
        if config.int4_kv:
            near, far = lane_strides(config)
            for k, lane in enumerate(lanes):
                m.d.comb += [lane.near.eq(lanes[k ^ near].kept), lane.far.eq(lanes[k ^ far].kept)]
        return products, totals, quantized

    def _result(self, m: Module, k: int) -> Value:
        """The integer of lane k: an accumulator, or several digits of one put together."""
        accumulator = self.accumulator.data.word_select(k, self.config.acc_bits)
        if not self.config.has_ternary:
            return accumulator
        m.submodules[f"digits_{k}"] = digits = DigitSum(self.config)
        drain = m.submodules.drain
        m.d.comb += [digits.first.eq(drain.digit_first), digits.weight.eq(drain.digit_weight), digits.digit.eq(accumulator)]
        return digits.total

    def _sum_columns(self, m: Module, steps: Pipeline, totals: list[Value]) -> None:
        """Column sums of NORM."""
        descriptor, columns, scales = self.op.descriptor, m.submodules.columns, m.submodules.scales
        m.d.comb += [
            columns.valid.eq(steps.strobes[FIRST_PRODUCT].sum),
            columns.last.eq(steps.tags[FIRST_PRODUCT].last),
            columns.inverse_n.eq(descriptor.scalar0),
            columns.epsilon.eq(descriptor.scalar1),
            columns.totals.eq(Cat(totals)),
            columns.product_valid.eq(scales.product_valid),
            columns.product.eq(scales.product),
            columns.variance_ready.eq(scales.variance_ready),
            scales.mean_valid.eq(columns.mean_valid),
            scales.sum.eq(columns.sum),
            scales.inverse_n.eq(columns.inverse_n_held),
            scales.variance_valid.eq(columns.variance_valid),
            scales.variance.eq(columns.variance),
        ]

    def _measure(self, m: Module, steps: Pipeline, products: list[Value], totals: list[Value]) -> None:
        """Maxima: of products with `sum`, of totals with `rotate`."""
        peak, product = m.submodules.peak, steps.strobes[FIRST_PRODUCT]
        rotated, rotated_tag = steps.strobes[SHORT_SUM], steps.tags[SHORT_SUM]
        measured = Signal(Tag(self.config))
        name = Signal(HeadName(self.config))
        m.d.comb += [
            measured.eq(Mux(rotated.rotate, rotated_tag.as_value(), steps.tags[FIRST_PRODUCT].as_value())),
            name.kind.eq(measured.kind),
            name.place.eq(measured.place),
            name.kv_head.eq(measured.kv_head),
            # Heads that are not quantised have no scales.
            peak.valid.eq(product.sum | (rotated.rotate & ~steps.flags[Flag.STORE])),
            peak.first.eq(measured.first),
            peak.last.eq(measured.last),
            peak.x.eq(Mux(rotated.rotate, Cat(totals), Cat(products))),
            peak.tag.eq(name),
        ]

    def _connect_scales(self, m: Module, steps: Pipeline) -> None:
        """Scales and factors."""
        config, descriptor, scales = self.config, self.op.descriptor, m.submodules.scales
        norm, rope, drain, peak = m.submodules.norm, m.submodules.rope, m.submodules.drain, m.submodules.peak
        token_to_query, head = Signal(), Signal()  # of the token whose scale is computed, maybe after its operator's end
        m.d.comb += [
            scales.rewind.eq(norm.rewind | rope.rewind),
            scales.peak_valid.eq(peak.o_valid),
            scales.peak.eq(peak.o),
            scales.name.eq(peak.o_tag),
            scales.score_constant.eq(descriptor.scalar0),
            scales.token.eq(norm.token),
            scales.to_query.eq(token_to_query),
            scales.head.eq(head),
            scales.load.eq(drain.load),
            scales.load_token.eq(drain.load_token),
            scales.weight_scale.eq(descriptor.scalar0),
            scales.kv_heads.eq(descriptor.kv_heads),
            norm.soon.eq(scales.soon),
            rope.dividing.eq(scales.dividing),
        ]
        with m.If(norm.rewind):
            m.d.sync += [token_to_query.eq(steps.flags[Flag.TO_QUERY]), head.eq(steps.flags[Flag.STORE])]
        if formats_of(config) & E4M3_FORMATS:
            m.d.comb += scales.formats.eq(steps.formats)
        wiring.connect(m, scales.query_scale, wiring.flipped(self.query_scale))
        wiring.connect(m, scales.kv_scale, wiring.flipped(self.kv_scale))

    def _write_scratch(self, m: Module, steps: Pipeline, totals: list[Value]) -> None:
        """Results of DRAIN, heads that were normed, and heads that were rotated."""
        rotated, rotated_tag = steps.strobes[SHORT_SUM], steps.tags[SHORT_SUM]
        chain_write = steps.strobes[CHAIN_SUM].drain | steps.strobes[CHAIN_SUM].store
        stored = rotated.rotate & (rotated_tag.kind != Kind.VALUE)
        if self.config.int4_kv:  # the row stays as it is
            stored &= rotated_tag.second | ~steps.flags[Flag.ADD]
        m.d.comb += [
            self.scratch_write.valid.eq(chain_write | stored),
            self.scratch_write.addr.eq(Mux(chain_write, steps.tags[CHAIN_SUM].target, rotated_tag.target)),
            self.scratch_write.data.eq(Cat(totals)),
        ]

    def _connect_quantized(self, m: Module, steps: Pipeline, elements: Value) -> None:
        """Vectors of int8 or e4m3: tokens to the activation memory (the query memory with TO_QUERY), heads to their memories."""
        descriptor, to_query = self.op.descriptor, steps.flags[Flag.TO_QUERY]
        valid, tag = steps.strobes[QUANTIZED].quantize, steps.tags[QUANTIZED]
        of_token = tag.kind == Kind.TOKEN
        of_query = tag.kind == Kind.QUERY
        activation, query, kv = self.activation, self.query, self.kv
        m.d.comb += [
            activation.valid.eq(valid & of_token & ~to_query),
            activation.half.eq((descriptor.buffers & Buffers.ACTIVATION).any()),
            activation.token.eq(tag.place),
            activation.addr.eq(tag.target),
            activation.data.eq(elements),
            query.valid.eq(valid & (of_query | (of_token & to_query))),
            query.slot.eq(Mux(of_query, tag.place, 0)),
            query.kv_head.eq(tag.kv_head),
            query.kv_heads.eq(descriptor.kv_heads),
            query.head_vectors.eq(descriptor.head_vectors),
            query.vector.eq(tag.target),
            query.data.eq(elements),
            kv.valid.eq(valid & ((tag.kind == Kind.KEY) | (tag.kind == Kind.VALUE))),
            kv.bank.eq(tag.place),
            kv.value.eq(tag.kind == Kind.VALUE),
            kv.head.eq(tag.kv_head),
            kv.head_vectors.eq(descriptor.head_vectors),
            kv.vector.eq(tag.target),
            kv.data.eq(elements),
        ]
        if self.config.int4_kv:
            four_bits = Signal(reset_less=True)  # of the next cycle's vector
            of_value = steps.tags[QUANTIZED - 1].kind == Kind.VALUE
            m.d.sync += four_bits.eq(Mux(of_value, steps.has(Format.INT4_VALUES), steps.has(Format.INT4_KEYS)))
            levels = four_bit_table()[::4]  # the lower two bits of an element decide nothing
            for byte in range(self.config.width):
                element = elements[8 * byte : 8 * byte + 8]
                level = looked_up(levels, element[2:], range(8))
                m.d.comb += kv.data[8 * byte : 8 * byte + 8].eq(Mux(four_bits, level, element))
