"""One AXI4 read port of the weight stream."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from ...config import BuildConfig
from ..axi.burst import BurstSplitter, Run
from ..axi.signature import BURST_INCR, RESPONSE_OKAY, Axi4Read

__all__ = ["RUN_QUEUE", "ErrorReport", "PortReader", "WordStrobe"]

#: Runs that wait in front of a port, so that ports may run apart.
RUN_QUEUE = 4


def ErrorReport() -> wiring.Signature:
    """Strobe ``valid`` with the AXI response ``resp`` of a transaction that failed."""
    return wiring.Signature({"valid": Out(1), "resp": Out(2)})


def WordStrobe(config: BuildConfig) -> wiring.Signature:
    """One word of a port while ``valid``; there is no refusing it."""
    return wiring.Signature({"valid": Out(1), "data": Out(config.port_bits)})


class PortReader(wiring.Component):
    """Reads runs of words through one AXI4 port, in order, and hands the words to the ring.

    A burst is requested only when the ring has room for all of it: the port starts with room for ``ring_beats`` words
    and gets ``groups`` words back with every ``freed``. Read data therefore never waits (``axi.r.ready`` is constant 1).
    At most ``outstanding`` bursts are in flight.

    Members
    -------
    runs : In(stream of Run)
        This port's share of each segment.
    freed : In(1)
        Strobe: the ring freed one row.
    axi : Out(Axi4Read)
    words : Out(WordStrobe)
        One cycle after the word was read.
    error : Out(ErrorReport)
        One cycle after a word came with an error response; the word is delivered all the same.
    waiting : Out(1)
        A burst waits for room in the ring.
    idle : Out(1)
        Nothing is requested or in flight.
    halt : In(1)
        Level: no burst is requested.
    drained : Out(1)
        Nothing is in flight.
    unasked : Out(1)
        Strobe: a word came while nothing was in flight; it is not delivered.
    """

    def __init__(self, config: BuildConfig) -> None:
        self.config = config
        super().__init__({
            "runs": In(stream.Signature(Run())),
            "freed": In(1),
            "axi": Out(Axi4Read(config.port_bits)),
            "words": Out(WordStrobe(config)),
            "error": Out(ErrorReport()),
            "waiting": Out(1),
            "idle": Out(1),
            "halt": In(1),
            "drained": Out(1),
            "unasked": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        ar, r = self.axi.ar, self.axi.r

        m.submodules.queue = queue = fifo.SyncFIFO(width=Run().size, depth=RUN_QUEUE)
        m.submodules.splitter = splitter = BurstSplitter(word_bytes=config.port_bytes, burst=config.burst)
        m.d.comb += [
            queue.w_data.eq(self.runs.p.as_value()),
            queue.w_en.eq(self.runs.valid),
            self.runs.ready.eq(queue.w_rdy),
            splitter.runs.p.as_value().eq(queue.r_data),
            splitter.runs.valid.eq(queue.r_rdy),
            queue.r_en.eq(splitter.runs.ready),
        ]

        room = Signal(range(config.ring_beats + 1), init=config.ring_beats)
        in_flight = Signal(range(config.outstanding + 1))
        burst = splitter.bursts
        issue, ended, fits, may_fly, asked = Signal(), Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            fits.eq(room >= burst.p.words),
            may_fly.eq(in_flight != config.outstanding),
            issue.eq(burst.valid & fits & may_fly & ~self.halt & (~ar.valid | ar.ready)),
            burst.ready.eq(issue),
            self.drained.eq(in_flight == 0),
            asked.eq(r.valid & ~self.drained),
            self.unasked.eq(r.valid & self.drained),
            ended.eq(asked & r.last),
            self.waiting.eq(burst.valid & ~fits),
            self.idle.eq(~queue.r_rdy & splitter.idle & (in_flight == 0)),
            ar.size.eq(config.port_bytes.bit_length() - 1),
            ar.burst.eq(BURST_INCR),
            r.ready.eq(1),
        ]
        m.d.sync += [
            room.eq(room - burst.p.words * issue + config.groups * self.freed),
            in_flight.eq(in_flight + issue - ended),
        ]
        with m.If(issue):
            m.d.sync += [ar.valid.eq(1), ar.addr.eq(burst.p.address), ar.len.eq(burst.p.words - 1)]
        with m.Elif(ar.ready):
            m.d.sync += ar.valid.eq(0)

        m.d.sync += [
            self.words.valid.eq(asked),
            self.words.data.eq(r.data),
            self.error.valid.eq(asked & (r.resp != RESPONSE_OKAY)),
            self.error.resp.eq(r.resp),
        ]
        return m
