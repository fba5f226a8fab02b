"""The memory system: everything between the AXI4 ports and the operators."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from ...config import BuildConfig
from ..active import Pass
from ..axi.merge import ReadMerge
from ..axi.signature import Axi4
from ..interfaces import ADDRESS_BITS, DescriptorLayout, RowStream, Segment, WriteBeat
from .port import ErrorReport, PortReader
from .prefetch import Prefetcher, TableRead
from .program import ProgramReader
from .ring import UramRing
from .stripe import PlaneSplitter
from .writer import StreamWriter

__all__ = ["SETTLE_CYCLES", "MemorySystem"]

#: After reset, cycles without an answer that nobody asked for before the first pass begins: one that comes later is then
#: never one from before the reset.
SETTLE_CYCLES = 1024


class MemorySystem(wiring.Component):
    """Program reader, prefetcher, port readers, ring and writers.

    Members
    -------
    start : In(1)
        Strobe: a pass begins with the program at ``program``. The first one after reset waits until no unasked answer has come
        for `SETTLE_CYCLES`.
    current, tokens, pages, shortlist, shortlist_complete
        See `Prefetcher`.
    descriptors : Out(stream of DescriptorLayout)
        For the sequencer.
    rows, hold, rewind
        See `UramRing`.
    segments, beats : In
        What is written, see `StreamWriter`.
    axi : Out(Axi4) per port
    quiet : Out(1)
        END was prefetched, and nothing is in flight to or from memory.
    read_errors, write_errors : Out(ErrorReport) per port
    program_error : Out(ErrorReport)
        An error on port 0 while the program was read.
    read_word, read_stall, write_word : Out, one bit a port
        A word was taken, was offered but not taken, was written.
    ring_word : Out(1)
        A word of port 0, and so one beat, enters the ring.
    ring_full : Out(1)
        Port 0 waits for room in the ring.
    ring_level : Out
        Rows in the ring, see `UramRing`.
    halt : In(1)
        Level: no read or write burst is requested.
    drained : Out(1)
        Nothing is in flight on any port, and no address or data is offered. With ``halt`` it stays so, and the memory system
        may be reset alone.
    unasked : Out
        Read words and write responses of this cycle that nobody asked for. They are discarded.
    """

    def __init__(self, config: BuildConfig) -> None:
        self.config = config
        super().__init__({
            "start": In(1),
            "program": In(ADDRESS_BITS),
            "current": In(Pass(config)),
            "tokens": Out(TableRead(config.chunk)),
            "pages": Out(TableRead(config.max_pages)),
            "shortlist": Out(TableRead(config.shortlist)),
            "shortlist_complete": In(1),
            "descriptors": Out(stream.Signature(DescriptorLayout())),
            "rows": Out(RowStream(config)),
            "hold": In(1),
            "rewind": In(1),
            "segments": In(Segment()),
            "beats": In(WriteBeat(config)),
            "axi": Out(Axi4(config.port_bits)).array(config.ports),
            "quiet": Out(1),
            "read_errors": Out(ErrorReport()).array(config.ports),
            "program_error": Out(ErrorReport()),
            "write_errors": Out(ErrorReport()).array(config.ports),
            "read_word": Out(config.ports),
            "read_stall": Out(config.ports),
            "write_word": Out(config.ports),
            "ring_word": Out(1),
            "ring_full": Out(1),
            "ring_level": Out(range(config.ring_beats // config.groups + 1)),
            "halt": In(1),
            "drained": Out(1),
            "unasked": Out(range(2 * config.ports + 2)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        m.submodules.program = program = ProgramReader(config)
        m.submodules.prefetcher = prefetcher = Prefetcher(config)
        m.submodules.planes = planes = PlaneSplitter(config)
        m.submodules.ring = ring = UramRing(config)
        m.submodules.writer = writer = StreamWriter(config)

        start = self._settled_start(m)
        m.d.comb += [program.start.eq(start), program.address.eq(self.program), program.halt.eq(self.halt)]
        connect(m, program.error, flipped(self.program_error))
        connect(m, program.descriptors[0], prefetcher.descriptors)
        connect(m, program.descriptors[1], flipped(self.descriptors))
        connect(m, flipped(self.current), prefetcher.current)
        connect(m, prefetcher.tokens, flipped(self.tokens))
        connect(m, prefetcher.pages, flipped(self.pages))
        connect(m, prefetcher.shortlist, flipped(self.shortlist))
        m.d.comb += prefetcher.shortlist_complete.eq(self.shortlist_complete)
        connect(m, prefetcher.segments, planes.segments)
        connect(m, ring.rows, flipped(self.rows))
        connect(m, flipped(self.segments), writer.segments)
        connect(m, flipped(self.beats), writer.beats)
        m.d.comb += [ring.hold.eq(self.hold), ring.rewind.eq(self.rewind)]

        readers = []
        for number, axi in enumerate(self.axi):
            reader = PortReader(config)
            m.submodules[f"reader{number}"] = reader
            connect(m, planes.runs[number], reader.runs)
            connect(m, reader.words, ring.words[number])
            connect(m, reader.error, flipped(self.read_errors[number]))
            connect(m, writer.errors[number], flipped(self.write_errors[number]))
            m.d.comb += [reader.freed.eq(ring.freed), reader.halt.eq(self.halt)]
            port = reader.axi
            if number == 0:
                # The program shares the first port.
                m.submodules.merge = merge = ReadMerge(config.port_bits)
                connect(m, reader.axi, merge.low)
                connect(m, program.axi, merge.high)
                port = merge.port
            for channel in ("ar", "r"):
                inner, outer = getattr(port, channel), getattr(flipped(axi), channel)
                connect(m, inner, outer)
            for channel in ("aw", "w", "b"):
                connect(m, getattr(writer.axi[number], channel), getattr(flipped(axi), channel))
            m.d.comb += [
                self.read_word[number].eq(axi.r.valid & axi.r.ready),
                self.read_stall[number].eq(axi.r.valid & ~axi.r.ready),
                self.write_word[number].eq(axi.w.valid & axi.w.ready),
            ]
            readers.append(reader)
        m.d.comb += [
            self.ring_word.eq(readers[0].words.valid),
            self.ring_full.eq(readers[0].waiting),
            self.ring_level.eq(ring.level),
            self.quiet.eq(
                program.idle & prefetcher.idle & planes.idle & Cat(r.idle for r in readers).all() & writer.idle
            ),
            writer.halt.eq(self.halt),
            self.drained.eq(program.drained & Cat(r.drained for r in readers).all() & writer.drained),
            self.unasked.eq(sum((r.unasked for r in readers), program.unasked) + sum(writer.unasked)),
        ]
        return m

    def _settled_start(self, m: Module) -> Signal:
        """``start``, held back after reset."""
        start, pending, settled = Signal(), Signal(), Signal()
        quiet_cycles = Signal(range(SETTLE_CYCLES))
        with m.If(self.unasked != 0):
            m.d.sync += quiet_cycles.eq(0)
        with m.Else():
            m.d.sync += quiet_cycles.eq(quiet_cycles + 1)
            with m.If(quiet_cycles == SETTLE_CYCLES - 1):
                m.d.sync += settled.eq(1)
        m.d.comb += start.eq((self.start | pending) & settled)
        m.d.sync += pending.eq((self.start | pending) & ~settled)
        return start
