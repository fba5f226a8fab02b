"""The memory system: everything between the AXI4 ports and the operators."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from ...config import BuildConfig
from ..active import Pass
from ..axi.merge import ReadMerge
from ..axi.signature import Axi4
from ..choice import choice_entries
from ..interfaces import ADDRESS_BITS, DescriptorLayout, RowStream, RunRead, Segment, TableRead, WriteBeat, index_bits
from .port import ErrorReport
from .prefetch import Prefetcher
from .program import ProgramReader
from .reader import StreamReader
from .writer import StreamWriter

__all__ = ["SETTLE_CYCLES", "MemorySystem"]

#: The first program after a reset waits until nothing unasked has come for so long: longer than any memory takes to answer.
SETTLE_CYCLES = 1024


class MemorySystem(wiring.Component):
    """Program reader, prefetcher, read stream and writer. Port 0 also reads the program, and it alone writes.

    Ports may answer what was asked before a reset. Such answers are dropped and counted: nothing is asked for before they have
    ceased (`SETTLE_CYCLES`), so that none is taken for another one.

    Members
    -------
    start : In(1)
        Strobe: a pass begins with the program at ``program``.
    port_enable : In, one bit a port
        Ports that the stream is read through, as they are at ``start``; all of them where no bit is set.
    current, tokens, pages, runs, shortlist, shortlist_number, shortlist_read, shortlist_complete
        See `Prefetcher`.
    descriptors : Out(stream of DescriptorLayout)
        For the sequencer.
    rows, hold, rewind
        See `UramRing`.
    segments, beats : In
        What is written, see `StreamWriter`.
    axi : Out(Axi4) per port
    quiet : Out(1)
        END was prefetched, and nothing is in flight to or from memory (as it was in the cycle before).
    halt : In(1)
        Level: no read or write burst begins, from the next cycle on. Those that have begun come to their end.
    drained : Out(1)
        No port offers anything, and nothing is in flight (as it was in the cycle before).
    read_errors : Out(ErrorReport) per port
    program_error, write_error : Out(ErrorReport)
        Errors on port 0 while the program was read, or in writing.
    unasked : Out
        Read words and write responses that nobody had asked for: in this cycle alone.
    read_word, read_stall : Out, one bit a port
        A word was taken, was offered but not taken.
    write_beat : Out(1)
        A beat was written.
    ring_beat : Out(1)
        A beat enters the ring.
    ring_full : Out(1)
        The stream waits for room in the ring.
    ring_level : Out
        Rows in the ring, see `UramRing`.
    """

    def __init__(self, config: BuildConfig) -> None:
        self.config = config
        super().__init__({
            "start": In(1),
            "program": In(ADDRESS_BITS),
            "port_enable": In(config.ports),
            "current": In(Pass(config)),
            "tokens": Out(TableRead(config.chunk)),
            "pages": Out(TableRead(config.page_entries)),
            "runs": Out(RunRead(config)),
            **({"choice": Out(TableRead(choice_entries(config))), "choice_done": In(1)} if config.kv_budget else {}),
            "shortlist": Out(TableRead(config.shortlist)),
            "shortlist_number": Out(index_bits(config.chunk)),
            "shortlist_read": Out(1),
            "shortlist_complete": In(1),
            "descriptors": Out(stream.Signature(DescriptorLayout())),
            "rows": Out(RowStream(config)),
            "hold": In(1),
            "rewind": In(1),
            "segments": In(Segment()),
            "beats": In(WriteBeat(config)),
            "axi": Out(Axi4(config.port_bits)).array(config.ports),
            "quiet": Out(1),
            "halt": In(1),
            "drained": Out(1),
            "read_errors": Out(ErrorReport()).array(config.ports),
            "program_error": Out(ErrorReport()),
            "write_error": Out(ErrorReport()),
            "unasked": Out(range(2 * config.ports + 2)),
            "read_word": Out(config.ports),
            "read_stall": Out(config.ports),
            "write_beat": Out(1),
            "ring_beat": Out(1),
            "ring_full": Out(1),
            "ring_level": Out(range(config.ring_beats // config.groups + 1)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        m.submodules.program = program = ProgramReader(config)
        m.submodules.prefetcher = prefetcher = Prefetcher(config)
        m.submodules.reader = reader = StreamReader(config)
        m.submodules.writer = writer = StreamWriter(config)

        connect(m, program.error, flipped(self.program_error))
        connect(m, program.descriptors[0], prefetcher.descriptors)
        connect(m, program.descriptors[1], flipped(self.descriptors))
        connect(m, flipped(self.current), prefetcher.current)
        connect(m, prefetcher.tokens, flipped(self.tokens))
        connect(m, prefetcher.pages, flipped(self.pages))
        connect(m, prefetcher.runs, flipped(self.runs))
        connect(m, prefetcher.shortlist, flipped(self.shortlist))
        if config.kv_budget:
            connect(m, prefetcher.choice, flipped(self.choice))
            m.d.comb += prefetcher.choice_done.eq(self.choice_done)
        connect(m, prefetcher.segments, reader.segments)
        connect(m, reader.rows, flipped(self.rows))
        connect(m, flipped(self.segments), writer.segments)
        connect(m, flipped(self.beats), writer.beats)
        connect(m, writer.error, flipped(self.write_error))
        halt = Signal()
        m.d.sync += halt.eq(self.halt)
        enabled = Signal(config.ports, init=-1)
        with m.If(self.start):
            m.d.sync += enabled.eq(Mux(self.port_enable.any(), self.port_enable, -1))
        m.d.comb += [
            program.address.eq(self.program),
            prefetcher.shortlist_complete.eq(self.shortlist_complete),
            self.shortlist_number.eq(prefetcher.shortlist_number),
            self.shortlist_read.eq(prefetcher.shortlist_read),
            reader.enabled.eq(enabled), reader.hold.eq(self.hold), reader.rewind.eq(self.rewind),
            *(unit.halt.eq(halt) for unit in (program, reader, writer)),
            self.ring_beat.eq(reader.beat),
            self.ring_full.eq(reader.waiting),
            self.ring_level.eq(reader.level),
        ]
        m.d.sync += [
            self.quiet.eq(program.idle & prefetcher.idle & reader.idle & writer.idle),
            self.drained.eq(~program.in_flight & ~reader.in_flight & ~writer.in_flight),
        ]
        self._connect_ports(m)
        self._settle(m)
        return m

    def _connect_ports(self, m: Module) -> None:
        """Reads of every port; the program and writes on the first one."""
        program, reader, writer = m.submodules.program, m.submodules.reader, m.submodules.writer
        m.submodules.merge = merge = ReadMerge(self.config.port_bits)
        connect(m, reader.axi[0], merge.low)
        connect(m, program.axi, merge.high)
        for channel in ("aw", "w", "b"):
            connect(m, getattr(writer.axi, channel), getattr(flipped(self.axi[0]), channel))
        m.d.comb += self.write_beat.eq(writer.beat)
        for number, axi in enumerate(self.axi):
            port = reader.axi[number] if number else merge.port
            for channel in ("ar", "r"):
                connect(m, getattr(port, channel), getattr(flipped(axi), channel))
            connect(m, reader.errors[number], flipped(self.read_errors[number]))
            m.d.comb += [
                self.read_word[number].eq(axi.r.valid & axi.r.ready),
                self.read_stall[number].eq(axi.r.valid & ~axi.r.ready),
            ]
            if number:
                m.d.comb += axi.b.ready.eq(1)

    def _settle(self, m: Module) -> None:
        """Answers that nobody asked for, and the start of the first program behind the last of them."""
        program, reader, writer = m.submodules.program, m.submodules.reader, m.submodules.writer
        others = Signal(self.config.ports)
        m.d.sync += others.eq(Cat(axi.b.valid for axi in self.axi[1:]))
        answers = Cat(reader.unasked, program.unasked, writer.unasked, others)
        m.d.sync += self.unasked.eq(sum(answers))
        quiet_for, settled = Signal(range(SETTLE_CYCLES)), Signal()
        with m.If(answers.any()):
            m.d.sync += quiet_for.eq(0)
        with m.Elif(~settled):
            m.d.sync += [quiet_for.eq(quiet_for + 1), settled.eq(quiet_for == SETTLE_CYCLES - 1)]
        waits = Signal()
        m.d.comb += program.start.eq((self.start | waits) & settled)
        with m.If(self.start | settled):
            m.d.sync += waits.eq(self.start & ~settled)
