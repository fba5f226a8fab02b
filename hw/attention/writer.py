"""Moves the keys and values of a pass from the KV store to the paged cache."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ...config import BuildConfig
from ...descriptors import Format
from ...registers import NUMBER_BITS
from ..interfaces import ADDRESS_BITS, KV_LATENCY, KvRead, Operator, Segment, WriteBeat, index_bits
from .item import delayed
from .nibbles import push_beat

__all__ = ["KvWriter"]


class Walk:
    """Where the writer is: head, block and slots, beats to come, and what its parts tell each other."""

    def __init__(self, config: BuildConfig, store: wiring.PureInterface) -> None:
        block_bits = (config.kv_block - 1).bit_length()
        self.head = Signal(index_bits(config.max_kv_heads))
        #: Address of page 0 of the head.
        self.head_base = Signal(ADDRESS_BITS)
        #: The second of the blocks that the pass touches.
        self.second = Signal()
        #: Slots ``[low, high)`` of the present block belong to this pass.
        self.low = Signal(block_bits)
        self.high = Signal(block_bits + 2)
        self.end = Signal(block_bits + 2)
        self.slots = Signal(config.kv_block)
        #: Beats still to come of the segment, and those of the header; whether the present one is the last of the values, and
        #: whether it is padding.
        self.left = Signal(32)
        self.header_left = Signal(range(config.header_beats + 1))
        self.padding, self.last = Signal(), Signal(name="last")
        #: What is read next: a slot's scale, then a beat of keys or values.
        self.scale = Signal(range(2 * config.kv_block))
        self.value = Signal()
        self.dim, self.last_dim = Signal(len(store.dim)), Signal(len(store.dim), name="last_dim")
        self.wait = Signal(range(KV_LATENCY + 1))
        #: Strobes: read a scale, take the beat that was read; all turns are done.
        self.fill, self.load = Signal(), Signal(name="load")
        self.turned = Signal()
        #: The register that becomes a beat.
        self.beat = Signal(8 * config.beat_bytes, reset_less=True)
        #: The first of two beats of the store that make one of 4-bit elements.
        self.first_half: Value = Const(0)


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
        walk = Walk(self.config, self.store)
        self._find_slots(m, walk)
        filled, of_value = self._read_store(m, walk)
        self._turn_beat(m, walk, filled, of_value)
        self._connect_beats(m, walk)
        self._sequence(m, walk, filled)
        return m

    def _find_slots(self, m: Module, walk: Walk) -> None:
        """Page and slots of the present block."""
        op, command, block = self.op, self.op.descriptor, self.config.kv_block
        block_bits = (block - 1).bit_length()
        m.d.comb += [
            walk.end.eq(op.position[:block_bits] + op.count),
            walk.low.eq(Mux(walk.second, 0, op.position[:block_bits])),
            walk.high.eq(Mux(walk.second, walk.end - block, walk.end)),
            self.page_index.eq((op.position >> block_bits) + walk.second),
            self.segment.payload.beats.eq(command.stream_beats),
        ]

    def _read_store(self, m: Module, walk: Walk) -> tuple[Value, Value]:
        """The scales of slot after slot, then keys and values, each as soon as the beat before it was loaded. Returns
        whether a scale arrives, and whether it is a value's."""
        config, op, command = self.config, self.op, self.op.descriptor
        parts = config.width // config.key_bytes
        m.d.comb += [
            self.store.head.eq(walk.head),
            self.store.head_vectors.eq(command.head_vectors),
            self.store.value.eq(walk.value),
            self.store.dim.eq(walk.dim),
            self.store.bank.eq(walk.scale - op.position),
        ]
        m.d.sync += walk.last_dim.eq((command.head_vectors << (parts - 1).bit_length()) - 1)
        filled = delayed(m, walk.fill, KV_LATENCY, "filled")[-1]
        of_value = delayed(m, walk.scale >= config.kv_block, KV_LATENCY, "of_value", reset_less=True)[-1]
        with m.If(walk.fill):
            m.d.sync += walk.scale.eq(walk.scale + 1)
        with m.If(walk.wait != 0):
            m.d.sync += walk.wait.eq(walk.wait - 1)
        with m.If(walk.load):
            m.d.sync += [walk.dim.eq(walk.dim + 1), walk.wait.eq(KV_LATENCY)]
            with m.If(walk.dim == walk.last_dim):
                m.d.sync += [walk.dim.eq(0), walk.value.eq(1)]
        return filled, of_value

    def _turn_beat(self, m: Module, walk: Walk, filled: Value, of_value: Value) -> None:
        """The register that becomes a beat: slot t leaves at slot (t + position) % kv_block. Rotating down by n is rotating up by
        kv_block - n."""
        config, op, beat = self.config, self.op, walk.beat
        block_bits = (config.kv_block - 1).bit_length()
        bits = 8 * config.key_bytes
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
        with m.If(walk.load):
            m.d.comb += choice.eq(choose_load)
            m.d.sync += [Cat(turns).eq(-op.position[:block_bits]), walk.last.eq(walk.value & (walk.dim == walk.last_dim))]
        with m.Elif(filled):
            m.d.comb += choice.eq(choose_scale)
        if config.int4_kv:
            int4 = (op.descriptor.format & Format.INT4_KV).any()
            walk.first_half = int4 & ~walk.dim[0]
            with m.If(walk.load & int4):
                m.d.comb += choice.eq(len(inputs))
            with m.If(walk.load & walk.first_half):
                m.d.sync += Cat(turns).eq(0)
            inputs.append(push_beat(beat, self.store.data))
        for i, turn in reversed(list(enumerate(turns))):
            with m.If(turn != 0):
                m.d.comb += choice.eq(i)
        for i, turn in enumerate(turns):
            with m.If((turn != 0) & (choice == i)):
                m.d.sync += turn.eq(turn - 1)
        with m.If(walk.load | filled | Cat(turns).any()), m.Switch(choice):
            for i, taken in enumerate(inputs):
                with m.Case(i):
                    m.d.sync += beat.eq(taken)
        m.d.comb += walk.turned.eq(~Cat(turns).any())

    def _connect_beats(self, m: Module, walk: Walk) -> None:
        """Strobes of the slots of this pass's tokens, for header and data; padding has none."""
        config, slots = self.config, walk.slots
        header_beats = config.header_beats
        data_strobe = Cat(bit.replicate(config.key_bytes) for bit in slots)
        header_strobe = Cat(bit.replicate(2) for bit in Cat(slots, slots))
        strobe = Signal(config.beat_bytes)
        m.d.comb += [
            strobe.eq(data_strobe),
            self.beats.payload.data.eq(walk.beat),
            self.beats.payload.strobe.eq(Mux(walk.padding, 0, strobe)),
        ]
        for i in range(header_beats):
            with m.If(walk.header_left == header_beats - i):
                m.d.comb += strobe.eq(header_strobe.word_select(i, config.beat_bytes))

    def _sequence(self, m: Module, walk: Walk, filled: Value) -> None:
        """One segment after the other: its address and slots, its header, its data."""
        config, command = self.config, self.op.descriptor
        #: Scales in one header beat, and how many of them have come.
        beat_scales = config.beat_bytes // 2
        landed = Signal(range(beat_scales + 1))
        m.d.sync += self.done.eq(0)
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += [walk.head.eq(0), walk.head_base.eq(command.stream_address), walk.second.eq(0)]
                with m.If(self.start):
                    m.next = "PAGE"
            self._open_segment(m, walk)
            with m.State("SEGMENT"):
                m.d.comb += self.segment.valid.eq(1)
                m.d.sync += [
                    walk.last.eq(0),
                    walk.left.eq(command.stream_beats),
                    walk.header_left.eq(config.header_beats),
                    walk.padding.eq(0),
                    walk.scale.eq(0),
                    walk.value.eq(0),
                    walk.dim.eq(0),
                    walk.wait.eq(KV_LATENCY),
                    landed.eq(0),
                ]
                with m.If(self.segment.ready):
                    m.next = "REQUEST"
            with m.State("REQUEST"):
                m.d.comb += walk.fill.eq(1)
                with m.If((walk.scale & (beat_scales - 1)) == beat_scales - 1):
                    m.next = "FILL"
            with m.State("FILL"), m.If(landed == beat_scales):
                m.next = "SEND"
            with m.State("LOAD"), m.If(walk.wait == 0):
                m.d.comb += walk.load.eq(1)
                m.next = "TURN"
                if config.int4_kv:
                    with m.If(walk.first_half):
                        m.next = "LOAD"
            with m.State("TURN"), m.If(walk.turned):
                m.next = "SEND"
            with m.State("SEND"):
                m.d.comb += self.beats.valid.eq(1)
                m.d.sync += landed.eq(0)
                with m.If(self.beats.ready):
                    self._next_beat(m, walk)
        with m.If(filled):
            m.d.sync += landed.eq(landed + 1)

    def _open_segment(self, m: Module, walk: Walk) -> None:
        """States that find the segment's address and its slots."""
        command, block = self.op.descriptor, self.config.kv_block
        number = Signal(NUMBER_BITS)
        low, high = Signal(NUMBER_BITS + 16), Signal(ADDRESS_BITS - 16)
        slot = Signal((block - 1).bit_length())
        address = self.segment.payload.address
        with m.State("PAGE"):
            m.d.sync += slot.eq(0)
            m.next = "NUMBER"
        with m.State("NUMBER"):
            m.d.sync += number.eq(self.page_number)
            m.next = "MULTIPLY"
        with m.State("MULTIPLY"):
            m.d.sync += [low.eq(number * command.stride[:16]), high.eq(number * command.stride[16:])]
            m.next = "ADD"
        with m.State("ADD"):
            m.d.sync += address.eq(low + (high << 16))
            m.next = "BASE"
        with m.State("BASE"):
            m.d.sync += address.eq(address + walk.head_base)
            m.next = "SLOTS"
        with m.State("SLOTS"):
            m.d.sync += [walk.slots.eq(Cat(walk.slots[1:], (slot >= walk.low) & (slot < walk.high))), slot.eq(slot + 1)]
            with m.If(slot == block - 1):
                m.next = "SEGMENT"

    def _next_beat(self, m: Module, walk: Walk) -> None:
        """Where a beat that was taken leads: more of its segment, the next block or head, or the end."""
        command, block = self.op.descriptor, self.config.kv_block
        m.d.sync += walk.left.eq(walk.left - 1)
        m.next = "LOAD"
        with m.If(walk.left == 1):
            m.d.sync += walk.second.eq(~walk.second)
            m.next = "PAGE"
            with m.If(walk.second | (walk.end <= block)):
                m.d.sync += [
                    walk.second.eq(0), walk.head.eq(walk.head + 1), walk.head_base.eq(walk.head_base + command.head_stride),
                ]
                with m.If(walk.head == command.kv_heads - 1):
                    m.d.sync += self.done.eq(1)
                    m.next = "IDLE"
        with m.Elif(walk.header_left != 0):
            m.d.sync += walk.header_left.eq(walk.header_left - 1)
            with m.If(walk.header_left != 1):
                m.next = "REQUEST"
        with m.Elif(walk.padding | walk.last):
            m.d.sync += walk.padding.eq(1)
            m.next = "SEND"
