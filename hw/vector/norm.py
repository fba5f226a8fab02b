"""Order of the steps of NORM."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ...config import BuildConfig
from ...descriptors import Flag, Opcode
from ..interfaces import Operator, TableRead, index_bits
from .scales import Scales
from .step import CHAIN_GAP, Kind, Step

__all__ = ["NormSteps"]


class Walk:
    """Where NORM is: in the operator, the token, with STORE the head, and the vector; and what of each is the last."""

    def __init__(self, op: wiring.PureInterface) -> None:
        self.store = Signal()
        # The cycle's step, if any
        self.do_sum, self.do_quantize = Signal(), Signal(name="do_quantize")
        #: Scratch address of the first active token less that of token 0; of the present token; of the present head.
        self.offset, self.token = Signal(16, reset_less=True), Signal(16, reset_less=True, name="token_base")
        self.base = Signal(16, reset_less=True, name="base")
        self.position = Signal.like(op.count, name="position")  # of the token among the active ones
        self.head, self.vector = Signal.like(op.descriptor.heads, name="head"), Signal(16, name="vector")
        self.gap = Signal(range(CHAIN_GAP + 1))
        #: Number of the token: in the pass, or of the wanted ones.
        self.number = Signal.like(op.count, name="number")
        self.last_vector, self.last_head, self.last_token = Signal(), Signal(name="last_head"), Signal(name="last_token")


class NormSteps(wiring.Component):
    """Steps of NORM: every vector of a token once for the maximum and the column sums, then once to be quantised. With LOGITS the
    tokens are the wanted ones: token j is read where token ``want[j]`` of the pass lies.

    Activations of a token begin at vector ``dst`` of their memory.

    A token of n vectors begins 2 n + 30 + log2(``config.width``) cycles after the one before, or where that is later, when the
    columns of that one are added: a cycle for each step, the way of the maximum to the factor, and `CHAIN_GAP`.

    With STORE every head of a token by itself, and its second pass waits for its scale::

        IDLE - BASE - READY (column sums taken) - SUM - WAIT (soon) - (ROOT) - QUANTIZE - GAP -> next token or head
           \\ WANT - OFFSET / (LOGITS, every token)                                        \\ FLUSH (drained) - done

    Members
    -------
    op : In(Operator), start : In(1), done : Out(1)
    want : Out(TableRead)
        Wanted tokens by number.
    step : Out(Step)
        The step of this cycle.
    soon : In(1)
        The token's factor will be there for a step of the next cycle.
    drained : In(1)
        The ``final`` step's results leave.
    rewind : Out(1), token : Out
        A token begins; its number until ``sums_busy`` falls.
    sums_busy, scales_busy : In(1)
        ``scales_busy``: a token's scale is still being computed: the operator ends without waiting for it, except with TO_QUERY.
    """

    def __init__(self, config: BuildConfig) -> None:
        self.config = config
        super().__init__({
            "op": In(Operator(config)),
            "start": In(1),
            "done": Out(1),
            "want": Out(TableRead(config.chunk)),
            "step": Out(Step(config)),
            "rewind": Out(1),
            "token": Out(index_bits(config.chunk)),
            "soon": In(1),
            "drained": In(1),
            "sums_busy": In(1),
            "scales_busy": In(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        op, descriptor, tag = self.op, self.op.descriptor, self.step.tag
        walk = Walk(op)
        m.d.comb += [
            self.step.strobes.sum.eq(walk.do_sum), self.step.strobes.quantize.eq(walk.do_quantize & ~walk.store),
            self.step.strobes.store.eq(walk.do_quantize & walk.store),
            walk.store.eq((descriptor.flags & Flag.STORE).any()),
            walk.number.eq(op.first + walk.position),
            self.want.index.eq(walk.number),
        ]
        source = Signal(16)
        # What does not change with every step is compared a cycle ahead.
        last_number = Signal.like(descriptor.vectors, reset_less=True)
        last_head = ~walk.store | (walk.head + 1 == descriptor.heads)
        m.d.sync += [
            last_number.eq(descriptor.vectors - 1),
            walk.last_head.eq(last_head),
            walk.last_token.eq(last_head & (walk.position + 1 == op.count)),
        ]
        m.d.comb += [
            walk.last_vector.eq(walk.vector == last_number),
            source.eq(walk.base + walk.vector),
            tag.source.eq(source),
            tag.param.eq(descriptor.param + walk.vector),
            tag.target.eq(Mux(walk.store, source, descriptor.dst + walk.vector)),
            tag.first.eq(walk.vector == 0),
            tag.last.eq(walk.last_vector),
            tag.final.eq(walk.last_token & walk.last_vector),
            tag.kind.eq(Kind.TOKEN),
            tag.place.eq(walk.position),
            tag.index.eq(Mux(walk.store, Scales.HEAD, 0)),
        ]
        with m.If(walk.do_sum | walk.do_quantize):
            m.d.sync += walk.vector.eq(Mux(walk.last_vector, 0, walk.vector + 1))
        self._sequence(m, walk)
        return m

    def _sequence(self, m: Module, walk: Walk) -> None:
        op, descriptor = self.op, self.op.descriptor
        to_query, of_wanted = ((descriptor.flags & flag).any() for flag in (Flag.TO_QUERY, Flag.LOGITS))
        with m.FSM(name="state"):
            with m.State("IDLE"), m.If(self.start & (descriptor.opcode == Opcode.NORM)):
                m.d.sync += [
                    walk.offset.eq(op.first * descriptor.src_stride),
                    walk.vector.eq(0),
                    walk.position.eq(0),
                    walk.head.eq(0),
                ]
                m.next = "BASE"
                with m.If(of_wanted):
                    m.next = "WANT"
            with m.State("WANT"):
                m.next = "OFFSET"
            with m.State("OFFSET"):
                m.d.sync += walk.offset.eq(self.want.number[: len(walk.number)] * descriptor.src_stride)
                m.next = "BASE"
            with m.State("BASE"):
                m.d.sync += [walk.base.eq(descriptor.src + walk.offset), walk.token.eq(descriptor.src + walk.offset)]
                m.next = "READY"
            with m.State("READY"), m.If(~self.sums_busy):
                m.d.comb += self.rewind.eq(1)
                m.d.sync += self.token.eq(walk.number)
                m.next = "SUM"
            with m.State("SUM"):
                m.d.comb += walk.do_sum.eq(1)
                with m.If(walk.last_vector):
                    m.next = "WAIT"
            with m.State("WAIT"), m.If(self.soon):
                m.next = "QUANTIZE"
                with m.If(walk.store):
                    m.next = "ROOT"
            with m.State("ROOT"), m.If(~(self.sums_busy | self.scales_busy)):
                m.next = "QUANTIZE"
            with m.State("QUANTIZE"):
                m.d.comb += walk.do_quantize.eq(1)
                with m.If(walk.last_vector):
                    self._next_head(m, walk)
                    m.d.sync += walk.gap.eq(CHAIN_GAP - 1)  # and READY
                    m.next = "GAP"
                    with m.If(walk.last_token):
                        m.next = "FLUSH"
            with m.State("GAP"):
                m.d.sync += walk.gap.eq(walk.gap - 1)
                with m.If(walk.gap == 1):
                    m.next = "READY"
                    with m.If(of_wanted & (walk.head == 0)):
                        m.next = "WANT"
            with m.State("FLUSH"), m.If(self.drained):
                m.next = "FINISH"
            with m.State("FINISH"), m.If(~to_query | ~(self.sums_busy | self.scales_busy)):
                m.next = "DONE"
            with m.State("DONE"):
                m.d.comb += self.done.eq(1)
                m.next = "IDLE"

    def _next_head(self, m: Module, walk: Walk) -> None:
        """The next head, or the next token."""
        descriptor = self.op.descriptor
        m.d.sync += [walk.base.eq(walk.base + descriptor.vectors), walk.head.eq(walk.head + 1)]
        with m.If(walk.last_head):
            next_token = walk.token + descriptor.src_stride
            m.d.sync += [
                walk.position.eq(walk.position + 1), walk.token.eq(next_token), walk.base.eq(next_token), walk.head.eq(0),
            ]
