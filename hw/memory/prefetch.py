"""Turns descriptors into the segments that fill the ring."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ...config import BuildConfig
from ...descriptors import Fetch, Opcode
from ...registers import NUMBER_BITS
from ..active import ActiveRange, Pass
from ..interfaces import ADDRESS_BITS, DescriptorLayout, Segment, index_bits

__all__ = ["Prefetcher", "TableRead"]


def TableRead(depth: int) -> wiring.Signature:
    """Read of the token or page table: ``number`` is entry ``index`` of the cycle before."""
    return wiring.Signature({"index": Out(index_bits(depth)), "number": In(NUMBER_BITS)})


class Prefetcher(wiring.Component):
    """Walks the descriptors ahead of the sequencer and emits their segments in the order in which operators use them.

    Descriptors that the pass skips (see `ActiveRange`) emit nothing. A segment of a STREAM leaves three cycles after its
    descriptor was taken, those of TOKEN, POSITION, CACHE and SHORTLIST one every five cycles.

    Members
    -------
    descriptors : In(stream of DescriptorLayout)
    current : In(Pass)
    tokens, pages : Out(TableRead)
        Token ids by index in the chunk; page numbers by block of the context.
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
            "pages": Out(TableRead(config.max_pages)),
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
            active.current.position.eq(self.current.position),
            active.current.want_logits.eq(self.current.want_logits),
        ]

        index = Signal(range(max(config.chunk, config.max_pages, config.shortlist) + 1))
        last = Signal.like(index)
        heads = Signal.like(d.kv_heads)
        base = Signal(ADDRESS_BITS)
        stride = Signal(32)
        block_bits = config.kv_block.bit_length() - 1
        blocks = Signal(range(config.max_pages + 1))
        segment = self.segments
        m.d.comb += [
            blocks.eq((self.current.position + (config.kv_block - 1)) >> block_bits),
            self.tokens.index.eq(index),
            self.pages.index.eq(index),
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
                    with m.Case(Fetch.TOKEN, Fetch.POSITION):
                        m.next = "LOOK_UP"
                    with m.Case(Fetch.CACHE):
                        m.d.sync += [index.eq(0), last.eq(blocks - 1), heads.eq(d.kv_heads)]
                        with m.If((blocks == 0) | (d.kv_heads == 0)):
                            m.next = "TAKE"
                        with m.Else():
                            m.next = "LOOK_UP"
                    with m.Case(Fetch.SHORTLIST):
                        m.d.sync += [index.eq(0), last.eq(d.row_blocks - 1), stride.eq(d.head_stride)]
                        m.next = "HOLD"
                    with m.Default():
                        m.next = "TAKE"
            with m.State("HOLD"), m.If(self.shortlist_complete):
                m.next = "LOOK_UP"
            self._find_address(m, d, index, base, stride)
            with m.State("EMIT"), m.If(segment.ready):
                m.d.sync += [segment.valid.eq(0), index.eq(index + 1)]
                with m.If(index != last):
                    m.next = "LOOK_UP"
                with m.Elif(heads != 1):
                    m.d.sync += [index.eq(0), heads.eq(heads - 1), base.eq(base + d.head_stride)]
                    m.next = "LOOK_UP"
                with m.Else():
                    m.next = "TAKE"
        return m

    def _find_address(self, m: Module, d: Signal, index: Signal, base: Signal, stride: Signal) -> None:
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
                    m.d.sync += number.eq(self.current.position + index)
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
