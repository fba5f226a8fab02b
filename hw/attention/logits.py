"""Writes logits of the vocabulary to memory."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import fifo, wiring
from amaranth.lib.wiring import In, Out

from ...config import BuildConfig
from ..interfaces import ADDRESS_BITS, Segment, WriteBeat

__all__ = ["LogitWriter"]


class LogitWriter(wiring.Component):
    """Segments of float32 logits, whole beats of them. Logits wait one by one in a queue, so that only one register is a beat wide.

    Members
    -------
    start : In(1), count : In(16), address : In
        Strobe, while ``idle``: a segment of ``count`` beats at ``address``.
    room : Out(1), begin : In(1)
        Whether another vector of logits may come, and the strobe that reserves the place for it.
    valid : In(1), logit : In(32)
        The next logit; as many as the segment holds.
    idle : Out(1)
        From ``start`` on 0, until the last beat was taken.
    segment : Out(Segment), beats : Out(WriteBeat)
    """

    def __init__(self, config: BuildConfig, depth: int) -> None:
        if depth < config.width:
            raise ValueError(f"depth must be at least {config.width} (a vector), not {depth!r}")
        self.config, self.depth = config, depth
        super().__init__({
            "start": In(1),
            "count": In(16),
            "address": In(ADDRESS_BITS),
            "room": Out(1),
            "begin": In(1),
            "valid": In(1),
            "logit": In(32),
            "idle": Out(1),
            "segment": Out(Segment()),
            "beats": Out(WriteBeat(config)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, depth = self.config, self.depth
        words = config.beat_bytes // 4
        m.submodules.queue = queue = fifo.SyncFIFO(width=32, depth=depth)

        gathered = Signal(8 * config.beat_bytes, reset_less=True)
        place = Signal(range(words))
        left = Signal(16)
        reserved = Signal(range(depth + 1))
        active, sending, full, shift = Signal(), Signal(), Signal(), Signal()
        m.d.sync += reserved.eq(reserved + Mux(active & self.begin, config.width, 0) - shift)
        m.d.comb += [
            queue.w_en.eq(active & self.valid),
            queue.w_data.eq(self.logit),
            queue.r_en.eq(shift),
            self.room.eq(reserved <= depth - config.width),
            # Not in the cycle in which a beat leaves: `ready` comes from far away.
            shift.eq(sending & ~full & queue.r_rdy),
            self.beats.valid.eq(full),
            self.beats.payload.data.eq(gathered),
            self.beats.payload.strobe.eq(~0),
            self.segment.payload.address.eq(self.address),
            self.segment.payload.beats.eq(left),
            self.idle.eq(~active & ~self.start),
        ]
        with m.If(self.beats.ready):
            m.d.sync += full.eq(0)
        with m.If(shift):
            m.d.sync += [gathered.eq(Cat(gathered[32:], queue.r_data)), place.eq(place + 1), full.eq(place == words - 1)]

        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += left.eq(self.count)
                with m.If(self.start):
                    m.d.sync += active.eq(1)
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
                        m.d.sync += active.eq(0)
                        m.next = "IDLE"
        return m
