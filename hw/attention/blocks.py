"""Blocks of keys and values on their way from the ring, or from the KV store, to the attention arithmetic."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from ...config import BuildConfig
from ...descriptors import Format
from ..interfaces import BeatStream, KvRead, Operator, RunRead, index_bits, kv_latency
from .item import BUFFERS, AttentionSizes, counted, delayed, more_than
from .memory import BlockMemory
from .nibbles import expand_beat, push_beat
from .scales import ScaleBuffer

__all__ = ["BlockBuffer"]


class Walk:
    """Where loading is: run, block, part of it and beat; and whether there is room for another."""

    def __init__(self, config: BuildConfig, sizes: AttentionSizes, dim_bits: int) -> None:
        block_bits = (config.kv_block - 1).bit_length()
        self.buffer = Signal((BUFFERS - 1).bit_length())
        #: All buffers are in use.
        self.full = Signal(name="full")
        self.head = Signal(bits_for(config.max_kv_heads))
        #: The next block begins another head, another run.
        self.next_head, self.next_run = Signal(), Signal()
        self.run = Signal(index_bits(config.chunk))
        #: Of the run: bank of its first token and its position; where that lies in its block, and less the bank; blocks of a head
        #: behind the first one, and blocks with tokens of the run behind the first of those (one, or none); blocks in the ring.
        self.bank, self.position = Signal(bits_for(config.chunk)), Signal(bits_for(config.max_context))
        self.tokens = Signal(bits_for(config.chunk))
        self.begins, self.turn = Signal(block_bits), Signal(block_bits)
        self.later = Signal(bits_for(config.max_pages))
        self.crossing = Signal()
        self.past = Signal(bits_for(config.max_pages))
        #: Slots before ``begins``.
        self.before = Signal(config.kv_block)
        #: Blocks still to come of this head (ATTENTION) or of the operator (HEAD), beside the present one; of this head's in the
        #: ring, with it.
        self.blocks_left = Signal(32)
        self.past_left = Signal(bits_for(config.max_pages))
        #: The present block has tokens of the run, whose part comes first, from the store; and a part in the ring.
        self.has_own, self.has_past = Signal(), Signal()
        #: The part that comes from the store is at hand.
        self.own = Signal()
        self.step = Signal(range(sizes.head_dims))
        self.last_step = Signal(range(sizes.head_dims))
        #: Beats since the last multiple of ``groups``.
        self.phase = Signal(index_bits(config.groups))
        self.aligned = Signal()
        # "$signal" is Amaranth's name for a signal without one; given where the Verilog has it.
        self.in_header, self.in_keys, self.in_values, self.in_padding = (Signal(name="$signal") for _ in range(4))
        #: HEAD: beats from here on into the queue, and those that were written there.
        self.queued, self.offered = (Signal(range((BUFFERS << dim_bits) + 1), name=n) for n in ("$signal", "offered"))
        #: Keys are taken: of HEAD, the queue has room, whatever came in the cycle before.
        self.room = Signal()
        self.begin, self.wanted, self.accept, self.last = (Signal(name="$signal") for _ in range(4))
        #: Keys, and values, are kept two elements a byte; the beat that is asked for is.
        self.packed_keys, self.packed_values, self.packed = (
            (Signal(name=name) if config.int4_kv else Const(0)) for name in ("packed_keys", "packed_values", "packed")
        )


class Landing:
    """What the store answers: a beat of keys, of values, the last of them, its step; and whether none is on its way."""

    def __init__(self, m: Module, config: BuildConfig, walk: Walk, dim_bits: int) -> None:
        latency = kv_latency(config)
        keys = delayed(m, walk.own & walk.in_keys, latency, "own_keys")
        values = delayed(m, walk.own & walk.in_values, latency, "own_values")
        self.keys, self.values = keys[-1], values[-1]
        self.any = delayed(m, walk.own & (walk.in_keys | walk.in_values), latency, "own_any", reset_less=True)[-1]
        self.last = delayed(m, walk.last, latency, "own_last", reset_less=True)[-1]
        self.step = delayed(m, walk.step[:dim_bits], latency, "own_step", reset_less=True)[-1]
        self.over = Signal()
        m.d.comb += self.over.eq(~Cat(*keys, *values).any())


class BlockBuffer(wiring.Component):
    """Loads blocks into ``BUFFERS`` local buffers, used in turn, ahead of the stages that work on them.

    ATTENTION: for every run and every key/value head the blocks by ascending position. Those that begin before the run come from
    ``beats``, those with tokens of the run from the KV store, and the one that is both from both: first the store's slots are
    written, then the others.
    HEAD (``direct``): blocks of vocabulary rows; the key buffers together are a queue of their beats.
    A block of ``beats`` is followed by padding up to a multiple of ``groups`` beats, which is dropped.
    Blocks of 4-bit elements are packed in the buffers, so that they load in half the time, and are expanded when read.

    Members
    -------
    op : In(Operator), start : In(1), direct : In(1)
        ``direct`` is 1 for HEAD.
    runs : Out(RunRead), beats : In(BeatStream), store : Out(KvRead)
    key_buffer, key_dim : In;  key : Out
        Key beat, one cycle later.
    key_ready : Out(1), key_limit : Out
        The keys of the oldest block that were not freed are complete, or so many of their beats may be read.
    key_free : In(1)
        Strobe: that block's keys were read for the last time.
    offer : Out(1), take : In(1)
        With ``direct``: a key beat is there; it is on ``key`` in the cycle after ``take`` (only while ``offer``).
    value_buffer, value_dim : In;  value : Out
        Value beat, one cycle later.
    value_ready, next_value_ready : Out(1)
        The values of the oldest block that was not freed are complete, and those of the next one too.
    free, free_rows : In(1)
        Strobe: nothing of the oldest block is needed any more; of keys and values, or with ``direct``.
    scales_ready : Out(BUFFERS)
        The scales of a buffered block are complete.
    scale_buffer, scale_key : In;  key_scale, value_scale : Out(16)
        bf16 scales of one key of a block, one cycle later.
    """

    def __init__(self, config: BuildConfig) -> None:
        self.config = config
        self.sizes = AttentionSizes(config)
        buffer, dim, beat = (BUFFERS - 1).bit_length(), index_bits(self.sizes.dims), 8 * config.beat_bytes
        super().__init__({
            "op": In(Operator(config)),
            "start": In(1),
            "direct": In(1),
            "runs": Out(RunRead(config)),
            "beats": In(BeatStream(config)),
            "store": Out(KvRead(config)),
            "key_buffer": In(buffer),
            "key_dim": In(dim),
            "key": Out(beat),
            "key_ready": Out(1),
            "key_limit": Out(index_bits(self.sizes.dims)),
            "key_free": In(1),
            "offer": Out(1),
            "take": In(1),
            "value_buffer": In(buffer),
            "value_dim": In(dim),
            "value": Out(beat),
            "value_ready": Out(1),
            "next_value_ready": Out(1),
            "free": In(1),
            "free_rows": In(1),
            "scales_ready": Out(BUFFERS),
            "scale_buffer": In(buffer),
            "scale_key": In(index_bits(config.kv_block)),
            "key_scale": Out(16),
            "value_scale": Out(16),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.scales = ScaleBuffer(self.config)
        walk = Walk(self.config, self.sizes, len(self.key_dim))
        self._count_beats(m, walk)
        landing = Landing(m, self.config, walk, len(self.key_dim))
        self._sequence(m, walk, landing)
        self._fill_buffers(m, walk, landing)
        self._connect_store(m, walk)
        return m

    def _count_beats(self, m: Module, walk: Walk) -> None:
        """Takes the beats that are wanted, and counts them."""
        config, sizes, command = self.config, self.sizes, self.op.descriptor
        m.d.comb += [
            self.runs.index.eq(walk.run),
            walk.has_own.eq(~self.direct & ((walk.blocks_left == 0) | ((walk.blocks_left == 1) & walk.crossing))),
            walk.has_past.eq(self.direct | (walk.past_left != 0)),
            walk.wanted.eq(walk.in_header | (walk.in_keys & walk.room) | walk.in_values | walk.in_padding),
            self.beats.ready.eq(walk.wanted & ~walk.own),
            # The store answers every request.
            walk.accept.eq(walk.wanted & (walk.own | self.beats.valid)),
            walk.last.eq(walk.step == walk.last_step),
        ]
        if config.int4_kv:
            m.d.sync += [
                walk.packed_keys.eq((command.format & Format.INT4_KEYS).any() & ~self.direct),
                walk.packed_values.eq((command.format & Format.INT4_VALUES).any() & ~self.direct),
            ]
            m.d.comb += [
                walk.packed.eq(Mux(walk.in_values, walk.packed_values, walk.packed_keys)),
                walk.last.eq(
                    Mux(walk.packed & ~walk.own, walk.step == walk.last_step >> 1, walk.step == walk.last_step)
                ),
            ]
        m.d.sync += walk.last_step.eq((Mux(self.direct, command.vectors, command.head_vectors) << sizes.part_bits) - 1)
        m.d.comb += walk.aligned.eq(walk.phase == config.groups - 1)
        with m.If(walk.accept):
            m.d.sync += [walk.step.eq(walk.step + 1), walk.phase.eq(Mux(walk.aligned, 0, walk.phase + 1))]

    def _end_block(self, m: Module, walk: Walk) -> None:
        """The next block follows, of the next head or run after the last, until nothing is left."""
        last_head = walk.head == self.op.descriptor.kv_heads - 1
        m.d.sync += [walk.buffer.eq(walk.buffer + 1), walk.blocks_left.eq(walk.blocks_left - 1)]
        with m.If(walk.past_left != 0):
            m.d.sync += walk.past_left.eq(walk.past_left - 1)
        m.next = "BEGIN"
        with m.If(walk.blocks_left == 0):
            m.d.sync += [walk.next_head.eq(1), walk.blocks_left.eq(walk.later), walk.past_left.eq(walk.past)]
            with m.If(self.direct):
                m.next = "IDLE"
            with m.Elif(last_head):
                m.d.sync += [walk.next_run.eq(1), walk.run.eq(walk.run + 1)]
                m.next = "RUN"
                with m.If(walk.run + 1 == self.op.runs):
                    m.next = "IDLE"

    def _sequence(self, m: Module, walk: Walk, landing: Landing) -> None:
        """Block after block: keys and values of the store, then header, keys, values and padding of the ring."""
        command, scales, header_beats = self.op.descriptor, m.submodules.scales, self.config.header_beats
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += [
                    walk.run.eq(0), walk.bank.eq(0), walk.next_run.eq(1), walk.buffer.eq(0),
                    walk.blocks_left.eq(command.row_blocks - 1),
                ]
                with m.If(self.start):
                    m.next = "RUN"
                    with m.If(self.direct):
                        m.next = "BEGIN"
            self._open_run(m, walk)
            with m.State("BEGIN"):
                m.d.sync += [walk.step.eq(0), walk.phase.eq(0), walk.own.eq(walk.has_own)]
                with m.If(~walk.full & ~scales.busy):
                    m.d.comb += [walk.begin.eq(1), scales.pour.eq(~walk.has_past)]
                    m.d.sync += [walk.head.eq(Mux(walk.next_run, 0, walk.head + walk.next_head))]
                    m.d.sync += [walk.next_head.eq(0), walk.next_run.eq(0)]
                    m.next = "HEADER"
                    with m.If(walk.has_own):
                        m.next = "KEYS"
            with m.State("HEADER"):
                m.d.comb += walk.in_header.eq(1)
                with m.If(walk.accept & (walk.step == header_beats - 1)):
                    m.d.comb += scales.pour.eq(1)
                    m.d.sync += walk.step.eq(0)
                    m.next = "KEYS"
                    with m.If(walk.has_own):
                        m.next = "LAND"
            with m.State("KEYS"):
                m.d.comb += walk.in_keys.eq(1)
                with m.If(walk.accept & walk.last):
                    m.d.sync += walk.step.eq(0)
                    m.next = "VALUES"
                    with m.If(self.direct):
                        m.next = "PADDING"
                        with m.If(walk.aligned):
                            self._end_block(m, walk)
            with m.State("VALUES"):
                m.d.comb += walk.in_values.eq(1)
                with m.If(walk.accept & walk.last):
                    m.d.sync += [walk.step.eq(0), walk.own.eq(0)]
                    m.next = "PADDING"
                    with m.If(walk.own):
                        m.d.sync += walk.phase.eq(0)
                        m.next = "LAND"
                        with m.If(walk.has_past):
                            m.next = "HEADER"
                    with m.Elif(walk.aligned):
                        self._end_block(m, walk)
            with m.State("LAND"), m.If(landing.over):
                # The memories have one write port.
                m.next = "KEYS"
                with m.If(~walk.has_past):
                    self._end_block(m, walk)
            with m.State("PADDING"):
                m.d.comb += walk.in_padding.eq(1)
                with m.If(walk.accept & walk.aligned):
                    self._end_block(m, walk)

    def _open_run(self, m: Module, walk: Walk) -> None:
        """States that find out about a run."""
        block, block_bits = self.config.kv_block, len(walk.begins)
        with m.State("RUN"):
            m.next = "RUN_POSITION"
        with m.State("RUN_POSITION"):
            m.d.sync += [walk.position.eq(self.runs.position), walk.tokens.eq(self.runs.tokens)]
            m.next = "RUN_BLOCKS"
        with m.State("RUN_BLOCKS"):
            m.d.sync += [
                walk.begins.eq(walk.position),
                walk.turn.eq(walk.position - walk.bank),
                walk.bank.eq(walk.bank + walk.tokens),
                walk.later.eq((walk.position + walk.tokens - 1) >> block_bits),
                walk.crossing.eq((walk.position[:block_bits] + walk.tokens - 1)[block_bits]),
                walk.past.eq((walk.position + (block - 1)) >> block_bits),
            ]
            m.next = "RUN_SLOTS"
        with m.State("RUN_SLOTS"):
            m.d.sync += [
                walk.before.eq(Cat(slot < walk.begins for slot in range(block))),
                walk.blocks_left.eq(walk.later),
                walk.past_left.eq(walk.past),
            ]
            m.next = "BEGIN"

    def _fill_buffers(self, m: Module, walk: Walk, landing: Landing) -> None:
        """What lands in the buffers: beats as they come, or what the store answers."""
        config, sizes, dim_bits = self.config, self.sizes, len(self.key_dim)
        key_written, value_written, last_written = Signal(), Signal(), Signal()
        keys_end, values_end = Signal(), Signal()  # the last beat of a block's keys, of its values
        write_step, write_buffer = Signal(dim_bits), Signal(len(walk.buffer))
        #: Nothing else of this block comes to where this beat goes.
        completes = Signal()
        strobe = Signal(config.kv_block)
        data = Signal(8 * config.beat_bytes, reset_less=True)
        taken = walk.accept & ~walk.own
        # Two beats of the store make one of 4-bit elements.
        store_data, store_step, whole = self.store.data, landing.step, Const(1)
        if config.int4_kv:
            packed = Mux(landing.values, walk.packed_values, walk.packed_keys)
            store_data = Mux(packed, push_beat(data, store_data), store_data)
            store_step, whole = Mux(packed, landing.step >> 1, landing.step), ~packed | landing.step[0]
        m.d.sync += [
            key_written.eq((landing.keys & whole) | (taken & walk.in_keys)),
            value_written.eq((landing.values & whole) | (taken & walk.in_values)),
            completes.eq(~landing.any | ~walk.has_past),
            last_written.eq(Mux(landing.any, landing.last, walk.last)),
            keys_end.eq(
                (landing.keys & landing.last & ~walk.has_past) | (taken & walk.in_keys & walk.last & ~self.direct)
            ),
            values_end.eq((landing.values & landing.last & ~walk.has_past) | (taken & walk.in_values & walk.last)),
            write_step.eq(Mux(landing.any, store_step, walk.step)),
            write_buffer.eq(walk.buffer),
            data.eq(Mux(landing.any, store_data, self.beats.payload)),
            strobe.eq(Mux(
                landing.any, ~(walk.before & walk.has_past.replicate(config.kv_block)),
                walk.before | (~walk.has_own).replicate(config.kv_block),
            )),
        ]
        keys_written = Signal(range(sizes.dims))
        with m.If(key_written & completes):
            m.d.sync += keys_written.eq(Mux(last_written, 0, write_step + 1))
            if config.int4_kv:
                with m.If(walk.packed_keys & ~last_written):
                    m.d.sync += keys_written.eq((write_step + 1) << 1)
        write_place, read_place = Signal(dim_bits + len(walk.buffer)), Signal(dim_bits + len(walk.buffer))
        offered = key_written & self.direct
        m.d.sync += [
            walk.queued.eq(counted(walk.queued, walk.accept & walk.in_keys & self.direct, self.take)),
            walk.room.eq(~self.direct | (walk.queued < (BUFFERS << dim_bits) - 1)),
            walk.offered.eq(counted(walk.offered, offered, self.take)),
            # ``offered`` as it becomes is not 0
            self.offer.eq(offered | walk.offered[1:].any() | (walk.offered[0] & ~self.take)),
            read_place.eq(read_place + self.take),
            write_place.eq(write_place + offered),
        ]
        used = more_than(m, BUFFERS, walk.begin, self.free | self.free_rows, "used")
        keys = more_than(m, BUFFERS, keys_end, self.key_free, "keys_ahead")
        values = more_than(m, BUFFERS, values_end, self.free, "values_ahead")
        m.d.comb += [
            walk.full.eq(used[-1]),
            self.key_ready.eq(keys[0]),
            self.key_limit.eq(keys_written),
            self.value_ready.eq(values[0]),
            self.next_value_ready.eq(values[1]),
        ]

        beat, slot = 8 * config.beat_bytes, 8 * config.key_bytes
        m.submodules.keys = key_memory = BlockMemory(beat, BUFFERS << dim_bits, slot)
        m.submodules.values = value_memory = BlockMemory(beat, BUFFERS << dim_bits, slot)
        key, key_dim = self._expanded(m, "key", walk.packed_keys, key_memory.data)
        value, value_dim = self._expanded(m, "value", walk.packed_values, value_memory.data)
        m.d.comb += [
            key_memory.write_en.eq(strobe & key_written.replicate(config.kv_block)),
            key_memory.write_addr.eq(Mux(self.direct, write_place, Cat(write_step, write_buffer))),
            key_memory.write_data.eq(data),
            key_memory.addr.eq(Mux(self.direct, read_place, Cat(key_dim, self.key_buffer))),
            self.key.eq(key),
            value_memory.write_en.eq(strobe & value_written.replicate(config.kv_block)),
            value_memory.write_addr.eq(Cat(write_step, write_buffer)),
            value_memory.write_data.eq(data),
            value_memory.addr.eq(Cat(value_dim, self.value_buffer)),
            self.value.eq(value),
        ]

    def _connect_store(self, m: Module, walk: Walk) -> None:
        """The store is asked for the pass's own keys and values; scales go to their buffer."""
        command, scales = self.op.descriptor, m.submodules.scales
        m.d.comb += [
            self.store.value.eq(walk.in_values),
            self.store.head.eq(walk.head),
            self.store.head_vectors.eq(command.head_vectors),
            self.store.dim.eq(walk.step),
            self.store.turn.eq(walk.turn),
            self.store.bank.eq(scales.bank),
            scales.bank_scales.eq(self.store.scales),
            scales.put.eq(walk.accept & walk.in_header),
            scales.part.eq(walk.step),
            scales.beat.eq(self.beats.payload),
            scales.begin.eq(walk.begin),
            scales.buffer.eq(walk.buffer),
            scales.own.eq(Mux(walk.has_own, Mux(walk.has_past, walk.begins, 0), self.config.kv_block)),
            scales.turn.eq(walk.turn),
            self.scales_ready.eq(scales.ready),
            scales.read_buffer.eq(self.scale_buffer),
            scales.read_key.eq(self.scale_key),
            self.key_scale.eq(scales.key_scale),
            self.value_scale.eq(scales.value_scale),
        ]

    def _expanded(self, m: Module, kind: str, two: Value, beat: Value) -> tuple[Value, Value]:
        """The elements ``[dim, dim + 1) * key_bytes``, made of the beat that the memory gives, and where to read that. ``two``: a
        beat is two of elements."""
        dim = getattr(self, f"{kind}_dim")
        if not self.config.int4_kv:
            return beat, dim
        place = Signal(len(dim), name=f"{kind}_place")
        packed, upper = Signal(name=f"{kind}_packed"), Signal(name=f"{kind}_upper")
        m.d.comb += place.eq(Mux(two, dim >> 1, dim))
        m.d.sync += [packed.eq(two), upper.eq(two & dim[0])]
        return expand_beat(beat, packed, upper), place
