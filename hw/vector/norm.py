"""Order of the steps of NORM."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ...config import BuildConfig
from ...descriptors import Flag, Opcode
from ..interfaces import Operator, TableRead, index_bits
from .scales import Scales
from .step import CHAIN_GAP, Kind, Step

__all__ = ["NormSteps"]


class NormSteps(wiring.Component):
    """Steps of NORM: every vector of a token once for the maximum and the column sums, then once to be quantised. With LOGITS the
    tokens are the wanted ones: token j is read where token ``want[j]`` of the pass lies.

    With STORE every head of a token by itself, and its second pass waits for its scale::

        IDLE - BASE - READY (column sums taken) - SUM - WAIT (dividing) - (ROOT) - QUANTIZE - GAP -> next token or head
           \\ WANT - OFFSET / (LOGITS, every token)                                        \\ FLUSH (drained) - done

    Members
    -------
    op : In(Operator), start : In(1), done : Out(1)
    want : Out(TableRead)
        Wanted tokens by number.
    step : Out(Step)
        The step of this cycle.
    dividing : In(1)
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
            "dividing": In(1),
            "drained": In(1),
            "sums_busy": In(1),
            "scales_busy": In(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        op, descriptor = self.op, self.op.descriptor
        do_sum, do_quantize = Signal(), Signal()
        store = (descriptor.flags & Flag.STORE).any()
        m.d.comb += [
            self.step.strobes.sum.eq(do_sum), self.step.strobes.quantize.eq(do_quantize & ~store),
            self.step.strobes.store.eq(do_quantize & store),
        ]
        to_query = (descriptor.flags & Flag.TO_QUERY).any()
        of_wanted = (descriptor.flags & Flag.LOGITS).any()

        offset = Signal(16, reset_less=True)
        base = Signal(16, reset_less=True)
        vector = Signal(16)
        position = Signal.like(op.count)  # of the token among the active ones
        token = Signal(16, reset_less=True)  # its scratch address
        head = Signal.like(descriptor.heads)  # with STORE
        gap = Signal(range(CHAIN_GAP + 1))

        last_vector, last_head, last_token = Signal(), Signal(), Signal()
        number = Signal.like(op.count)
        # Place in the pass: of the first token, or of the wanted one.
        place = Mux(of_wanted, self.want.number[: len(number)], op.first)
        m.d.comb += [
            number.eq(op.first + position),
            self.want.index.eq(number),
            last_head.eq(~store | (head + 1 == descriptor.heads)),
            last_vector.eq(vector + 1 == descriptor.vectors),
            last_token.eq((position + 1 == op.count) & last_head),
            self.step.tag.source.eq(base + vector),
            self.step.tag.param.eq(descriptor.param + vector),
            self.step.tag.target.eq(Mux(store, self.step.tag.source, vector)),
            self.step.tag.first.eq(vector == 0),
            self.step.tag.last.eq(last_vector),
            self.step.tag.final.eq(last_token & last_vector),
            self.step.tag.kind.eq(Kind.TOKEN),
            self.step.tag.place.eq(position),
            self.step.tag.index.eq(Mux(store, Scales.HEAD, 0)),
        ]

        with m.If(do_sum | do_quantize):
            m.d.sync += vector.eq(Mux(last_vector, 0, vector + 1))

        with m.FSM(name="state"):
            with m.State("IDLE"), m.If(self.start & (descriptor.opcode == Opcode.NORM)):
                m.d.sync += [offset.eq(place * descriptor.src_stride), vector.eq(0), position.eq(0), head.eq(0)]
                m.next = "BASE"
                with m.If(of_wanted):
                    m.next = "WANT"
            with m.State("WANT"):
                m.next = "OFFSET"
            with m.State("OFFSET"):
                m.d.sync += offset.eq(place * descriptor.src_stride)
                m.next = "BASE"
            with m.State("BASE"):
                m.d.sync += [base.eq(descriptor.src + offset), token.eq(descriptor.src + offset)]
                m.next = "READY"
            with m.State("READY"), m.If(~self.sums_busy):
                m.d.comb += self.rewind.eq(1)
                m.d.sync += self.token.eq(number)
                m.next = "SUM"
            with m.State("SUM"):
                m.d.comb += do_sum.eq(1)
                with m.If(last_vector):
                    m.next = "WAIT"
            with m.State("WAIT"), m.If(self.dividing):
                m.next = "QUANTIZE"
                with m.If(store):
                    m.next = "ROOT"
            with m.State("ROOT"), m.If(~(self.sums_busy | self.scales_busy)):
                m.next = "QUANTIZE"
            with m.State("QUANTIZE"):
                m.d.comb += do_quantize.eq(1)
                with m.If(last_vector):
                    m.d.sync += [base.eq(base + descriptor.vectors), head.eq(head + 1), gap.eq(CHAIN_GAP)]
                    with m.If(last_head):
                        next_token = token + descriptor.src_stride
                        m.d.sync += [position.eq(position + 1), token.eq(next_token), base.eq(next_token), head.eq(0)]
                    m.next = "GAP"
                    with m.If(last_token):
                        m.next = "FLUSH"
            with m.State("GAP"):
                m.d.sync += gap.eq(gap - 1)
                with m.If(gap == 1):
                    m.next = "READY"
                    with m.If(of_wanted & (head == 0)):
                        m.next = "WANT"
            self._finish(m, to_query)
        return m

    def _finish(self, m: Module, to_query: Value) -> None:
        """States behind the last step."""
        with m.State("FLUSH"), m.If(self.drained):
            m.next = "FINISH"
        with m.State("FINISH"), m.If(~to_query | ~(self.sums_busy | self.scales_busy)):
            m.next = "DONE"
        with m.State("DONE"):
            m.d.comb += self.done.eq(1)
            m.next = "IDLE"
