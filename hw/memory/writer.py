"""Streams beats to memory."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import fifo, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from ...config import BuildConfig
from ..axi.burst import BurstSplitter, Run
from ..axi.signature import BURST_INCR, RESPONSE_OKAY, Axi4Write
from ..interfaces import Segment, WriteBeat
from .port import RUN_QUEUE, ErrorReport
from .stripe import PlaneSplitter

__all__ = ["PortWriter", "StreamWriter"]

#: Words and bursts that wait in a port.
WORD_QUEUE = 16
BURST_QUEUE = 4


class PortWriter(wiring.Component):
    """Writes runs of words through one AXI4 port.

    A burst's words are offered after its address was taken. At most ``outstanding`` bursts await their response.

    Members
    -------
    runs : In(stream of Run)
    words : In(stream)
        ``{strobe, data}``, data in the low bits, in the order of the runs.
    axi : Out(Axi4Write)
    error : Out(ErrorReport)
    idle : Out(1)
        Nothing is held or awaits a response.
    halt : In(1)
        Level: no burst is requested.
    drained : Out(1)
        No burst awaits data or response.
    unasked : Out(1)
        Strobe: a response came that no burst awaited.
    """

    def __init__(self, config: BuildConfig) -> None:
        self.config = config
        super().__init__({
            "runs": In(stream.Signature(Run())),
            "words": In(stream.Signature(config.port_bits + config.port_bytes)),
            "axi": Out(Axi4Write(config.port_bits)),
            "error": Out(ErrorReport()),
            "idle": Out(1),
            "halt": In(1),
            "drained": Out(1),
            "unasked": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        aw, w, b = self.axi.aw, self.axi.w, self.axi.b

        m.submodules.runs = runs = fifo.SyncFIFO(width=Run().size, depth=RUN_QUEUE)
        m.submodules.words = words = fifo.SyncFIFO(width=len(self.words.payload), depth=WORD_QUEUE)
        m.submodules.lengths = lengths = fifo.SyncFIFO(width=8, depth=BURST_QUEUE)
        m.submodules.splitter = splitter = BurstSplitter(word_bytes=config.port_bytes, burst=config.burst)
        m.d.comb += [
            runs.w_data.eq(self.runs.p.as_value()),
            runs.w_en.eq(self.runs.valid),
            self.runs.ready.eq(runs.w_rdy),
            splitter.runs.p.as_value().eq(runs.r_data),
            splitter.runs.valid.eq(runs.r_rdy),
            runs.r_en.eq(splitter.runs.ready),
            words.w_data.eq(self.words.payload),
            words.w_en.eq(self.words.valid),
            self.words.ready.eq(words.w_rdy),
        ]

        # Addresses.
        waiting = Signal(range(config.outstanding + 1))
        burst, issue, answered = splitter.bursts, Signal(), Signal()
        m.d.comb += [
            issue.eq(burst.valid & lengths.w_rdy & (waiting != config.outstanding) & ~self.halt & ~aw.valid),
            self.drained.eq(waiting == 0),
            self.unasked.eq(b.valid & self.drained),
            burst.ready.eq(issue),
            aw.size.eq(config.port_bytes.bit_length() - 1),
            aw.burst.eq(BURST_INCR),
            lengths.w_data.eq(aw.len),
            lengths.w_en.eq(aw.valid & aw.ready),
            b.ready.eq(1),
            answered.eq(b.valid & ~self.drained),
            self.idle.eq(~runs.r_rdy & splitter.idle & (waiting == 0)),
        ]
        m.d.sync += waiting.eq(waiting + issue - answered)
        with m.If(issue):
            m.d.sync += [aw.valid.eq(1), aw.addr.eq(burst.p.address), aw.len.eq(burst.p.words - 1)]
        with m.Elif(aw.ready):
            m.d.sync += aw.valid.eq(0)

        # Data.
        index = Signal(8)
        take, last = Signal(), Signal()
        m.d.comb += [
            take.eq(lengths.r_rdy & words.r_rdy & (~w.valid | w.ready)),
            last.eq(index == lengths.r_data),
            words.r_en.eq(take),
            lengths.r_en.eq(take & last),
        ]
        with m.If(take):
            m.d.sync += [w.valid.eq(1), Cat(w.data, w.strb).eq(words.r_data), w.last.eq(last), index.eq(index + 1)]
            with m.If(last):
                m.d.sync += index.eq(0)
        with m.Elif(w.ready):
            m.d.sync += w.valid.eq(0)

        m.d.sync += [self.error.valid.eq(answered & (b.resp != RESPONSE_OKAY)), self.error.resp.eq(b.resp)]
        return m


class StreamWriter(wiring.Component):
    """Writes segments of beats, striped over the ports like everything that is streamed.

    Members
    -------
    segments : In(Segment)
    beats : In(WriteBeat)
        The beats of all segments, in order.
    axi : Out(Axi4Write) per port
    errors : Out(ErrorReport) per port
    idle : Out(1)
        Every accepted segment is in memory.
    halt, drained : In(1), Out(1)
        See `PortWriter`, of all ports.
    unasked : Out, one bit a port
    """

    def __init__(self, config: BuildConfig) -> None:
        self.config = config
        super().__init__({
            "segments": In(Segment()),
            "beats": In(WriteBeat(config)),
            "axi": Out(Axi4Write(config.port_bits)).array(config.ports),
            "errors": Out(ErrorReport()).array(config.ports),
            "idle": Out(1),
            "halt": In(1),
            "drained": Out(1),
            "unasked": Out(config.ports),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        m.submodules.planes = planes = PlaneSplitter(config)
        connect(m, flipped(self.segments), planes.segments)

        ports, accept = [], Signal()
        for number in range(config.ports):
            port = PortWriter(config)
            m.submodules[f"port{number}"] = port
            connect(m, planes.runs[number], port.runs)
            connect(m, port.axi, flipped(self.axi[number]))
            connect(m, port.error, flipped(self.errors[number]))
            m.d.comb += [
                port.words.payload.eq(Cat(
                    self.beats.p.data.word_select(number, config.port_bits),
                    self.beats.p.strobe.word_select(number, config.port_bytes),
                )),
                port.words.valid.eq(accept),
                port.halt.eq(self.halt),
                self.unasked[number].eq(port.unasked),
            ]
            ports.append(port)
        m.d.comb += [
            # A beat is taken when every port has room for its word.
            self.beats.ready.eq(Cat(port.words.ready for port in ports).all()),
            accept.eq(self.beats.valid & self.beats.ready),
            self.idle.eq(planes.idle & Cat(port.idle for port in ports).all()),
            self.drained.eq(Cat(port.drained for port in ports).all()),
        ]
        return m
