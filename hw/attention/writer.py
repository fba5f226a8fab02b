"""Moves the keys and values of a pass from the KV store to the paged cache."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from ...config import BuildConfig
from ...descriptors import Format
from ...registers import NUMBER_BITS
from ..interfaces import (
    ADDRESS_BITS,
    KV_SCALE_LATENCY,
    KvRead,
    Operator,
    RunRead,
    Segment,
    TableRead,
    WriteBeat,
    index_bits,
    kv_latency,
)
from .item import delayed
from .nibbles import push_beat

__all__ = ["KvWriter"]


class Walk:
    """Where the writer is: run, head, block and slots, beats to come, and what its parts tell each other."""

    def __init__(self, config: BuildConfig, store: wiring.PureInterface) -> None:
        block_bits = (config.kv_block - 1).bit_length()
        self.run = Signal(index_bits(config.chunk))
        #: Of the run: slot of its first token, that less the token's bank, and the entry of its first page.
        self.begin, self.turn = Signal(block_bits), Signal(block_bits)
        self.page = Signal(index_bits(config.page_entries))
        #: Bank of the first token.
        self.bank = Signal(bits_for(config.chunk))
        self.head = Signal(index_bits(config.max_kv_heads))
        #: Address of page 0 of the head.
        self.head_base = Signal(ADDRESS_BITS)
        #: The second of the blocks that the run touches.
        self.second = Signal()
        #: Slots ``[low, high)`` of the present block belong to this run.
        self.low = Signal(block_bits)
        self.high = Signal(block_bits + 2)
        self.end = Signal(block_bits + 2)
        self.slots = Signal(config.kv_block)
        #: Slots that are looked at in a cycle; the next one, and cycles that are left.
        self.slot_step = max(min(4, config.kv_block), config.kv_block // 8)
        self.slot, self.slots_left = Signal(block_bits + 1, name="slot"), Signal(4, name="slots_left")
        #: The run has one token in the block: its scale stands for those of all slots, of which its own alone is written.
        self.single = Signal(name="single")
        #: Beats still to come of the segment, and those of the header; whether the present one is padding.
        self.left = Signal(32)
        self.header_left = Signal(range(config.header_beats + 1))
        self.padding = Signal()
        #: What is read next: a slot's scale; two beats of keys or values.
        self.scale = Signal(range(2 * config.kv_block))
        self.value = Signal()
        self.dim, self.last_dim = Signal(len(store.dim)), Signal(len(store.dim), name="last_dim")
        #: Strobes: read a scale; read two beats; the first of them is taken, the other is.
        self.fill, self.ask, self.load_even, self.load_odd = (
            Signal(name=name) for name in ("fill", "ask", "load_even", "load_odd")
        )
        #: Beats of the store are still to be taken; the second of two waits there; the first found no place and is read again.
        self.reading, self.odd, self.missed = Signal(name="reading"), Signal(name="odd"), Signal(name="missed")
        #: The register that becomes a beat, and the data behind it; whether they hold one; the latter moves up.
        self.beat, self.next = (Signal(8 * config.beat_bytes, name=name, reset_less=True) for name in ("beat", "next"))
        self.full, self.next_full, self.move = Signal(name="full"), Signal(name="next_full"), Signal(name="move")
        #: Something may be loaded behind the beat.
        self.free = Signal(name="free")
        #: Two beats of the store, of what is read next, make one of 4-bit elements.
        self.packed: Value = Signal(name="packed") if config.int4_kv else Const(0)


class KvWriter(wiring.Component):
    """KV_WRITE: for every run, every key/value head and every cache block that the run touches (one or two) a segment of
    ``stream_beats`` beats at ``stream_address + page * stride + head * head_stride``.

    Token t of a run is position ``position + t`` of its context, which is slot ``(position + t) % kv_block`` of its block: so far
    the store turns its beats. Byte strobes are set for the slots of the run's tokens alone.

    With ``Format.INT4_KEYS`` or ``INT4_VALUES`` (builds that have them) one beat of memory has the codes of the elements of two
    beats of the store.

    The writer works beside other units: a beat takes a cycle for each word of the port, or half of ``kv_latency`` + 2; a header
    beat also a cycle for each of its scales, or for one, where the run has a single token in the block.

    Members
    -------
    op : In(Operator)
    start, done : In(1), Out(1)
        ``done`` is a strobe in the cycle after the last beat was taken.
    store : Out(KvRead)
    runs : Out(RunRead), pages : Out(TableRead)
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
            "runs": Out(RunRead(config)),
            "pages": Out(TableRead(config.page_entries)),
            "segment": Out(Segment()),
            "beats": Out(WriteBeat(config)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        walk = Walk(self.config, self.store)
        self._find_slots(m, walk)
        landed = self._read_scales(m, walk)
        self._read_store(m, walk)
        self._connect_beats(m, walk)
        self._sequence(m, walk, landed)
        return m

    def _find_slots(self, m: Module, walk: Walk) -> None:
        """Page and slots of the present block."""
        command, block = self.op.descriptor, self.config.kv_block
        m.d.comb += [
            walk.low.eq(Mux(walk.second, 0, walk.begin)),
            walk.high.eq(Mux(walk.second, walk.end - block, walk.end)),
            self.runs.index.eq(walk.run),
            self.pages.index.eq(walk.page + walk.second),
            self.segment.payload.beats.eq(command.stream_beats),
        ]
        m.d.sync += walk.single.eq(walk.high - walk.low == 1)
        # Some slots a cycle, while the address is found and the header is filled, which takes longer.
        step = walk.slot_step
        with m.If(walk.slots_left != 0):
            m.d.sync += [
                walk.slots_left.eq(walk.slots_left - 1),
                walk.slot.eq(walk.slot + step),
                walk.slots.eq(Cat(
                    walk.slots[step:], ((walk.slot + i >= walk.low) & (walk.slot + i < walk.high) for i in range(step))
                )),
            ]

    def _read_scales(self, m: Module, walk: Walk) -> Signal:
        """The scales of slot after slot go to the beat; returns how many of a header beat have come."""
        config, block = self.config, self.config.kv_block
        beat_scales = config.beat_bytes // 2
        #: Scales that one stands for.
        lanes = min(beat_scales, block)
        landed = Signal(range(beat_scales + 1), name="landed")
        step = Mux(walk.single, lanes, 1)
        m.d.comb += self.store.bank.eq(Mux(walk.single, walk.low, walk.scale) - walk.turn)
        with m.If(walk.fill):
            m.d.sync += walk.scale.eq(walk.scale + step)
        filled = delayed(m, walk.fill, KV_SCALE_LATENCY, "filled")[-1]
        of_value = delayed(m, walk.scale >= block, KV_SCALE_LATENCY, "of_value", reset_less=True)[-1]
        scale, beat = Mux(of_value, self.store.scales[16:], self.store.scales[:16]), walk.beat
        with m.If(filled):
            m.d.sync += [
                landed.eq(landed + step),
                beat.eq(Mux(walk.single, Cat(beat[16 * lanes :], scale.replicate(lanes)), Cat(beat[16:], scale))),
            ]
        with m.Elif(walk.move):
            m.d.sync += beat.eq(walk.next)
        return landed

    def _read_store(self, m: Module, walk: Walk) -> None:
        """Keys, then values, two beats at a time: the second stays at the store until the first has moved up. The next two are
        asked for in the cycle behind; where the first of them finds no place, both are asked for again."""
        config, command, data = self.config, self.op.descriptor, self.store.data
        parts = config.width // config.key_bytes
        m.d.comb += [
            self.store.head.eq(walk.head),
            self.store.head_vectors.eq(command.head_vectors),
            self.store.value.eq(walk.value),
            self.store.dim.eq(walk.dim),
            self.store.turn.eq(walk.turn),
        ]
        m.d.sync += walk.last_dim.eq((command.head_vectors << (parts - 1).bit_length()) - 1)
        arrived = delayed(m, walk.ask, kv_latency(config), "arrived")[-1]
        m.d.comb += [
            walk.free.eq(~walk.next_full | walk.move),
            walk.load_even.eq(arrived & walk.free),
            walk.load_odd.eq(walk.odd & walk.free),
        ]
        value, whole = data, walk.load_even | walk.load_odd
        if config.int4_kv:
            m.d.comb += walk.packed.eq((command.format & Mux(walk.value, Format.INT4_VALUES, Format.INT4_KEYS)).any())
            value, whole = Mux(walk.packed, push_beat(walk.next, data), data), walk.load_odd | (walk.load_even & ~walk.packed)
        m.d.sync += walk.ask.eq(0)
        with m.If(walk.move):
            m.d.sync += walk.next_full.eq(0)
        with m.If(whole):
            m.d.sync += walk.next_full.eq(1)
        with m.If(walk.load_even | walk.load_odd):
            m.d.sync += walk.next.eq(value)
        with m.If(arrived):
            m.d.sync += [walk.odd.eq(walk.free), walk.missed.eq(~walk.free)]
        with m.If(walk.ask):
            m.d.sync += walk.dim.eq(walk.dim + 1)
        with m.If(walk.missed & walk.free):
            m.d.sync += [walk.missed.eq(0), walk.dim[0].eq(0), walk.ask.eq(1)]
        with m.If(walk.load_odd):
            m.d.sync += [walk.odd.eq(0), walk.dim.eq(walk.dim + 1), walk.ask.eq(1)]
            with m.If(walk.dim == walk.last_dim):
                m.d.sync += [walk.dim.eq(0), walk.value.eq(1), walk.reading.eq(~walk.value), walk.ask.eq(~walk.value)]

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

    def _sequence(self, m: Module, walk: Walk, landed: Signal) -> None:
        """One segment after the other: its address and slots, its header, its data."""
        config, command = self.config, self.op.descriptor
        #: Scales in one header beat.
        beat_scales = config.beat_bytes // 2
        m.d.sync += self.done.eq(0)
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += [walk.run.eq(0), walk.bank.eq(0), walk.second.eq(0)]
                with m.If(self.start):
                    m.next = "RUN"
            self._open_run(m, walk)
            self._open_segment(m, walk)
            with m.State("SEGMENT"):
                m.d.comb += self.segment.valid.eq(1)
                m.d.sync += [
                    walk.left.eq(command.stream_beats),
                    walk.header_left.eq(config.header_beats),
                    walk.padding.eq(0),
                    walk.scale.eq(0),
                    walk.value.eq(0),
                    walk.dim.eq(0),
                    walk.full.eq(0),
                    landed.eq(0),
                ]
                with m.If(self.segment.ready):
                    m.d.sync += [walk.reading.eq(1), walk.ask.eq(1)]
                    m.next = "REQUEST"
            with m.State("REQUEST"):
                m.d.comb += walk.fill.eq(1)
                # Of a beat, with the present one.
                step = Mux(walk.single, min(beat_scales, config.kv_block), 1)
                with m.If((walk.scale & (beat_scales - 1)) + step == beat_scales):
                    m.next = "FILL"
            with m.State("FILL"), m.If(landed == beat_scales):
                m.next = "HEADER"
            with m.State("HEADER"):
                m.d.comb += self.beats.valid.eq(1)
                m.d.sync += landed.eq(0)
                with m.If(self.beats.ready):
                    m.d.sync += [walk.left.eq(walk.left - 1), walk.header_left.eq(walk.header_left - 1)]
                    m.next = "REQUEST"
                    with m.If(walk.header_left == 1):
                        m.next = "DATA"
            with m.State("DATA"):
                m.d.comb += [self.beats.valid.eq(walk.full), walk.move.eq(walk.next_full & (~walk.full | self.beats.ready))]
                with m.If(walk.move):
                    m.d.sync += walk.full.eq(1)
                with m.Elif(self.beats.ready):
                    # Padding follows where nothing more is read.
                    m.d.sync += [walk.full.eq(walk.full & ~walk.reading), walk.padding.eq(~walk.reading)]
                with m.If(walk.full & self.beats.ready):
                    m.d.sync += walk.left.eq(walk.left - 1)
                    with m.If(walk.left == 1):
                        self._end_segment(m, walk)

    def _open_run(self, m: Module, walk: Walk) -> None:
        """States that find out about a run."""
        block_bits, runs = len(walk.begin), self.runs
        with m.State("RUN"):
            m.next = "BEGIN"
        with m.State("BEGIN"):
            m.d.sync += [
                walk.head.eq(0),
                walk.head_base.eq(self.op.descriptor.stream_address),
                walk.begin.eq(runs.position),
                walk.turn.eq(runs.position - walk.bank),
                walk.page.eq(runs.pages + (runs.position >> block_bits)),
                walk.end.eq(runs.position[:block_bits] + runs.tokens),
                walk.bank.eq(walk.bank + runs.tokens),
            ]
            m.next = "PAGE"

    def _open_segment(self, m: Module, walk: Walk) -> None:
        """States that find the segment's address and its slots."""
        command = self.op.descriptor
        number = Signal(NUMBER_BITS)
        low, high = Signal(NUMBER_BITS + 16), Signal(ADDRESS_BITS - 16)
        address = self.segment.payload.address
        with m.State("PAGE"):
            m.d.sync += [walk.slot.eq(0), walk.slots_left.eq(self.config.kv_block // walk.slot_step)]
            m.next = "NUMBER"
        with m.State("NUMBER"):
            m.d.sync += number.eq(self.pages.number)
            m.next = "MULTIPLY"
        with m.State("MULTIPLY"):
            m.d.sync += [low.eq(number * command.stride[:16]), high.eq(number * command.stride[16:])]
            m.next = "ADD"
        with m.State("ADD"):
            m.d.sync += address.eq(low + (high << 16))
            m.next = "BASE"
        with m.State("BASE"):
            m.d.sync += address.eq(address + walk.head_base)
            m.next = "SEGMENT"

    def _end_segment(self, m: Module, walk: Walk) -> None:
        """Behind the last beat of a segment: the next block, head or run, or the end."""
        command, block = self.op.descriptor, self.config.kv_block
        m.d.sync += walk.second.eq(~walk.second)
        m.next = "PAGE"
        with m.If(walk.second | (walk.end <= block)):
            m.d.sync += [
                walk.second.eq(0), walk.head.eq(walk.head + 1), walk.head_base.eq(walk.head_base + command.head_stride),
            ]
            with m.If(walk.head == command.kv_heads - 1):
                m.d.sync += walk.run.eq(walk.run + 1)
                m.next = "RUN"
                with m.If(walk.run + 1 == self.op.runs):
                    m.d.sync += self.done.eq(1)
                    m.next = "IDLE"
