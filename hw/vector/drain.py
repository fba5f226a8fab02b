"""Order of the steps of DRAIN."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ...config import TRITS_PER_BYTE, BuildConfig
from ...descriptors import Flag, Opcode
from ..float.convert import IntToFloat
from ..float.format import pipelined
from ..float.multiply import FloatMul
from ..interfaces import ACCUMULATOR_LATENCY, Operator, index_bits
from .digits import WEIGHT_BITS, DigitSum
from .scales import Scales
from .step import HELD, Step, Tag

__all__ = ["DrainSteps"]

#: Cycles from an accumulator request to the step that its data belongs to, without digits and row scales.
REQUEST_LEAD = ACCUMULATOR_LATENCY + IntToFloat.latency - HELD

#: Cycles that a multiplication by the row scale takes before that.
ROW_PRODUCT = FloatMul.latency

#: Cycles from a request being decided to the use of the token's scale, less those of the row scale.
SCALE_USE = 1 + REQUEST_LEAD + HELD

#: Cycles from the first request of a token to the loading of its scale, which takes the place of the one before when that has been
#: used for the last time.
LOAD_DELAY = SCALE_USE - Scales.LOAD


class DrainSteps(wiring.Component):
    """Accumulator requests and steps of DRAIN, a token after the other, without a pause between them.

    With an INT4 engine every step and every ``load`` come `ROW_PRODUCT` cycles later, for the accumulators are
    multiplied by row scales first. ``step.tag.param``, the address of those, comes so much before its step. With a ternary
    engine they come `DigitSum.latency` cycles later, for accumulators of several digits are put together first: with DIGITS a
    step has `TRITS_PER_BYTE` requests.

    With CANDIDATES a step begins when ``room`` is there, and `BuildConfig.width` cycles after the one before at least: results
    go on one by one.

    ::

        IDLE - BASE - READY - REQUEST -> REQUEST of the next token
                                     |  LISTED (drained) -> READY
                                     \\ FLUSH (drained) - done

    Members
    -------
    op : In(Operator), start : In(1), done : Out(1)
    token, vector : Out
        Accumulator request, registered; ``token`` among the active ones.
    step : Out(Step)
        The step of this cycle, so much later that it meets the data.
    load : Out(1), load_token : Out
        Fetch the token's scale.
    drained : In(1)
        The ``final`` step's result is written.
    sums_busy, scales_busy : In(1)
        Scales must be complete: the operator waits for both to fall.
    digit_first : Out(1), digit_weight : Out
        The accumulators that come in the next cycle are of a vector's first digit, and what the digit counts. Builds with a ternary
        engine alone.
    room : In(1), begin : Out(1)
        With CANDIDATES: another step may begin, and begins; ``room`` takes no account of the latest two cycles.
    lists_busy : In(1)
        With SHORTLIST or CANDIDATES the next token's vectors, and ``done``, wait for that, after the one before has left.
    """

    def __init__(self, config: BuildConfig) -> None:
        if LOAD_DELAY < 0:
            raise ValueError(f"Scales.LOAD must be at most {SCALE_USE}, not {Scales.LOAD!r}")
        self.config = config
        #: Cycles that steps and loads come later than without digits and row scales.
        self.later = DigitSum.latency * config.has_ternary + ROW_PRODUCT * config.has_int4
        super().__init__({
            "op": In(Operator(config)),
            "start": In(1),
            "done": Out(1),
            "token": Out(index_bits(config.tokens)),
            "vector": Out(index_bits(config.panel_vectors)),
            "step": Out(Step(config)),
            "load": Out(1),
            "load_token": Out(index_bits(config.chunk)),
            "drained": In(1),
            "sums_busy": In(1),
            "scales_busy": In(1),
            **({"digit_first": Out(1), "digit_weight": Out(WEIGHT_BITS)} if config.has_ternary else {}),
            "room": In(1),
            "begin": Out(1),
            "lists_busy": In(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        op, descriptor = self.op, self.op.descriptor

        source_offset, target_offset = Signal(16, reset_less=True), Signal(16, reset_less=True)
        source, target = Signal(16, reset_less=True), Signal(16, reset_less=True)
        vector = Signal(16)
        position = Signal.like(op.count)

        requesting = Signal()
        last_vector, last_token = Signal(), Signal()
        listed = (descriptor.flags & (Flag.SHORTLIST | Flag.CANDIDATES)).any()
        do_step, do_load, asked = self._request(m, requesting, last_vector)
        tag = Signal(Tag(self.config))
        m.d.comb += [
            last_vector.eq(vector + 1 == descriptor.vectors),
            last_token.eq(position + 1 == op.count),
            tag.source.eq(source + vector),
            tag.target.eq(target + vector),
            tag.final.eq((last_token | listed) & last_vector),
        ]
        self._send_load(m, do_load, position)
        self._send_step(m, do_step, tag, vector)
        m.d.sync += [self.token.eq(position), self.vector.eq(descriptor.row_blocks + asked)]

        with m.If(do_step):
            m.d.sync += vector.eq(Mux(last_vector, 0, vector + 1))

        with m.FSM(name="state"):
            with m.State("IDLE"), m.If(self.start & (descriptor.opcode == Opcode.DRAIN)):
                m.d.sync += [
                    source_offset.eq(op.first * descriptor.src_stride),
                    target_offset.eq(op.first * descriptor.dst_stride),
                    vector.eq(0),
                    position.eq(0),
                ]
                m.next = "BASE"
            with m.State("BASE"):
                m.d.sync += [source.eq(descriptor.src + source_offset), target.eq(descriptor.dst + target_offset)]
                m.next = "READY"
            with m.State("READY"), m.If(~self.sums_busy & ~self.scales_busy & ~(listed & self.lists_busy)):
                m.next = "REQUEST"
            with m.State("REQUEST"):
                m.d.comb += requesting.eq(1)
                with m.If(do_step & last_vector):
                    m.d.sync += [
                        position.eq(position + 1),
                        source.eq(source + descriptor.src_stride),
                        target.eq(target + descriptor.dst_stride),
                    ]
                    with m.If(last_token):
                        m.next = "FLUSH"
                    with m.Elif(listed):
                        m.next = "LISTED"
            with m.State("LISTED"), m.If(self.drained):
                m.next = "READY"
            with m.State("FLUSH"), m.If(self.drained):
                m.next = "FINISH"
            with m.State("FINISH"), m.If(~(listed & self.lists_busy)):
                m.d.comb += self.done.eq(1)
                m.next = "IDLE"
        return m

    def _request(self, m: Module, requesting: Signal, last_vector: Signal) -> tuple[Signal, Value, Signal]:
        """Requests while ``requesting``, one a digit. Returns whether the cycle's is the last one of a step, whether it is the
        first one of a token, and how many vectors of the token were asked for before.
        """
        config, flags = self.config, self.op.descriptor.flags
        candidates = (flags & Flag.CANDIDATES).any()
        request, do_step = Signal(), Signal()
        asked, digit, pause = Signal(len(self.vector)), Signal(range(TRITS_PER_BYTE)), Signal(range(config.width))
        first_digit = digit == 0
        m.d.comb += [
            self.begin.eq(requesting & first_digit & candidates & self.room & (pause == 0)),
            request.eq(requesting & (~first_digit | ~candidates | self.begin)),
            do_step.eq(request),
        ]
        with m.If(self.begin):
            m.d.sync += pause.eq(config.width - 1)
        with m.Elif(pause != 0):
            m.d.sync += pause.eq(pause - 1)
        if config.has_ternary:
            several = (flags & Flag.DIGITS).any()
            m.d.comb += do_step.eq(request & (~several | (digit == TRITS_PER_BYTE - 1)))
            with m.If(request):
                m.d.sync += digit.eq(Mux(do_step, 0, digit + 1))
            first, behind = first_digit, Mux(several, TRITS_PER_BYTE - 1 - digit, 0)
            for k in range(ACCUMULATOR_LATENCY):
                first, behind = pipelined(m, first, f"first_digit_{k}"), pipelined(m, behind, f"digits_behind_{k}")
            m.d.comb += self.digit_first.eq(first)
            with m.Switch(behind):
                for power in range(TRITS_PER_BYTE):
                    with m.Case(power):
                        m.d.comb += self.digit_weight.eq(3**power)
        with m.If(request):
            m.d.sync += asked.eq(Mux(do_step & last_vector, 0, asked + 1))
        return do_step, request & (asked == 0), asked

    def _send_load(self, m: Module, do_load: Value, position: Signal) -> None:
        """Fetches the scale of the token at ``position`` among the active ones."""
        load, load_token = do_load, self.op.first + position
        for k in range(LOAD_DELAY + self.later):
            load_next = Signal(name=f"load_{k}")
            m.d.sync += load_next.eq(load)
            load, load_token = load_next, pipelined(m, load_token[: len(self.load_token)], f"load_token_{k}")
        m.d.comb += [self.load.eq(load), self.load_token.eq(load_token)]

    def _send_step(self, m: Module, do_step: Signal, tag: data.View, vector: Signal) -> None:
        """The step waits for the accumulators."""
        descriptor, config = self.op.descriptor, self.config
        do_drain = do_step
        for k in range(REQUEST_LEAD + self.later):
            do_drain_next = Signal(name=f"do_drain_{k}")
            tag_next = Signal(Tag(self.config), name=f"tag_{k}", reset_less=True)
            m.d.sync += [do_drain_next.eq(do_drain), tag_next.eq(tag)]
            do_drain, tag = do_drain_next, tag_next
        m.d.comb += [self.step.strobes.drain.eq(do_drain), self.step.tag.eq(tag)]
        if config.has_int4:
            param = descriptor.param + vector
            for k in range(REQUEST_LEAD + self.later - ROW_PRODUCT):
                param = pipelined(m, param[: len(tag.param)], f"param_{k}")
            m.d.comb += self.step.tag.param.eq(param)
