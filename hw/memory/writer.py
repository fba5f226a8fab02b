"""Streams beats to memory."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import fifo, wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from amaranth.utils import bits_for

from ...config import BuildConfig
from ..axi.burst import BurstSplitter
from ..axi.signature import BURST_INCR, RESPONSE_OKAY, Axi4Write
from ..interfaces import Segment, WriteBeat, index_bits
from .port import ErrorReport

__all__ = ["StreamWriter"]

#: Words of a write burst at most, but a beat at least.
BURST_WORDS = 16
#: Bursts whose words are sent, or wait for that, after their address was.
BURST_QUEUE = 4


class StreamWriter(wiring.Component):
    """Writes segments of beats through one AXI4 port.

    A burst begins when all its words are here, so that it always comes to an end; its words then do not wait for its address to be
    taken. At most ``outstanding`` bursts await their response.

    Members
    -------
    segments : In(Segment)
    beats : In(WriteBeat)
        The beats of all segments, in order.
    halt : In(1)
        Level: no burst begins.
    axi : Out(Axi4Write)
    error : Out(ErrorReport)
    unasked : Out(1)
        Strobe: a response came that nobody waits for. It was dropped.
    beat : Out(1)
        A beat goes to the port.
    idle : Out(1)
        Every accepted segment is in memory.
    in_flight : Out(1)
        Something is offered or in flight on the port.
    """

    def __init__(self, config: BuildConfig) -> None:
        self.config = config
        #: Beats of a burst.
        self.burst = max(1, min(config.burst, BURST_WORDS) // config.beat_words)
        super().__init__({
            "segments": In(Segment()),
            "beats": In(WriteBeat(config)),
            "halt": In(1),
            "axi": Out(Axi4Write(config.port_bits)),
            "error": Out(ErrorReport()),
            "unasked": Out(1),
            "beat": Out(1),
            "idle": Out(1),
            "in_flight": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        aw, b = self.axi.aw, self.axi.b
        m.submodules.splitter = splitter = BurstSplitter(beat_bytes=config.beat_bytes, burst=self.burst)
        connect(m, flipped(self.segments), splitter.segments)
        burst = splitter.bursts

        held = Signal(range(2 * self.burst + 1))
        waiting = Signal(range(config.outstanding + 1))
        issue, answered, may_issue = Signal(), Signal(), Signal()
        queued, lengths_left, sending = self._send(m, issue, burst.p.beats)
        m.d.comb += [
            issue.eq(
                burst.valid & (held >= burst.p.beats) & may_issue & ~aw.valid & ~self.halt
            ),
            burst.ready.eq(issue),
            aw.size.eq(config.port_bytes.bit_length() - 1),
            aw.burst.eq(BURST_INCR),
            b.ready.eq(1),
            answered.eq(b.valid & (waiting != 0)),
            self.in_flight.eq(aw.valid | sending | (waiting != 0)),
            self.idle.eq(splitter.idle & (waiting == 0)),
        ]
        m.d.sync += [
            # Of the cycle before, in which no burst began: its address would be on offer now.
            may_issue.eq(lengths_left & (waiting != config.outstanding)),
            held.eq(held + queued - Mux(issue, burst.p.beats, 0)),
            waiting.eq(waiting + issue - answered),
            self.unasked.eq(b.valid & (waiting == 0)),
            self.error.valid.eq(answered & (b.resp != RESPONSE_OKAY)),
            self.error.resp.eq(b.resp),
        ]
        with m.If(issue):
            m.d.sync += [aw.valid.eq(1), aw.addr.eq(burst.p.address), aw.len.eq(self._words_less_one(m, burst.p.beats))]
        with m.Elif(aw.ready):
            m.d.sync += aw.valid.eq(0)
        return m

    def _words_less_one(self, m: Module, beats: Signal) -> Value:
        less_one = Signal(bits_for(self.burst))
        m.d.comb += less_one.eq(beats - 1)
        return Cat(Const(self.config.beat_words - 1, self.config.beat_words.bit_length() - 1), less_one)

    def _send(self, m: Module, issue: Signal, beats: Signal) -> tuple[Value, Value, Value]:
        """Beats to words and bursts of them to the port; returns when a whole beat was queued, whether another burst may begin, and
        whether words of one are left."""
        config, w = self.config, self.axi.w
        words = config.beat_words
        bits = config.port_bits + config.port_bytes
        m.submodules.words = queue = fifo.SyncFIFO(width=bits, depth=2 * self.burst * words)
        m.submodules.lengths = lengths = fifo.SyncFIFO(width=bits_for(self.burst), depth=BURST_QUEUE)

        place, queued = Signal(index_bits(words)), Signal()
        m.d.comb += [
            queue.w_data.eq(Cat(
                self.beats.p.data.word_select(place, config.port_bits),
                self.beats.p.strobe.word_select(place, config.port_bytes),
            )),
            queue.w_en.eq(self.beats.valid),
            self.beats.ready.eq(queue.w_rdy & (place == words - 1)),
            queued.eq(self.beats.valid & self.beats.ready),
            lengths.w_data.eq(beats),
            lengths.w_en.eq(issue),
        ]
        with m.If(self.beats.valid & queue.w_rdy):
            m.d.sync += place.eq(Mux(place == words - 1, 0, place + 1))

        # Words of the present burst that were not sent.
        left, take, end_of_beat = Signal(range(self.burst * words + 1)), Signal(), Signal()
        m.d.comb += [
            take.eq((left != 0) & (~w.valid | w.ready)),
            end_of_beat.eq((left & (words - 1)) == 1 % words),
            queue.r_en.eq(take),
            lengths.r_en.eq(left == 0),
            self.beat.eq(take & end_of_beat),
        ]
        with m.If(take):
            m.d.sync += [w.valid.eq(1), Cat(w.data, w.strb).eq(queue.r_data), w.last.eq(left == 1), left.eq(left - 1)]
        with m.Elif(w.ready):
            m.d.sync += w.valid.eq(0)
        with m.If(lengths.r_en & lengths.r_rdy):
            m.d.sync += left.eq(lengths.r_data * words)
        return queued, lengths.w_rdy, lengths.r_rdy | (left != 0) | w.valid
