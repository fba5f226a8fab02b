"""Turns descriptors into the segments that fill the ring."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ...config import BuildConfig
from ...descriptors import Fetch, Opcode
from ...registers import NUMBER_BITS
from ..active import ActiveRange, Pass
from ..interfaces import ADDRESS_BITS, DescriptorLayout, RunRead, Segment, TableRead, index_bits

__all__ = ["Prefetcher"]


class Walk:
    """The descriptor at hand, and where its segments are."""

    def __init__(self, prefetcher: Prefetcher) -> None:
        config, runs = prefetcher.config, prefetcher.runs
        self.descriptor = Signal(DescriptorLayout(), reset_less=True, name="d")
        #: Entry of the token or page table, of the short list, or token of the run; the last one; heads still to come, with
        #: this one.
        self.index = Signal(range(max(config.chunk, config.max_pages, config.shortlist) + 1))
        self.last = Signal.like(self.index, name="last")
        self.heads = Signal.like(self.descriptor.kv_heads, name="heads")
        #: Address of the head, and bytes from one number to the next.
        self.base, self.stride = Signal(ADDRESS_BITS), Signal(32)
        #: The run; where its positions and its pages begin.
        self.run = Signal.like(runs.index, name="run")
        self.position, self.pages = Signal.like(runs.position, name="position"), Signal.like(runs.pages, name="pages")


class Prefetcher(wiring.Component):
    """Walks the descriptors ahead of the sequencer and emits their segments in the order in which operators use them.

    Descriptors that the pass skips (see `ActiveRange`) emit nothing. A segment of a STREAM leaves three cycles after its
    descriptor was taken, those of TOKEN, POSITION, CACHE and SHORTLIST one every five cycles; a run takes two more.

    Members
    -------
    descriptors : In(stream of DescriptorLayout)
    current : In(Pass)
    tokens, pages : Out(TableRead)
        Token ids by index in the pass; page numbers by entry.
    runs : Out(RunRead)
    shortlist : Out(TableRead), shortlist_number : Out, shortlist_read : Out(1)
        Block by entry of the short list of that wanted token. ``shortlist_read``: its number is taken in the next cycle.
    shortlist_complete : In(1)
        An operator that reads a short list has started, and no score is on its way to any of them: the lists of a pass are complete
        before the first of these operators. The segments wait for that.
    segments : Out(Segment)
    idle : Out(1)
        1 in reset, and from END of a program until the next descriptor comes.
    """

    def __init__(self, config: BuildConfig) -> None:
        self.config = config
        super().__init__({
            "descriptors": In(stream.Signature(DescriptorLayout())),
            "current": In(Pass(config)),
            "tokens": Out(TableRead(config.chunk)),
            "pages": Out(TableRead(config.page_entries)),
            "runs": Out(RunRead(config)),
            "shortlist": Out(TableRead(config.shortlist)),
            "shortlist_number": Out(index_bits(config.chunk)),
            "shortlist_read": Out(1),
            "shortlist_complete": In(1),
            "segments": Out(Segment()),
            "idle": Out(1, init=1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.active = active = ActiveRange(self.config)
        m.d.comb += [
            active.descriptor.eq(self.descriptors.p),  # as `d` will have it, with what follows from it
            active.current.tokens.eq(self.current.tokens),
            active.current.runs.eq(self.current.runs),
            active.current.wanted.eq(self.current.wanted),
        ]

        walk = Walk(self)
        d, segment = walk.descriptor, self.segments
        m.d.comb += [
            self.runs.index.eq(walk.run),
            self.tokens.index.eq(walk.index),
            self.pages.index.eq(walk.pages + walk.index),
            self.shortlist.index.eq(walk.index),
            self.shortlist_number.eq(d.token_start),
            segment.p.beats.eq(d.stream_beats),
        ]

        with m.FSM():
            with m.State("TAKE"):
                m.d.comb += self.descriptors.ready.eq(1)
                with m.If(self.descriptors.valid):
                    m.d.sync += [d.eq(self.descriptors.p), self.idle.eq(0)]
                    m.next = "DECODE"
            with m.State("DECODE"):
                self._decode(m, walk, active)
            self._open_run(m, walk)
            with m.State("HOLD"), m.If(self.shortlist_complete):
                m.next = "LOOK_UP"
            self._find_address(m, walk)
            with m.State("EMIT"), m.If(segment.ready):
                m.d.sync += [segment.valid.eq(0), walk.index.eq(walk.index + 1)]
                with m.If(walk.index != walk.last):
                    m.next = "LOOK_UP"
                with m.Elif(walk.heads != 1):
                    m.d.sync += [walk.index.eq(0), walk.heads.eq(walk.heads - 1), walk.base.eq(walk.base + d.head_stride)]
                    m.next = "LOOK_UP"
                with m.Elif((d.fetch == Fetch.POSITION) | (d.fetch == Fetch.CACHE)):
                    self._next_run(m, walk)
                with m.Else():
                    m.next = "TAKE"
        return m

    def _decode(self, m: Module, walk: Walk, active: ActiveRange) -> None:
        """What the descriptor wants, a cycle after it came."""
        d, segment = walk.descriptor, self.segments
        m.d.sync += [
            walk.base.eq(d.stream_address),
            walk.index.eq(active.first),
            walk.last.eq(active.first + active.count - 1),
            walk.heads.eq(1),
            walk.stride.eq(d.stride),
            walk.run.eq(0),
        ]
        with m.If(d.opcode == Opcode.END):
            m.d.sync += self.idle.eq(1)
            m.next = "TAKE"
        with m.Elif(active.skip | (d.stream_beats == 0)):
            m.next = "TAKE"
        with m.Else(), m.Switch(d.fetch):
            with m.Case(Fetch.STREAM):
                m.d.sync += [segment.valid.eq(1), segment.p.address.eq(d.stream_address), walk.last.eq(active.first)]
                m.next = "EMIT"
            with m.Case(Fetch.TOKEN):
                m.next = "LOOK_UP"
            with m.Case(Fetch.POSITION, Fetch.CACHE):
                m.next = "RUN"
            with m.Case(Fetch.SHORTLIST):
                m.d.sync += [walk.index.eq(0), walk.last.eq(d.row_blocks - 1), walk.stride.eq(d.head_stride)]
                m.next = "HOLD"
            with m.Default():
                m.next = "TAKE"

    def _open_run(self, m: Module, walk: Walk) -> None:
        """States that find out about a run. One without cached blocks has no segments of CACHE."""
        config, d, runs = self.config, walk.descriptor, self.runs
        of_cache, blocks = d.fetch == Fetch.CACHE, Signal(range(config.max_pages + 1))
        m.d.comb += blocks.eq((runs.position + (config.kv_block - 1)) >> (config.kv_block.bit_length() - 1))
        with m.State("RUN"):
            m.next = "BEGIN"
        with m.State("BEGIN"):
            m.d.sync += [
                walk.position.eq(runs.position),
                walk.pages.eq(runs.pages),
                walk.base.eq(d.stream_address),
                walk.index.eq(0),
                walk.last.eq(Mux(of_cache, blocks, runs.tokens) - 1),
                walk.heads.eq(Mux(of_cache, d.kv_heads, 1)),
            ]
            m.next = "LOOK_UP"
            with m.If(of_cache & ((blocks == 0) | (d.kv_heads == 0))):
                self._next_run(m, walk)

    def _next_run(self, m: Module, walk: Walk) -> None:
        """The next run follows, or the next descriptor behind the last one."""
        m.d.sync += walk.run.eq(walk.run + 1)
        m.next = "RUN"
        with m.If(walk.run + 1 == self.current.runs):
            m.next = "TAKE"

    def _find_address(self, m: Module, walk: Walk) -> None:
        """States from an index to the segment's address: its number in the table, times the stride, plus the base."""
        d, segment, stride = walk.descriptor, self.segments, walk.stride
        # "$signal" is Amaranth's name for a signal without one; given where the Verilog has it.
        number = Signal(NUMBER_BITS, name="$signal")
        low, high = Signal(NUMBER_BITS + 16), Signal(NUMBER_BITS + 16)
        with m.State("LOOK_UP"):
            m.d.comb += self.shortlist_read.eq(1)
            m.next = "NUMBER"
        with m.State("NUMBER"):
            with m.Switch(d.fetch):
                with m.Case(Fetch.TOKEN):
                    m.d.sync += number.eq(self.tokens.number)
                with m.Case(Fetch.POSITION):
                    m.d.sync += number.eq(walk.position + walk.index)
                with m.Case(Fetch.SHORTLIST):
                    m.d.sync += number.eq(self.shortlist.number)
                with m.Default():
                    m.d.sync += number.eq(self.pages.number)
            m.next = "MULTIPLY"
        with m.State("MULTIPLY"):
            m.d.sync += [low.eq(number * stride[:16]), high.eq(number * stride[16:])]
            m.next = "ADD"
        with m.State("ADD"):
            m.d.sync += [segment.valid.eq(1), segment.p.address.eq(walk.base + low + (high << 16))]
            m.next = "EMIT"
