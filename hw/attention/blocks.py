"""Blocks of keys and values on their way from the ring, or from the KV store, to the attention arithmetic."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from ...config import BuildConfig
from ...descriptors import Format
from ..interfaces import KV_LATENCY, BeatStream, KvRead, Operator, index_bits
from .item import BUFFERS, AttentionSizes, counted, delayed, more_than
from .memory import BlockMemory
from .nibbles import expand_beat
from .scales import ScaleBuffer

__all__ = ["BlockBuffer"]


class Walk:
    """Where loading is: block, part of it and beat; and whether there is room for another."""

    def __init__(self, config: BuildConfig, sizes: AttentionSizes, dim_bits: int) -> None:
        self.buffer = Signal((BUFFERS - 1).bit_length())
        #: All buffers are in use.
        self.full = Signal(name="full")
        self.head = Signal(bits_for(config.max_kv_heads))
        #: Blocks still to come of this head (ATTENTION) or of the operator (HEAD), beside the present one.
        self.blocks_left = Signal(32)
        self.past = Signal(bits_for(config.max_pages))
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
        #: Past blocks hold two elements a byte.
        self.int4: Value = Signal(name="int4") if config.int4_kv else Const(0)


class BlockBuffer(wiring.Component):
    """Loads blocks into ``BUFFERS`` local buffers, used in turn, ahead of the stages that work on them.

    ATTENTION: for every key/value head the pass's own block from the KV store, then the past blocks from ``beats``.
    HEAD (``direct``): blocks of vocabulary rows; the key buffers together are a queue of their beats.
    A block is followed by padding up to a multiple of ``groups`` beats, which is dropped.
    Past blocks of 4-bit elements stay packed in the buffers, so that they load in half the time, and are expanded when read.

    Members
    -------
    op : In(Operator), start : In(1), direct : In(1)
        ``direct`` is 1 for HEAD.
    beats : In(BeatStream), store : Out(KvRead)
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
    key_own, value_own : In(1)
        With ``config.int4_kv`` only: the block that is read is the pass's own.
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
            **({"key_own": In(1), "value_own": In(1)} if config.int4_kv else {}),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.scales = ScaleBuffer(self.config)
        walk = Walk(self.config, self.sizes, len(self.key_dim))
        self._count_beats(m, walk)
        from_store = [
            delayed(m, walk.own & state, KV_LATENCY, n)
            for state, n in ((walk.in_keys, "own_keys"), (walk.in_values, "own_values"))
        ]
        own_last = delayed(m, walk.last, KV_LATENCY, "own_last", reset_less=True)[-1]
        own_step = delayed(m, walk.step[: len(self.key_dim)], KV_LATENCY, "own_step", reset_less=True)[-1]
        landed = Signal()
        m.d.comb += landed.eq(~Cat(*from_store[0], *from_store[1]).any())
        self._sequence(m, walk, landed)
        self._fill_buffers(m, walk, from_store[0][-1], from_store[1][-1], own_last, own_step)
        self._connect_store(m, walk)
        return m

    def _count_beats(self, m: Module, walk: Walk) -> None:
        """Takes the beats that are wanted, and counts them."""
        config, sizes, command = self.config, self.sizes, self.op.descriptor
        block_bits = (config.kv_block - 1).bit_length()
        m.d.comb += [
            walk.past.eq((self.op.position + (config.kv_block - 1)) >> block_bits),
            walk.wanted.eq(walk.in_header | (walk.in_keys & walk.room) | walk.in_values | walk.in_padding),
            self.beats.ready.eq(walk.wanted & ~walk.own),
            # The store answers every request.
            walk.accept.eq(walk.wanted & (walk.own | self.beats.valid)),
            walk.last.eq(walk.step == walk.last_step),
        ]
        if config.int4_kv:
            m.d.sync += walk.int4.eq((command.format & Format.INT4_KV).any() & ~self.direct)
            m.d.comb += walk.last.eq(walk.step == Mux(walk.int4 & ~walk.own, walk.last_step >> 1, walk.last_step))
        m.d.sync += walk.last_step.eq((Mux(self.direct, command.vectors, command.head_vectors) << sizes.part_bits) - 1)
        m.d.comb += walk.aligned.eq(walk.phase == config.groups - 1)
        with m.If(walk.accept):
            m.d.sync += [walk.step.eq(walk.step + 1), walk.phase.eq(Mux(walk.aligned, 0, walk.phase + 1))]

    def _end_block(self, m: Module, walk: Walk) -> None:
        """The next block follows, of the next head after the last, until nothing is left."""
        command = self.op.descriptor
        m.d.sync += [walk.buffer.eq(walk.buffer + 1), walk.blocks_left.eq(walk.blocks_left - 1), walk.own.eq(0)]
        m.next = "BEGIN"
        with m.If(walk.blocks_left == 0):
            m.d.sync += [walk.head.eq(walk.head + 1), walk.own.eq(1), walk.blocks_left.eq(walk.past)]
            with m.If(self.direct | (walk.head == command.kv_heads - 1)):
                m.next = "IDLE"

    def _sequence(self, m: Module, walk: Walk, landed: Signal) -> None:
        """Header, keys, values and padding of block after block; the pass's own has no header and no padding."""
        command, scales, header_beats = self.op.descriptor, m.submodules.scales, self.config.header_beats
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += [
                    walk.head.eq(0), walk.own.eq(~self.direct),
                    walk.blocks_left.eq(Mux(self.direct, command.row_blocks - 1, walk.past)), walk.buffer.eq(0),
                ]
                with m.If(self.start):
                    m.next = "BEGIN"
            with m.State("BEGIN"):
                m.d.sync += [walk.step.eq(0), walk.phase.eq(0)]
                with m.If(~walk.full & ~scales.busy):
                    m.d.comb += [walk.begin.eq(1), scales.pour.eq(walk.own)]
                    m.next = "HEADER"
                    with m.If(walk.own):
                        m.next = "KEYS"
            with m.State("HEADER"):
                m.d.comb += walk.in_header.eq(1)
                with m.If(walk.accept & (walk.step == header_beats - 1)):
                    m.d.comb += scales.pour.eq(1)
                    m.d.sync += walk.step.eq(0)
                    m.next = "KEYS"
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
                    m.next = "PADDING"
                    with m.If(walk.own):
                        m.next = "LAND"
                    with m.Elif(walk.aligned):
                        self._end_block(m, walk)
            with m.State("LAND"), m.If(landed & ~scales.busy):
                self._end_block(m, walk)
            with m.State("PADDING"):
                m.d.comb += walk.in_padding.eq(1)
                with m.If(walk.accept & walk.aligned):
                    self._end_block(m, walk)

    def _fill_buffers(
        self, m: Module, walk: Walk, own_keys: Value, own_values: Value, own_last: Value, own_step: Value
    ) -> None:
        """What lands in the buffers: beats as they come, or what the store answers."""
        config, sizes, dim_bits = self.config, self.sizes, len(self.key_dim)
        key_written, value_written, last_written = Signal(), Signal(), Signal()
        keys_end, values_end = Signal(), Signal()  # the last beat of a block's keys, of its values
        write_step, write_buffer = Signal(dim_bits), Signal(len(walk.buffer))
        data = Signal(8 * config.beat_bytes, reset_less=True)
        m.d.sync += [
            key_written.eq(own_keys | (walk.accept & walk.in_keys & ~walk.own)),
            value_written.eq(own_values | (walk.accept & walk.in_values & ~walk.own)),
            last_written.eq(Mux(walk.own, own_last, walk.last)),
            keys_end.eq(Mux(walk.own, own_keys & own_last, walk.accept & walk.in_keys & walk.last & ~self.direct)),
            values_end.eq(Mux(walk.own, own_values & own_last, walk.accept & walk.in_values & walk.last)),
            write_step.eq(Mux(walk.own, own_step, walk.step)),
            write_buffer.eq(walk.buffer),
            data.eq(Mux(walk.own, self.store.data, self.beats.payload)),
        ]
        keys_written = Signal(range(sizes.dims))
        with m.If(key_written):
            m.d.sync += keys_written.eq(Mux(last_written, 0, write_step + 1))
            if config.int4_kv:
                with m.If(walk.int4 & ~walk.own & ~last_written):
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

        m.submodules.keys = key_memory = BlockMemory(8 * config.beat_bytes, BUFFERS << dim_bits)
        m.submodules.values = value_memory = BlockMemory(8 * config.beat_bytes, BUFFERS << dim_bits)
        key, key_dim = self._expanded(m, "key", walk.int4, key_memory.data)
        value, value_dim = self._expanded(m, "value", walk.int4, value_memory.data)
        m.d.comb += [
            key_memory.write_en.eq(key_written),
            key_memory.write_addr.eq(Mux(self.direct, write_place, Cat(write_step, write_buffer))),
            key_memory.write_data.eq(data),
            key_memory.addr.eq(Mux(self.direct, read_place, Cat(key_dim, self.key_buffer))),
            self.key.eq(key),
            value_memory.write_en.eq(value_written),
            value_memory.write_addr.eq(Cat(write_step, write_buffer)),
            value_memory.write_data.eq(data),
            value_memory.addr.eq(Cat(value_dim, self.value_buffer)),
            self.value.eq(value),
        ]

    def _connect_store(self, m: Module, walk: Walk) -> None:
        """The store is asked for the pass's own block; scales go to their buffer."""
        command, scales = self.op.descriptor, m.submodules.scales
        m.d.comb += [
            self.store.value.eq(walk.in_values),
            self.store.head.eq(walk.head),
            self.store.head_vectors.eq(command.head_vectors),
            self.store.dim.eq(walk.step),
            self.store.bank.eq(scales.bank),
            scales.bank_scales.eq(self.store.scales),
            scales.put.eq(walk.accept & walk.in_header),
            scales.part.eq(walk.step),
            scales.beat.eq(self.beats.payload),
            scales.begin.eq(walk.begin),
            scales.buffer.eq(walk.buffer),
            scales.own.eq(walk.own),
            self.scales_ready.eq(scales.ready),
            scales.read_buffer.eq(self.scale_buffer),
            scales.read_key.eq(self.scale_key),
            self.key_scale.eq(scales.key_scale),
            self.value_scale.eq(scales.value_scale),
        ]

    def _expanded(self, m: Module, kind: str, int4: Value, beat: Value) -> tuple[Value, Value]:
        """The elements ``[dim, dim + 1) * key_bytes``, made of the beat that the memory gives, and where to read that."""
        dim = getattr(self, f"{kind}_dim")
        if not self.config.int4_kv:
            return beat, dim
        place = Signal(len(dim), name=f"{kind}_place")
        packed, upper = Signal(name=f"{kind}_packed"), Signal(name=f"{kind}_upper")
        half = int4 & ~getattr(self, f"{kind}_own")
        m.d.comb += place.eq(Mux(half, dim >> 1, dim))
        m.d.sync += [packed.eq(half), upper.eq(half & dim[0])]
        return expand_beat(beat, packed, upper), place
