"""Moves the keys and values of a pass from the KV store to the paged cache."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ...config import BuildConfig
from ...descriptors import Format
from ..interfaces import ADDRESS_BITS, KV_LATENCY, KvRead, Operator, Segment, WriteBeat, index_bits
from ..memory.prefetch import NUMBER_BITS
from .item import delayed
from .nibbles import push_beat

__all__ = ["KvWriter"]


class KvWriter(wiring.Component):
    """KV_WRITE: for every key/value head and every cache block that the pass touches (one or two) a segment of
    ``stream_beats`` beats at ``stream_address + page * stride + head * head_stride``.

    Token t of the pass is position ``position + t`` of the context, which is slot ``(position + t) % kv_block`` of its block:
    a beat of the store is rotated by ``position % kv_block`` slots. Byte strobes are set for the slots of this pass's tokens
    alone.

    With ``Format.INT4_KV`` (builds that have it) two beats of the store, which hold elements of -7 .. 7, make one of memory.

    The writer works beside other units and need not be fast, so that one register rotates in steps of 1, 4, 16 ... slots: a
    data beat takes four to ten cycles, a header beat a cycle for each of its scales.

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
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, op, command = self.config, self.op, self.op.descriptor
        block = config.kv_block
        block_bits = (block - 1).bit_length()
        header_beats = 4 // config.key_bytes
        #: Scales in one header beat, and in the header.
        beat_scales, scales = config.beat_bytes // 2, 2 * block

        head = Signal(index_bits(config.max_kv_heads))
        head_offset = Signal(ADDRESS_BITS)
        second = Signal()
        #: Slots ``[low, high)`` of the present block belong to this pass.
        low = Signal(block_bits)
        high = Signal(block_bits + 2)
        end = Signal(block_bits + 2)
        page_offset = Signal(ADDRESS_BITS)
        slots = Signal(block)
        #: Beats still to come of the segment, and those of the header; whether the present one is the last of the values, and
        #: whether it is padding.
        left = Signal(32)
        header_left = Signal(range(header_beats + 1))
        padding, last = Signal(), Signal()
        m.d.comb += [
            end.eq(op.position[:block_bits] + op.count),
            low.eq(Mux(second, 0, op.position[:block_bits])),
            high.eq(Mux(second, end - block, end)),
            self.page_index.eq((op.position >> block_bits) + second),
            self.segment.payload.beats.eq(command.stream_beats),
        ]

        # Reads: the scales of slot after slot, then keys and values, each as soon as the beat before it was loaded.
        scale = Signal(range(scales))
        value = Signal()
        dim, last_dim = Signal(len(self.store.dim)), Signal(len(self.store.dim))
        wait = Signal(range(KV_LATENCY + 1))
        fill, load = Signal(), Signal()
        parts = config.width // config.key_bytes
        m.d.comb += [
            self.store.head.eq(head),
            self.store.head_vectors.eq(command.head_vectors),
            self.store.value.eq(value),
            self.store.dim.eq(dim),
            self.store.bank.eq(scale - op.position),
        ]
        m.d.sync += last_dim.eq((command.head_vectors << (parts - 1).bit_length()) - 1)
        filled = delayed(m, fill, KV_LATENCY, "filled")[-1]
        of_value = delayed(m, scale >= block, KV_LATENCY, "of_value", reset_less=True)[-1]
        with m.If(fill):
            m.d.sync += scale.eq(scale + 1)
        with m.If(wait != 0):
            m.d.sync += wait.eq(wait - 1)
        with m.If(load):
            m.d.sync += [dim.eq(dim + 1), wait.eq(KV_LATENCY)]
            with m.If(dim == last_dim):
                m.d.sync += [dim.eq(0), value.eq(1)]

        # The register that becomes a beat: slot t leaves at slot (t + position) % kv_block. Rotating down by n is rotating up by
        # kv_block - n.
        bits = 8 * config.key_bytes
        beat = Signal(8 * config.beat_bytes, reset_less=True)
        turns = [Signal(min(2, block_bits - at), name=f"turns_{at}") for at in range(0, block_bits, 2)]
        scale_bits = Mux(of_value, self.store.scales[16:], self.store.scales[:16])
        # One multiplexer of few inputs, chosen by an encoded number.
        inputs = [Cat(beat[bits << 2 * i :], beat[: bits << 2 * i]) for i in range(len(turns))]
        choice = Signal(range(len(inputs) + (3 if config.int4_kv else 2)))
        inputs.append(self.store.data)
        choose_load = len(turns)
        if config.key_bytes == 2:
            # A step by one slot is also a step by one scale.
            choose_scale = 0
            inputs[0] = Cat(beat[16:], Mux(filled, scale_bits, beat[:16]))
        else:
            choose_scale = len(inputs)
            inputs.append(Cat(beat[16:], scale_bits))
        with m.If(load):
            m.d.comb += choice.eq(choose_load)
            m.d.sync += [Cat(turns).eq(-op.position[:block_bits]), last.eq(value & (dim == last_dim))]
        with m.Elif(filled):
            m.d.comb += choice.eq(choose_scale)
        #: The first of two beats of the store that make one of 4-bit elements.
        first_half: Value = Const(0)
        if config.int4_kv:
            int4 = (command.format & Format.INT4_KV).any()
            first_half = int4 & ~dim[0]
            with m.If(load & int4):
                m.d.comb += choice.eq(len(inputs))
            with m.If(load & first_half):
                m.d.sync += Cat(turns).eq(0)
            inputs.append(push_beat(beat, self.store.data))
        for i, turn in reversed(list(enumerate(turns))):
            with m.If(turn != 0):
                m.d.comb += choice.eq(i)
        for i, turn in enumerate(turns):
            with m.If((turn != 0) & (choice == i)):
                m.d.sync += turn.eq(turn - 1)
        with m.If(load | filled | Cat(turns).any()), m.Switch(choice):
            for i, taken in enumerate(inputs):
                with m.Case(i):
                    m.d.sync += beat.eq(taken)
        turned = Signal()
        m.d.comb += turned.eq(~Cat(turns).any())

        data_strobe = Cat(bit.replicate(config.key_bytes) for bit in slots)
        header_strobe = Cat(bit.replicate(2) for bit in Cat(slots, slots))
        strobe = Signal(config.beat_bytes)
        m.d.comb += [
            strobe.eq(data_strobe),
            self.beats.payload.data.eq(beat),
            self.beats.payload.strobe.eq(Mux(padding, 0, strobe)),
        ]
        for i in range(header_beats):
            with m.If(header_left == header_beats - i):
                m.d.comb += strobe.eq(header_strobe.word_select(i, config.beat_bytes))

        landed = Signal(range(beat_scales + 1))
        slot = Signal(block_bits)
        m.d.sync += self.done.eq(0)
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += [head.eq(0), head_offset.eq(0), second.eq(0)]
                with m.If(self.start):
                    m.next = "PAGE"
            with m.State("PAGE"):
                m.d.sync += slot.eq(0)
                m.next = "MULTIPLY"
            with m.State("MULTIPLY"):
                m.d.sync += page_offset.eq(self.page_number * command.stride)
                m.next = "ADD"
            with m.State("ADD"):
                m.d.sync += self.segment.payload.address.eq(page_offset + head_offset)
                m.next = "BASE"
            with m.State("BASE"):
                m.d.sync += self.segment.payload.address.eq(self.segment.payload.address + command.stream_address)
                m.next = "SLOTS"
            with m.State("SLOTS"):
                m.d.sync += [slots.eq(Cat(slots[1:], (slot >= low) & (slot < high))), slot.eq(slot + 1)]
                with m.If(slot == block - 1):
                    m.next = "SEGMENT"
            with m.State("SEGMENT"):
                m.d.comb += self.segment.valid.eq(1)
                m.d.sync += [
                    last.eq(0),
                    left.eq(command.stream_beats),
                    header_left.eq(header_beats),
                    padding.eq(0),
                    scale.eq(0),
                    value.eq(0),
                    dim.eq(0),
                    wait.eq(KV_LATENCY),
                    landed.eq(0),
                ]
                with m.If(self.segment.ready):
                    m.next = "REQUEST"
            with m.State("REQUEST"):
                m.d.comb += fill.eq(1)
                with m.If((scale & (beat_scales - 1)) == beat_scales - 1):
                    m.next = "FILL"
            with m.State("FILL"), m.If(landed == beat_scales):
                m.next = "SEND"
            with m.State("LOAD"), m.If(wait == 0):
                m.d.comb += load.eq(1)
                m.next = "TURN"
                if config.int4_kv:
                    with m.If(first_half):
                        m.next = "LOAD"
            with m.State("TURN"), m.If(turned):
                m.next = "SEND"
            with m.State("SEND"):
                m.d.comb += self.beats.valid.eq(1)
                m.d.sync += landed.eq(0)
                with m.If(self.beats.ready):
                    m.d.sync += left.eq(left - 1)
                    m.next = "LOAD"
                    with m.If(left == 1):
                        m.d.sync += second.eq(~second)
                        m.next = "PAGE"
                        with m.If(second | (end <= block)):
                            m.d.sync += [second.eq(0), head.eq(head + 1), head_offset.eq(head_offset + command.head_stride)]
                            with m.If(head == command.kv_heads - 1):
                                m.d.sync += self.done.eq(1)
                                m.next = "IDLE"
                    with m.Elif(header_left != 0):
                        m.d.sync += header_left.eq(header_left - 1)
                        with m.If(header_left != 1):
                            m.next = "REQUEST"
                    with m.Elif(padding | last):
                        m.d.sync += padding.eq(1)
                        m.next = "SEND"
        with m.If(filled):
            m.d.sync += landed.eq(landed + 1)
        return m
