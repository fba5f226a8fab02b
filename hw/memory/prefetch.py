"""Turns descriptors into the segments that fill the ring."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ...config import BuildConfig
from ...descriptors import Fetch, Opcode
from ...registers import NUMBER_BITS
from ..active import ActiveRange, Pass
from ..interfaces import ADDRESS_BITS, DescriptorLayout, RunRead, Segment, TableRead

__all__ = ["Prefetcher"]


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
    shortlist : Out(TableRead)
        Block by entry of the short list.
    shortlist_complete : In(1)
        The operator that reads it has started, and no score is on its way to the list; its segments wait for that.
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
            "shortlist_complete": In(1),
            "segments": Out(Segment()),
            "idle": Out(1, init=1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        d = Signal(DescriptorLayout(), reset_less=True)
        m.submodules.active = active = ActiveRange(config)
        m.d.comb += [
            active.descriptor.eq(self.descriptors.p),  # as `d` will have it, with what follows from it
            active.current.tokens.eq(self.current.tokens),
            active.current.runs.eq(self.current.runs),
            active.current.wanted.eq(self.current.wanted),
        ]

        index = Signal(range(max(config.chunk, config.max_pages, config.shortlist) + 1))
        last = Signal.like(index)
        heads = Signal.like(d.kv_heads)
        base = Signal(ADDRESS_BITS)
        stride = Signal(32)
        block_bits = config.kv_block.bit_length() - 1
        # Of the run at hand: its number, whether another follows, its cached blocks; where its positions and its pages begin.
        run, another, blocks = Signal.like(self.runs.index), Signal(), Signal(range(config.max_pages + 1))
        position, pages = Signal.like(self.runs.position), Signal.like(self.runs.pages)
        of_cache = Signal()
        segment = self.segments
        m.d.comb += [
            blocks.eq((self.runs.position + (config.kv_block - 1)) >> block_bits),
            another.eq(run + 1 != self.current.runs),
            of_cache.eq(d.fetch == Fetch.CACHE),
            self.runs.index.eq(run),
            self.tokens.index.eq(index),
            self.pages.index.eq(pages + index),
            self.shortlist.index.eq(index),
            segment.p.beats.eq(d.stream_beats),
        ]

        with m.FSM():
            with m.State("TAKE"):
                m.d.comb += self.descriptors.ready.eq(1)
                with m.If(self.descriptors.valid):
                    m.d.sync += [d.eq(self.descriptors.p), self.idle.eq(0)]
                    m.next = "DECODE"
            with m.State("DECODE"):
                m.d.sync += [
                    base.eq(d.stream_address),
                    index.eq(active.first),
                    last.eq(active.first + active.count - 1),
                    heads.eq(1),
                    stride.eq(d.stride),
                    run.eq(0),
                ]
                with m.If(d.opcode == Opcode.END):
                    m.d.sync += self.idle.eq(1)
                    m.next = "TAKE"
                with m.Elif(active.skip | (d.stream_beats == 0)):
                    m.next = "TAKE"
                with m.Else(), m.Switch(d.fetch):
                    with m.Case(Fetch.STREAM):
                        m.d.sync += [segment.valid.eq(1), segment.p.address.eq(d.stream_address), last.eq(active.first)]
                        m.next = "EMIT"
                    with m.Case(Fetch.TOKEN):
                        m.next = "LOOK_UP"
                    with m.Case(Fetch.POSITION, Fetch.CACHE):
                        m.next = "RUN"
                    with m.Case(Fetch.SHORTLIST):
                        m.d.sync += [index.eq(0), last.eq(d.row_blocks - 1), stride.eq(d.head_stride)]
                        m.next = "HOLD"
                    with m.Default():
                        m.next = "TAKE"
            with m.State("RUN"):
                m.next = "BEGIN"
            with m.State("BEGIN"):
                m.d.sync += [
                    position.eq(self.runs.position),
                    pages.eq(self.runs.pages),
                    base.eq(d.stream_address),
                    index.eq(0),
                    last.eq(Mux(of_cache, blocks, self.runs.tokens) - 1),
                    heads.eq(Mux(of_cache, d.kv_heads, 1)),
                ]
                m.next = "LOOK_UP"
                with m.If(of_cache & ((blocks == 0) | (d.kv_heads == 0))):
                    self._next_run(m, run, another)
            with m.State("HOLD"), m.If(self.shortlist_complete):
                m.next = "LOOK_UP"
            self._find_address(m, d, index, position, base, stride)
            with m.State("EMIT"), m.If(segment.ready):
                m.d.sync += [segment.valid.eq(0), index.eq(index + 1)]
                with m.If(index != last):
                    m.next = "LOOK_UP"
                with m.Elif(heads != 1):
                    m.d.sync += [index.eq(0), heads.eq(heads - 1), base.eq(base + d.head_stride)]
                    m.next = "LOOK_UP"
                with m.Elif((d.fetch == Fetch.POSITION) | of_cache):
                    self._next_run(m, run, another)
                with m.Else():
                    m.next = "TAKE"
        return m

    def _next_run(self, m: Module, run: Signal, another: Signal) -> None:
        """The next run follows, or the next descriptor behind the last one."""
        m.d.sync += run.eq(run + 1)
        m.next = "RUN"
        with m.If(~another):
            m.next = "TAKE"

    def _find_address(self, m: Module, d: Signal, index: Signal, position: Signal, base: Signal, stride: Signal) -> None:
        """States from an index to the segment's address: its number in the table, times the stride, plus the base."""
        segment = self.segments
        # "$signal" is Amaranth's name for a signal without one; given where the Verilog has it.
        number = Signal(NUMBER_BITS, name="$signal")
        low, high = Signal(NUMBER_BITS + 16), Signal(NUMBER_BITS + 16)
        with m.State("LOOK_UP"):
            m.next = "NUMBER"
        with m.State("NUMBER"):
            with m.Switch(d.fetch):
                with m.Case(Fetch.TOKEN):
                    m.d.sync += number.eq(self.tokens.number)
                with m.Case(Fetch.POSITION):
                    m.d.sync += number.eq(position + index)
                with m.Case(Fetch.SHORTLIST):
                    m.d.sync += number.eq(self.shortlist.number)
                with m.Default():
                    m.d.sync += number.eq(self.pages.number)
            m.next = "MULTIPLY"
        with m.State("MULTIPLY"):
            m.d.sync += [low.eq(number * stride[:16]), high.eq(number * stride[16:])]
            m.next = "ADD"
        with m.State("ADD"):
            m.d.sync += [segment.valid.eq(1), segment.p.address.eq(base + low + (high << 16))]
            m.next = "EMIT"
