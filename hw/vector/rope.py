"""Order of the steps of ROPE."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ...config import BuildConfig
from ...descriptors import Flag, Opcode
from ..interfaces import Operator, index_bits
from .step import CHAIN_GAP, Kind, Step

__all__ = ["RopeSteps"]


class Walk:
    """Where ROPE is: in the operator, the token, the head and the vector; and what of each is the last."""

    def __init__(self, config: BuildConfig, op: wiring.PureInterface, tag: data.View) -> None:
        # The cycle's step, if any
        self.do_rotate, self.do_quantize = Signal(), Signal(name="do_quantize")
        # Of the operator
        #: Heads are rotated, not quantised.
        self.stores = Signal()
        self.group, self.heads_left = Signal(8), Signal(8, name="heads_left")  # query heads of one key/value head
        self.last_member = Signal(8)  # one less
        self.last_kv_head = Signal.like(tag.kv_head, name="last_kv_head")
        # "$signal" is Amaranth's name for a signal without one; given where the Verilog has it.
        self.source_offset = Signal(16, reset_less=True, name="$signal")
        self.param_offset = Signal(16, reset_less=True)
        self.first_kind, self.last_kind = Signal(Kind), Signal(Kind, name="last_kind")
        pair = index_bits(config.max_head_dim // config.width)
        self.last_rotated, self.last_quantized = Signal(pair), Signal(pair)  # of the pairs, of the vectors of a head
        # Of the token
        self.position = Signal.like(op.count, name="position")
        self.source, self.param = Signal(16, reset_less=True), Signal(16, reset_less=True, name="param")
        self.slot_base = Signal(index_bits(config.max_group))
        self.token = Signal.like(op.count, name="token")  # of the pass
        self.may_quantize = Signal()
        self.gap = Signal(range(CHAIN_GAP + 1))
        # Of the head
        self.kind = Signal(Kind, init=Kind.QUERY)
        self.kv_head = Signal.like(tag.kv_head, name="kv_head")
        self.member = Signal(8)
        self.index = Signal.like(tag.index, name="index")
        self.head = Signal(16, reset_less=True)  # scratch address
        # Of the vector
        self.pair = Signal(pair)
        #: The other vector of the pair.
        self.partner = Signal.like(op.descriptor.head_vectors, name="partner")
        self.second = Signal()  # rotating only
        self.vector = Signal.like(op.descriptor.head_vectors, name="vector")
        self.address = Signal(16)
        self.last_vector, self.last_head, self.last_token = Signal(), Signal(), Signal(name="last_token")
        if config.int4_kv:
            #: With ADD pairs are a vector of the row and one of a head; where the head's part of the row is.
            self.adds, self.row = Signal(), Signal(16, reset_less=True)


class RopeSteps(wiring.Component):
    """Steps of ROPE: a token's query, key and value heads once to be rotated and for their maxima, then once to be
    quantised; with STORE they are rotated alone.

    ::

        IDLE - GROUP (heads / kv_heads) - OFFSET - BASE - READY - TOKEN - ROTATE - WAIT (dividing) - QUANTIZE - GAP ->
        TOKEN
                                                                           \\ TOKEN                 \\ FLUSH (drained)
                                                                           \\ FLUSH (STORE)         - done

    Rotation takes the vectors of a head in the order 0, h/2, 1, h/2 + 1, ...: both halves of a pair in a row. With ADD the first of
    a pair is a vector of the row, and the second the one of the head, which takes its result, their sum.

    A token of n vectors, h to a head, begins n + max(n + 16, h + 41 + log2(``config.width``)) cycles after the one before, with
    STORE n + 1, with ADD 2 n + 1: a cycle for each step, the way of the first maximum to its factor, and `CHAIN_GAP`.

    Members
    -------
    op : In(Operator), start : In(1), done : Out(1)
    step : Out(Step)
        The step of this cycle.
    rewind : Out(1)
        A token begins.
    dividing : In(1)
        The first head's factor will be there for a step of the next cycle; the others follow at least as fast as their heads.
    drained : In(1)
        The ``final`` step's results leave.
    sums_busy, scales_busy : In(1)
        The operator waits for them to fall.
    """

    def __init__(self, config: BuildConfig) -> None:
        self.config = config
        super().__init__({
            "op": In(Operator(config)),
            "start": In(1),
            "done": Out(1),
            "step": Out(Step(config)),
            "rewind": Out(1),
            "dividing": In(1),
            "drained": In(1),
            "sums_busy": In(1),
            "scales_busy": In(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        walk = Walk(self.config, self.op, self.step.tag)
        self._connect_step(m, walk)
        self._next_vector(m, walk)
        self._sequence(m, walk)
        return m

    def _connect_step(self, m: Module, walk: Walk) -> None:
        """The step of this cycle, and what it is the last of."""
        op, descriptor, tag = self.op, self.op.descriptor, self.step.tag
        m.d.comb += [self.step.strobes.rotate.eq(walk.do_rotate), self.step.strobes.quantize.eq(walk.do_quantize)]

        def has(flag: Flag) -> Signal:
            return descriptor.flags[flag.value.bit_length() - 1]

        m.d.comb += [
            walk.stores.eq(has(Flag.STORE)),
            walk.first_kind.eq(Mux(has(Flag.QUERIES), Kind.QUERY, Mux(has(Flag.KEYS), Kind.KEY, Kind.VALUE))),
            walk.last_kind.eq(Mux(has(Flag.VALUES), Kind.VALUE, Mux(has(Flag.KEYS), Kind.KEY, Kind.QUERY))),
        ]
        if self.config.int4_kv:
            m.d.comb += walk.adds.eq(has(Flag.ADD))
        m.d.sync += [
            walk.last_rotated.eq(self._pairs(walk) - 1), walk.last_quantized.eq(descriptor.head_vectors - 1),
            walk.last_token.eq(walk.position + 1 == op.count),  # right from the first step of a token on
        ]
        m.d.comb += [
            walk.vector.eq(Mux(walk.second, walk.partner, walk.pair)),
            walk.last_head.eq(
                (walk.kind == walk.last_kind) & (walk.kv_head == walk.last_kv_head)
                & ((walk.kind != Kind.QUERY) | (walk.member == walk.last_member))
            ),
            walk.last_vector.eq(
                Mux(walk.do_rotate, walk.second & (walk.pair == walk.last_rotated), walk.pair == walk.last_quantized)
            ),
            walk.address.eq(walk.head + walk.vector),
            tag.source.eq(self._source(walk)),
            tag.target.eq(Mux(walk.do_rotate, walk.address, walk.vector)),
            tag.param.eq(walk.param + walk.vector),
            tag.first.eq((walk.pair == 0) & ~walk.second),
            tag.last.eq(walk.last_vector),
            tag.final.eq(walk.last_token & walk.last_head & walk.last_vector),
            tag.second.eq(walk.second),
            tag.kind.eq(walk.kind),
            tag.place.eq(Mux(walk.kind == Kind.QUERY, walk.slot_base + walk.member, walk.token)),
            tag.kv_head.eq(walk.kv_head),
            tag.index.eq(walk.index),
        ]

    def _source(self, walk: Walk) -> Value:
        """Scratch address of the vector."""
        if not self.config.int4_kv:
            return walk.address
        return Mux(walk.adds & ~walk.second, walk.row, walk.head) + walk.vector

    def _pairs(self, walk: Walk) -> Value:
        """Pairs of a head."""
        vectors = self.op.descriptor.head_vectors
        return Mux(walk.adds, vectors, vectors[1:]) if self.config.int4_kv else vectors[1:]

    def _partner(self, walk: Walk) -> Value:
        """The other vector of the first pair of a head."""
        half = self.op.descriptor.head_vectors[1:]
        return Mux(walk.adds, 0, half) if self.config.int4_kv else half

    def _next_vector(self, m: Module, walk: Walk) -> None:
        """What the next step works on."""
        descriptor = self.op.descriptor
        with m.If(walk.do_rotate):
            m.d.sync += walk.second.eq(~walk.second)
        with m.If(walk.do_quantize | (walk.do_rotate & walk.second)):
            m.d.sync += [
                walk.pair.eq(Mux(walk.last_vector, 0, walk.pair + 1)),
                walk.partner.eq(Mux(walk.last_vector, self._partner(walk), walk.partner + 1)),
            ]
        with m.If((walk.do_rotate | walk.do_quantize) & walk.last_vector):
            self._next_head(m, walk)
            with m.If(walk.last_head):
                m.d.sync += walk.kind.eq(walk.first_kind)
            m.d.sync += [walk.head.eq(walk.head + descriptor.head_vectors), walk.index.eq(walk.index + 1)]
            if self.config.int4_kv:
                m.d.sync += walk.row.eq(Mux(walk.last_head, descriptor.dst, walk.row + descriptor.head_vectors))
            with m.If(walk.last_head):
                m.d.sync += [walk.head.eq(walk.source), walk.index.eq(0)]
        with m.If(self.dividing):
            m.d.sync += walk.may_quantize.eq(1)

    def _sequence(self, m: Module, walk: Walk) -> None:
        op, descriptor = self.op, self.op.descriptor
        settled = Signal()
        m.d.sync += settled.eq(~self.sums_busy & ~self.scales_busy)
        with m.FSM(name="state"):
            with m.State("IDLE"):
                m.d.sync += [
                    walk.group.eq(0),
                    walk.heads_left.eq(descriptor.heads),
                    walk.position.eq(0),
                    walk.pair.eq(0),
                    walk.partner.eq(self._partner(walk)),
                    walk.second.eq(0),
                    walk.kind.eq(walk.first_kind),
                    walk.kv_head.eq(0),
                    walk.last_kv_head.eq(descriptor.kv_heads - 1),
                    walk.member.eq(0),
                    walk.index.eq(0),
                ]
                with m.If(self.start & (descriptor.opcode == Opcode.ROPE)):
                    m.next = "GROUP"
            with m.State("GROUP"):
                m.d.sync += [
                    walk.heads_left.eq(walk.heads_left - descriptor.kv_heads),
                    walk.group.eq(walk.group + 1),
                    walk.last_member.eq(walk.group),
                ]
                with m.If(walk.heads_left <= descriptor.kv_heads):
                    m.next = "OFFSET"
            with m.State("OFFSET"):
                m.d.sync += [
                    walk.source_offset.eq(op.first * descriptor.src_stride),
                    walk.param_offset.eq(op.first * descriptor.param_stride),
                    walk.slot_base.eq(op.first * walk.group),
                    walk.token.eq(op.first),
                ]
                m.next = "BASE"
            with m.State("BASE"):
                m.d.sync += [
                    walk.source.eq(descriptor.src + walk.source_offset), walk.param.eq(descriptor.param + walk.param_offset),
                ]
                m.next = "READY"
            with m.State("READY"), m.If(settled):
                m.next = "TOKEN"
            with m.State("TOKEN"):
                m.d.comb += self.rewind.eq(1)
                m.d.sync += [walk.head.eq(walk.source), walk.may_quantize.eq(0)]
                if self.config.int4_kv:
                    m.d.sync += walk.row.eq(descriptor.dst)
                m.next = "ROTATE"
            with m.State("ROTATE"):
                m.d.comb += walk.do_rotate.eq(1)
                with m.If(walk.last_vector & walk.last_head):
                    m.next = "WAIT"
                    with m.If(walk.stores):
                        self._next_token(m, walk)
                        m.next = "TOKEN"
                        with m.If(walk.last_token):
                            m.next = "FLUSH"
            with m.State("WAIT"), m.If(walk.may_quantize | self.dividing):
                m.next = "QUANTIZE"
            with m.State("QUANTIZE"):
                m.d.comb += walk.do_quantize.eq(1)
                with m.If(walk.last_vector & walk.last_head):
                    self._next_token(m, walk)
                    m.d.sync += walk.gap.eq(CHAIN_GAP - 1)  # and TOKEN
                    m.next = "GAP"
                    with m.If(walk.last_token):
                        m.next = "FLUSH"
            with m.State("GAP"):
                m.d.sync += walk.gap.eq(walk.gap - 1)
                with m.If(walk.gap == 1):
                    m.next = "TOKEN"
            with m.State("FLUSH"), m.If(self.drained):
                m.next = "FINISH"
            with m.State("FINISH"):
                m.d.comb += self.done.eq(1)
                m.next = "IDLE"

    def _next_token(self, m: Module, walk: Walk) -> None:
        descriptor = self.op.descriptor
        m.d.sync += [
            walk.position.eq(walk.position + 1),
            walk.source.eq(walk.source + descriptor.src_stride),
            walk.param.eq(walk.param + descriptor.param_stride),
            walk.slot_base.eq(walk.slot_base + walk.group),
            walk.token.eq(walk.token + 1),
        ]

    def _next_head(self, m: Module, walk: Walk) -> None:
        """Step to the walk.head after this one: the walk.group of each key/value walk.head's queries, then the keys, then the
        values."""
        with m.If((walk.kind == Kind.QUERY) & (walk.member != walk.last_member)):
            m.d.sync += walk.member.eq(walk.member + 1)
        with m.Else():
            m.d.sync += [walk.member.eq(0), walk.kv_head.eq(walk.kv_head + 1)]
            with m.If(walk.kv_head == walk.last_kv_head):
                m.d.sync += walk.kv_head.eq(0)
                with m.Switch(walk.kind):
                    with m.Case(Kind.QUERY):
                        m.d.sync += walk.kind.eq(Kind.KEY)
                    with m.Case(Kind.KEY):
                        m.d.sync += walk.kind.eq(Kind.VALUE)
                    with m.Default():
                        m.d.sync += walk.kind.eq(Kind.QUERY)
