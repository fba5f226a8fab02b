"""Moves the keys and values of a pass from the KV store to the paged cache."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from ...config import BuildConfig
from ..interfaces import ADDRESS_BITS, KvRead, Operator, Segment, WriteBeat, index_bits
from ..memory.prefetch import NUMBER_BITS
from .reader import StoreReader

__all__ = ["KvWriter"]


class KvWriter(wiring.Component):
    """KV_WRITE: for every key/value head and every cache block that the pass touches (one or two) a segment of
    ``stream_beats`` beats at ``stream_address + page * stride + head * head_stride``.

    Byte strobes are set for the slots of this pass's tokens alone: slot ``s`` of block ``b`` is position
    ``b * kv_block + s``, held by bank ``s % chunk`` of the store.

    Members
    -------
    op : In(Operator)
    start, done : In(1), Out(1)
        ``done`` is a strobe in the cycle after the last beat was taken.
    store : Out(KvRead)
    page_index : Out
    page_number : In(NUMBER_BITS)
        Entry ``page_index`` of the page table, one cycle later.
    segment : Out(Segment)
        Precedes its beats.
    beats : Out(WriteBeat)
    """

    def __init__(self, config: BuildConfig) -> None:
        self.config = config
        super().__init__({
            "op": In(Operator(config)),
            "start": In(1),
            "done": Out(1),
            "store": Out(KvRead(config)),
            "page_index": Out(index_bits(config.max_pages)),
            "page_number": In(NUMBER_BITS),
            "segment": Out(Segment()),
            "beats": Out(WriteBeat(config)),
        })  # fmt: skip

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, op, command = self.config, self.op, self.op.descriptor
        block_bits = (config.kv_block - 1).bit_length()
        m.submodules.reader = reader = StoreReader(config)

        head = Signal(index_bits(config.max_kv_heads))
        head_offset = Signal(ADDRESS_BITS)
        second = Signal()
        #: Slots ``[low, high)`` of the present block belong to this pass.
        low = Signal(block_bits)
        high = Signal(block_bits + 2)
        end = Signal(block_bits + 2)
        page_offset = Signal(ADDRESS_BITS)
        beat = Signal(32)
        slots = Signal(config.kv_block)
        m.d.comb += [
            end.eq(op.position[:block_bits] + op.count),
            low.eq(Mux(second, 0, op.position[:block_bits])),
            high.eq(Mux(second, end - config.kv_block, end)),
            self.page_index.eq((op.position >> block_bits) + second),
            self.segment.payload.beats.eq(command.stream_beats),
            reader.head.eq(head),
            reader.head_vectors.eq(command.head_vectors),
        ]
        wiring.connect(m, wiring.flipped(self.store), reader.store)

        padding = Signal()
        payload_beats = 4 // config.key_bytes + (command.head_vectors << (1 + (config.width // config.key_bytes - 1).bit_length()))
        header_strobe = Cat(bit.replicate(2) for bit in Cat(slots, slots))
        data_strobe = Cat(bit.replicate(config.key_bytes) for bit in slots)
        header_beats = 4 // config.key_bytes
        strobe = Signal(config.beat_bytes)
        m.d.comb += [
            strobe.eq(Mux(
                beat < header_beats, header_strobe.word_select(beat[: bits_for(header_beats - 1)], config.beat_bytes), data_strobe,
            )),
            padding.eq(beat >= payload_beats),
            self.beats.payload.data.eq(Mux(padding, 0, reader.beats.payload)),
            self.beats.payload.strobe.eq(Mux(padding, 0, strobe)),
        ]  # fmt: skip

        m.d.sync += self.done.eq(0)
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += [head.eq(0), head_offset.eq(0), second.eq(0)]
                with m.If(self.start):
                    m.next = "PAGE"
            with m.State("PAGE"):
                m.next = "MULTIPLY"
            with m.State("MULTIPLY"):
                m.d.sync += [
                    page_offset.eq(self.page_number * command.stride),
                    slots.eq(Cat((s >= low) & (s < high) for s in range(config.kv_block))),
                ]
                m.next = "ADD"
            with m.State("ADD"):
                m.d.sync += self.segment.payload.address.eq(page_offset + head_offset)
                m.next = "BASE"
            with m.State("BASE"):
                m.d.sync += self.segment.payload.address.eq(self.segment.payload.address + command.stream_address)
                m.next = "SEGMENT"
            with m.State("SEGMENT"):
                m.d.comb += self.segment.valid.eq(1)
                m.d.sync += beat.eq(0)
                with m.If(self.segment.ready):
                    m.d.comb += reader.start.eq(1)
                    m.next = "BEATS"
            with m.State("BEATS"):
                m.d.comb += [
                    self.beats.valid.eq(padding | reader.beats.valid),
                    reader.beats.ready.eq(~padding & self.beats.ready),
                ]
                with m.If(self.beats.valid & self.beats.ready):
                    m.d.sync += beat.eq(beat + 1)
                    with m.If(beat == command.stream_beats - 1):
                        m.d.sync += second.eq(~second)
                        m.next = "PAGE"
                        with m.If(second | (end <= config.kv_block)):
                            m.d.sync += [second.eq(0), head.eq(head + 1), head_offset.eq(head_offset + command.head_stride)]
                            with m.If(head == command.kv_heads - 1):
                                m.d.sync += self.done.eq(1)
                                m.next = "IDLE"
        return m
