"""Writes the logits of the LM head to memory."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import fifo, wiring
from amaranth.lib.wiring import In, Out

from ...config import BuildConfig
from ..interfaces import ADDRESS_BITS, Segment, WriteBeat

__all__ = ["LogitWriter"]


class LogitWriter(wiring.Component):
    """One segment of ``ceil(rows / width)`` beats of float32, rounded up to a multiple of ``groups``; the rest is 0.

    Members
    -------
    start : In(1), rows : In(32), address : In
        Strobe: a segment of ``rows`` logits at ``address``.
    room : Out(1), begin : In(1)
        Whether the logits of another block may come, and the strobe that reserves the place for them.
    valid : In(1), logit : In(32)
        The next logit, 0 from row ``rows`` on; whole blocks of ``kv_block``.
    finish : In(1)
        Level: the last block's logits have come. Held until ``idle``.
    idle : Out(1)
    segment : Out(Segment), beats : Out(WriteBeat)
    """

    def __init__(self, config: BuildConfig) -> None:
        self.config = config
        super().__init__({
            "start": In(1),
            "rows": In(32),
            "address": In(ADDRESS_BITS),
            "room": Out(1),
            "begin": In(1),
            "valid": In(1),
            "logit": In(32),
            "finish": In(1),
            "idle": Out(1),
            "segment": Out(Segment()),
            "beats": Out(WriteBeat(config)),
        })  # fmt: skip

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        width_bits, group_bits = ((n - 1).bit_length() for n in (config.width, config.groups))
        block_beats = config.kv_block // config.width
        depth = 4 * block_beats
        m.submodules.queue = queue = fifo.SyncFIFO(width=8 * config.beat_bytes, depth=depth)

        gathered = Signal(8 * config.beat_bytes)
        count = Signal(width_bits)
        push = Signal()
        left = Signal(32)
        reserved = Signal(range(depth + 1))
        active = Signal()
        m.d.sync += push.eq(0)
        with m.If(active & self.valid):
            m.d.sync += [gathered.eq(Cat(gathered[32:], self.logit)), count.eq(count + 1), push.eq(count == config.width - 1)]
        pop = Signal()
        m.d.comb += [
            queue.w_en.eq(push),
            queue.w_data.eq(gathered),
            queue.r_en.eq(pop),
            self.room.eq(~active | (reserved <= depth - block_beats)),
            self.beats.payload.data.eq(Mux(queue.r_rdy, queue.r_data, 0)),
            self.beats.payload.strobe.eq(~0),
            self.segment.payload.address.eq(self.address),
            self.segment.payload.beats.eq(left),
        ]
        m.d.sync += reserved.eq(reserved + Mux(active & self.begin, block_beats, 0) - (pop & queue.r_rdy))

        finished = Signal()
        # The last push comes a cycle after its logit.
        m.d.sync += finished.eq(self.finish & ~push)
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.idle.eq(~self.start)
                vectors = Signal(32)
                m.d.comb += vectors.eq((self.rows + config.width - 1) >> width_bits)
                m.d.sync += left.eq(((vectors + config.groups - 1) >> group_bits) << group_bits)
                with m.If(self.start):
                    m.d.sync += [active.eq(1), count.eq(0)]
                    m.next = "SEGMENT"
            with m.State("SEGMENT"):
                m.d.comb += self.segment.valid.eq(1)
                with m.If(self.segment.ready):
                    m.next = "BEATS"
            with m.State("BEATS"):
                m.d.comb += [self.beats.valid.eq(queue.r_rdy | finished), pop.eq(self.beats.ready)]
                with m.If(self.beats.valid & self.beats.ready):
                    m.d.sync += left.eq(left - 1)
                    with m.If(left == 1):
                        m.next = "DROP"
            with m.State("DROP"):
                # The last block may hold whole beats of missing rows.
                m.d.comb += pop.eq(1)
                with m.If(finished & ~queue.r_rdy):
                    m.d.sync += active.eq(0)
                    m.next = "IDLE"
        return m
