"""Order of the steps of ROPE."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ...config import BuildConfig
from ...descriptors import Flag, Opcode
from ..interfaces import Operator, index_bits
from .step import CHAIN_GAP, Kind, Step

__all__ = ["RopeSteps"]


class RopeSteps(wiring.Component):
    """Steps of ROPE: a token's query, key and value heads once to be rotated and for their maxima, then once to be
    quantised.

    ``step`` is the step of this cycle. ``dividing``: the first head's factor will be there for a step of the next
    cycle; the others follow at least as fast as their heads. ``rewind``: a token begins. ``drained``: the ``final``
    step's results leave. The operator waits for ``sums_busy`` and ``scales_busy`` to fall.

    ::

        IDLE - GROUP (heads / kv_heads) - OFFSET - BASE - READY - TOKEN - ROTATE - WAIT (dividing) - QUANTIZE - GAP ->
        TOKEN
                                                                                                   \\ FLUSH (drained)
                                                                                                   - done

    Rotation takes the vectors of a head in the order 0, h/2, 1, h/2 + 1, ...: both halves of a pair in a row.
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
        op, descriptor = self.op, self.op.descriptor
        tag = self.step.tag
        do_rotate, do_quantize = Signal(), Signal()
        m.d.comb += [self.step.strobes.rotate.eq(do_rotate), self.step.strobes.quantize.eq(do_quantize)]

        # Of the operator
        group, heads_left = Signal(8), Signal(8)  # query heads of one key/value head
        source_offset, param_offset = Signal(16, reset_less=True), Signal(16, reset_less=True)
        # Of the token
        position = Signal.like(op.count)
        source, param = Signal(16, reset_less=True), Signal(16, reset_less=True)
        slot_base = Signal(index_bits(self.config.max_group))
        token = Signal.like(op.count)  # of the pass
        may_quantize = Signal()
        gap = Signal(range(CHAIN_GAP + 1))
        # Of the head
        kind = Signal(Kind, init=Kind.QUERY)
        kv_head = Signal.like(tag.kv_head)
        member = Signal(8)
        index = Signal.like(tag.index)
        head = Signal(16, reset_less=True)  # scratch address
        # Of the vector
        pair = Signal(index_bits(self.config.max_head_dim // self.config.width))
        second = Signal()
        vector = Signal.like(descriptor.head_vectors)
        address = Signal(16)

        def has(flag: Flag) -> Signal:
            return descriptor.flags[flag.value.bit_length() - 1]

        first_kind, last_kind = Signal(Kind), Signal(Kind)
        m.d.comb += [
            first_kind.eq(Mux(has(Flag.QUERIES), Kind.QUERY, Mux(has(Flag.KEYS), Kind.KEY, Kind.VALUE))),
            last_kind.eq(Mux(has(Flag.VALUES), Kind.VALUE, Mux(has(Flag.KEYS), Kind.KEY, Kind.QUERY))),
        ]
        half = descriptor.head_vectors[1:]
        last_vector, last_head, last_token = Signal(), Signal(), Signal()
        m.d.comb += [
            vector.eq(Mux(do_rotate & second, pair + half, pair)),
            last_token.eq(position + 1 == op.count),
            last_head.eq(
                (kind == last_kind) & (kv_head + 1 == descriptor.kv_heads) & ((kind != Kind.QUERY) | (member + 1 == group))
            ),
            last_vector.eq(Mux(do_rotate, second & (pair + 1 == half), pair + 1 == descriptor.head_vectors)),
            address.eq(head + vector),
            tag.source.eq(address),
            tag.target.eq(Mux(do_rotate, address, vector)),
            tag.param.eq(param + vector),
            tag.first.eq((pair == 0) & ~second),
            tag.last.eq(last_vector),
            tag.final.eq(last_token & last_head & last_vector),
            tag.second.eq(second),
            tag.kind.eq(kind),
            tag.place.eq(Mux(kind == Kind.QUERY, slot_base + member, token)),
            tag.kv_head.eq(kv_head),
            tag.index.eq(index),
        ]
        with m.If(do_rotate):
            m.d.sync += second.eq(~second)
        with m.If(do_quantize | (do_rotate & second)):
            m.d.sync += pair.eq(Mux(last_vector, 0, pair + 1))
        with m.If((do_rotate | do_quantize) & last_vector):
            self._next_head(m, kind, kv_head, member, group)
            with m.If(last_head):
                m.d.sync += kind.eq(first_kind)
            m.d.sync += [head.eq(head + descriptor.head_vectors), index.eq(index + 1)]
            with m.If(last_head):
                m.d.sync += [head.eq(source), index.eq(0)]
        with m.If(self.dividing):
            m.d.sync += may_quantize.eq(1)

        with m.FSM(name="state"):
            with m.State("IDLE"):
                m.d.sync += [
                    group.eq(0),
                    heads_left.eq(descriptor.heads),
                    position.eq(0),
                    pair.eq(0),
                    second.eq(0),
                    kind.eq(first_kind),
                    kv_head.eq(0),
                    member.eq(0),
                    index.eq(0),
                ]
                with m.If(self.start & (descriptor.opcode == Opcode.ROPE)):
                    m.next = "GROUP"
            with m.State("GROUP"):
                m.d.sync += [heads_left.eq(heads_left - descriptor.kv_heads), group.eq(group + 1)]
                with m.If(heads_left <= descriptor.kv_heads):
                    m.next = "OFFSET"
            with m.State("OFFSET"):
                m.d.sync += [
                    source_offset.eq(op.first * descriptor.src_stride),
                    param_offset.eq(op.first * descriptor.param_stride),
                    slot_base.eq(op.first * group),
                    token.eq(op.first),
                ]
                m.next = "BASE"
            with m.State("BASE"):
                m.d.sync += [source.eq(descriptor.src + source_offset), param.eq(descriptor.param + param_offset)]
                m.next = "READY"
            with m.State("READY"), m.If(~self.sums_busy & ~self.scales_busy):
                m.next = "TOKEN"
            with m.State("TOKEN"):
                m.d.comb += self.rewind.eq(1)
                m.d.sync += [head.eq(source), may_quantize.eq(0)]
                m.next = "ROTATE"
            with m.State("ROTATE"):
                m.d.comb += do_rotate.eq(1)
                with m.If(last_vector & last_head):
                    m.next = "WAIT"
            with m.State("WAIT"), m.If(may_quantize | self.dividing):
                m.next = "QUANTIZE"
            with m.State("QUANTIZE"):
                m.d.comb += do_quantize.eq(1)
                with m.If(last_vector & last_head):
                    m.d.sync += [
                        position.eq(position + 1),
                        source.eq(source + descriptor.src_stride),
                        param.eq(param + descriptor.param_stride),
                        slot_base.eq(slot_base + group),
                        token.eq(token + 1),
                        gap.eq(CHAIN_GAP),
                    ]
                    m.next = "GAP"
                    with m.If(last_token):
                        m.next = "FLUSH"
            with m.State("GAP"):
                m.d.sync += gap.eq(gap - 1)
                with m.If(gap == 1):
                    m.next = "TOKEN"
            with m.State("FLUSH"), m.If(self.drained):
                m.next = "FINISH"
            with m.State("FINISH"):
                m.d.comb += self.done.eq(1)
                m.next = "IDLE"
        return m

    def _next_head(self, m: Module, kind: Signal, kv_head: Signal, member: Signal, group: Signal) -> None:
        """Step to the head after this one: the group of each key/value head's queries, then the keys, then the
        values."""
        last_kv_head = kv_head + 1 == self.op.descriptor.kv_heads
        with m.If((kind == Kind.QUERY) & (member + 1 != group)):
            m.d.sync += member.eq(member + 1)
        with m.Else():
            m.d.sync += [member.eq(0), kv_head.eq(kv_head + 1)]
            with m.If(last_kv_head):
                m.d.sync += kv_head.eq(0)
                with m.Switch(kind):
                    with m.Case(Kind.QUERY):
                        m.d.sync += kind.eq(Kind.KEY)
                    with m.Case(Kind.KEY):
                        m.d.sync += kind.eq(Kind.VALUE)
                    with m.Default():
                        m.d.sync += kind.eq(Kind.QUERY)
