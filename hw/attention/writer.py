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
        #: Beats still to come of the segment, and those of the header; whether the present one is the last of the values, and
        #: whether it is padding.
        self.left = Signal(32)
        self.header_left = Signal(range(config.header_beats + 1))
        self.padding, self.last = Signal(), Signal(name="last")
        #: What is read next: a slot's scale, then two beats of keys or values.
        self.scale = Signal(range(2 * config.kv_block))
        self.value = Signal()
        self.dim, self.last_dim = Signal(len(store.dim)), Signal(len(store.dim), name="last_dim")
        #: Strobes: read a scale, read two beats, take the first of them, take the other.
        self.fill, self.ask, self.load_even, self.load_odd = (
            Signal(name=name) for name in ("fill", "ask", "load_even", "load_odd")
        )
        #: The second of the two beats waits at the store.
        self.odd = Signal()
        #: The next two beats are asked for while the last beat waits to be taken; they came before it was.
        self.asking, self.missed = Signal(), Signal()
        #: The register that becomes a beat.
        self.beat = Signal(8 * config.beat_bytes, reset_less=True)
        #: Two beats of the store, of what is read next, make one of 4-bit elements.
        self.packed: Value = Signal(name="packed") if config.int4_kv else Const(0)


class KvWriter(wiring.Component):
    """KV_WRITE: for every run, every key/value head and every cache block that the run touches (one or two) a segment of
    ``stream_beats`` beats at ``stream_address + page * stride + head * head_stride``.

    Token t of a run is position ``position + t`` of its context, which is slot ``(position + t) % kv_block`` of its block: so far
    the store turns its beats. Byte strobes are set for the slots of the run's tokens alone.

    With ``Format.INT4_KEYS`` or ``INT4_VALUES`` (builds that have them) one beat of memory has the upper halves of the elements of
    two beats of the store.

    The writer works beside other units and need not be fast: two beats of the store take ``kv_latency`` + 2 cycles, a header beat a
    cycle for each of its scales.

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
        filled, arrived = self._read_store(m, walk)
        self._fill_beat(m, walk, filled)
        self._connect_beats(m, walk)
        self._sequence(m, walk, filled, arrived)
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

    def _read_store(self, m: Module, walk: Walk) -> tuple[Value, Value]:
        """The scales of slot after slot, then keys and values two beats at a time: the second stays at the store. Returns whether a
        scale arrives, and whether the first beat does."""
        config, command = self.config, self.op.descriptor
        parts = config.width // config.key_bytes
        m.d.comb += [
            self.store.head.eq(walk.head),
            self.store.head_vectors.eq(command.head_vectors),
            self.store.value.eq(walk.value),
            self.store.dim.eq(walk.dim),
            self.store.turn.eq(walk.turn),
            self.store.bank.eq(walk.scale - walk.turn),
        ]
        m.d.sync += walk.last_dim.eq((command.head_vectors << (parts - 1).bit_length()) - 1)
        if config.int4_kv:
            m.d.comb += walk.packed.eq(
                (command.format & Mux(walk.value, Format.INT4_VALUES, Format.INT4_KEYS)).any()
            )
        with m.If(walk.fill):
            m.d.sync += walk.scale.eq(walk.scale + 1)
        with m.If(walk.ask | walk.load_odd):
            m.d.sync += walk.dim.eq(walk.dim + 1)
        m.d.sync += walk.asking.eq(walk.load_odd)
        with m.If(walk.load_odd & (walk.dim == walk.last_dim)):
            m.d.sync += [walk.dim.eq(0), walk.value.eq(1), walk.last.eq(walk.value), walk.asking.eq(~walk.value)]
        filled = delayed(m, walk.fill, KV_SCALE_LATENCY, "filled")[-1]
        return filled, delayed(m, walk.ask, kv_latency(config), "arrived")[-1]

    def _fill_beat(self, m: Module, walk: Walk, filled: Value) -> None:
        """The register that becomes a beat: scale by scale, or a beat of the store, or the nibbles of two."""
        beat, data = walk.beat, self.store.data
        of_value = delayed(m, walk.scale >= self.config.kv_block, KV_SCALE_LATENCY, "of_value", reset_less=True)[-1]
        with m.If(filled):
            m.d.sync += beat.eq(Cat(beat[16:], Mux(of_value, self.store.scales[16:], self.store.scales[:16])))
        with m.Elif(walk.load_even | walk.load_odd):
            m.d.sync += beat.eq(Mux(walk.packed, push_beat(beat, data), data) if self.config.int4_kv else data)

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

    def _sequence(self, m: Module, walk: Walk, filled: Value, arrived: Value) -> None:
        """One segment after the other: its address and slots, its header, its data."""
        config, command = self.config, self.op.descriptor
        #: Scales in one header beat, and how many of them have come.
        beat_scales = config.beat_bytes // 2
        landed = Signal(range(beat_scales + 1))
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
                    walk.last.eq(0),
                    walk.left.eq(command.stream_beats),
                    walk.header_left.eq(config.header_beats),
                    walk.padding.eq(0),
                    walk.scale.eq(0),
                    walk.value.eq(0),
                    walk.dim.eq(0),
                    walk.odd.eq(0),
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
            with m.State("ASK"):
                m.d.comb += walk.ask.eq(1)
                m.next = "EVEN"
            with m.State("EVEN"), m.If(arrived):
                self._load_even(m, walk)
            if config.int4_kv:
                with m.State("ODD"):
                    m.d.comb += walk.load_odd.eq(1)
                    m.d.sync += walk.odd.eq(0)
                    m.next = "SEND"
            with m.State("SEND"):
                m.d.comb += [self.beats.valid.eq(1), walk.ask.eq(walk.asking)]
                m.d.sync += landed.eq(0)
                with m.If(self.beats.ready):
                    self._next_beat(m, walk, arrived)
                with m.Elif(arrived):
                    m.d.sync += walk.missed.eq(1)
        with m.If(filled):
            m.d.sync += landed.eq(landed + 1)

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
        command, block = self.op.descriptor, self.config.kv_block
        number = Signal(NUMBER_BITS)
        low, high = Signal(NUMBER_BITS + 16), Signal(ADDRESS_BITS - 16)
        slot = Signal((block - 1).bit_length())
        address = self.segment.payload.address
        with m.State("PAGE"):
            m.d.sync += slot.eq(0)
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
            m.next = "SLOTS"
        with m.State("SLOTS"):
            m.d.sync += [walk.slots.eq(Cat(walk.slots[1:], (slot >= walk.low) & (slot < walk.high))), slot.eq(slot + 1)]
            with m.If(slot == block - 1):
                m.next = "SEGMENT"

    def _load_even(self, m: Module, walk: Walk) -> None:
        """Takes the first of two beats that come in this cycle and the next."""
        m.d.comb += walk.load_even.eq(1)
        m.d.sync += walk.odd.eq(1)
        m.next = "SEND"
        if self.config.int4_kv:
            with m.If(walk.packed):
                m.next = "ODD"

    def _next_beat(self, m: Module, walk: Walk, arrived: Value) -> None:
        """Where a beat that was taken leads: more of its segment, the next block, head or run, or the end."""
        command, block = self.op.descriptor, self.config.kv_block
        m.d.sync += walk.left.eq(walk.left - 1)
        m.next = "ASK"
        with m.If(walk.left == 1):
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
        with m.Elif(walk.header_left != 0):
            m.d.sync += walk.header_left.eq(walk.header_left - 1)
            with m.If(walk.header_left != 1):
                m.next = "REQUEST"
        with m.Elif(walk.odd):
            m.d.comb += walk.load_odd.eq(1)
            m.d.sync += walk.odd.eq(0)
            m.next = "SEND"
        with m.Elif(walk.padding | walk.last):
            m.d.sync += walk.padding.eq(1)
            m.next = "SEND"
        with m.Elif(walk.missed):
            m.d.sync += [walk.missed.eq(0), walk.dim[0].eq(0)]
        with m.Elif(arrived):
            self._load_even(m, walk)
        with m.Else():
            m.next = "EVEN"
