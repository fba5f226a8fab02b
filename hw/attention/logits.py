"""Writes the logits of the LM head to memory."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import fifo, wiring
from amaranth.lib.wiring import In, Out

from ...config import BuildConfig
from ..interfaces import ADDRESS_BITS, Segment, WriteBeat

__all__ = ["LogitWriter"]


class LogitWriter(wiring.Component):
    """One segment of float32 beats, rounded up to a multiple of ``groups`` beats; the rest is 0. Logits wait one by one in a
    queue, so that only one register is a beat wide.

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
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        words = config.beat_bytes // 4
        word_bits, group_bits = (words - 1).bit_length(), (config.groups - 1).bit_length()
        depth = 2 * config.kv_block
        m.submodules.queue = queue = fifo.SyncFIFO(width=32, depth=depth)

        gathered = Signal(8 * config.beat_bytes, reset_less=True)
        count = Signal(word_bits)
        left = Signal(32)
        reserved = Signal(range(depth + 1))
        active, finished, sending, full, shift, drop = Signal(), Signal(), Signal(), Signal(), Signal(), Signal()
        m.d.sync += [
            reserved.eq(reserved + Mux(active & self.begin, config.kv_block, 0) - (queue.r_rdy & queue.r_en)),
            finished.eq(self.finish),
        ]
        m.d.comb += [
            queue.w_en.eq(active & self.valid),
            queue.w_data.eq(self.logit),
            queue.r_en.eq(shift | drop),
            self.room.eq(~active | (reserved <= depth - config.kv_block)),
            # Not in the cycle in which a beat leaves: `ready` comes from far away.
            shift.eq(sending & ~full & (queue.r_rdy | finished)),
            self.beats.valid.eq(full),
            self.beats.payload.data.eq(gathered),
            self.beats.payload.strobe.eq(~0),
            self.segment.payload.address.eq(self.address),
            self.segment.payload.beats.eq(left),
        ]
        with m.If(self.beats.ready):
            m.d.sync += full.eq(0)
        with m.If(shift):
            m.d.sync += [
                gathered.eq(Cat(gathered[32:], Mux(queue.r_rdy, queue.r_data, 0))),
                count.eq(count + 1),
                full.eq(count == words - 1),
            ]

        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.idle.eq(~self.start)
                beats = Signal(32)
                m.d.comb += beats.eq((self.rows + words - 1) >> word_bits)
                m.d.sync += left.eq(((beats + config.groups - 1) >> group_bits) << group_bits)
                with m.If(self.start):
                    m.d.sync += [active.eq(1), count.eq(0)]
                    m.next = "SEGMENT"
            with m.State("SEGMENT"):
                m.d.comb += self.segment.valid.eq(1)
                with m.If(self.segment.ready):
                    m.next = "BEATS"
            with m.State("BEATS"):
                m.d.comb += sending.eq(1)
                with m.If(full & self.beats.ready):
                    m.d.sync += left.eq(left - 1)
                    with m.If(left == 1):
                        m.next = "DROP"
            with m.State("DROP"):
                # The last block may hold whole beats of missing rows.
                m.d.comb += drop.eq(1)
                with m.If(finished & ~queue.r_rdy):
                    m.d.sync += active.eq(0)
                    m.next = "IDLE"
        return m
