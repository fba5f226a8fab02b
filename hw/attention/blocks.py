"""Blocks of keys and values on their way from the ring, or from the KV store, to the attention arithmetic."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ...config import BuildConfig
from ...descriptors import Format
from ..choice import seen_position
from ..interfaces import BeatStream, KvRead, Operator, RunRead, index_bits
from .block_walk import BlockWalk
from .item import AttentionSizes, counted, more_than
from .memory import BlockMemory
from .nibbles import expand_beat, push_beat
from .own_part import Landing, OwnPart
from .scales import ScaleBuffer

__all__ = ["BlockBuffer"]


class BlockBuffer(wiring.Component):
    """Loads blocks into local buffers, used in turn, ahead of the stages that work on them.

    ATTENTION: for every run and every key/value head the blocks by ascending position. Those that begin before the run come from
    ``beats``, those with tokens of the run from the KV store, and the one that is both from both, each its own slots. The store
    is read beside ``beats``: while a part of one block comes from there, that of the next may come from the ring. Blocks count as
    complete by ascending position all the same.
    HEAD (``direct``): blocks of vocabulary rows; the key buffers together are a queue of their beats.
    A block of ``beats`` is followed by padding up to a multiple of ``groups`` beats, which is dropped.
    Blocks of 4-bit elements are packed in the buffers, so that they load in half the time, and are expanded when read.

    Members
    -------
    op : In(Operator), start : In(1), direct : In(1)
        ``direct`` is 1 for HEAD.
    choosing : In(1)
        In builds with a budget: of the blocks of ``beats`` headers and keys alone come, and nothing of the store.
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
    scales_ready : Out
        The scales of a buffered block are complete.
    scale_buffer, scale_key : In;  key_scale, value_scale : Out(16)
        bf16 scales of one key of a block, one cycle later.
    """

    def __init__(self, config: BuildConfig) -> None:
        self.config = config
        self.sizes = AttentionSizes(config)
        buffer, dim, beat = (self.sizes.buffers - 1).bit_length(), index_bits(self.sizes.dims), 8 * config.beat_bytes
        super().__init__({
            "op": In(Operator(config)),
            "start": In(1),
            "direct": In(1),
            **({"choosing": In(1)} if config.kv_budget else {}),
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
            "scales_ready": Out(self.sizes.buffers),
            "scale_buffer": In(buffer),
            "scale_key": In(index_bits(config.kv_block)),
            "key_scale": Out(16),
            "value_scale": Out(16),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.scales = ScaleBuffer(self.config)
        walk = BlockWalk(self.config, self.sizes, len(self.key_dim))
        self._keys_alone: Value = self.direct
        if self.config.kv_budget:
            self._keys_alone = self.direct | self.choosing
        own = OwnPart(self.config, walk)
        landing = own.load(m, self.op, walk, self.sizes)
        self._count_beats(m, walk, landing)
        self._sequence(m, walk, own)
        self._fill_buffers(m, walk, own, landing)
        self._count_blocks(m, walk, own)
        self._connect_store(m, walk, own)
        return m

    def _count_beats(self, m: Module, walk: BlockWalk, landing: Landing) -> None:
        """Takes the beats that are wanted, and counts them."""
        config, sizes, command = self.config, self.sizes, self.op.descriptor
        m.d.comb += [
            self.runs.index.eq(walk.run),
            walk.has_own.eq(~self._keys_alone & ((walk.blocks_left == 0) | ((walk.blocks_left == 1) & walk.crossing))),
            walk.has_past.eq(self._keys_alone | (walk.past_left != 0)),
            # The memories have one write port each, and what the store answers does not wait.
            walk.wanted.eq(
                walk.in_header | (walk.in_keys & walk.room & ~landing.keys) | (walk.in_values & ~landing.values) | walk.in_padding
            ),
            self.beats.ready.eq(walk.wanted),
            walk.accept.eq(walk.wanted & self.beats.valid),
            walk.last.eq(walk.step == walk.last_step),
        ]
        if config.int4_kv:
            m.d.sync += [
                walk.packed_keys.eq((command.format & Format.INT4_KEYS).any() & ~self.direct),
                walk.packed_values.eq((command.format & Format.INT4_VALUES).any() & ~self.direct),
            ]
            m.d.comb += [
                walk.packed.eq(Mux(walk.in_values, walk.packed_values, walk.packed_keys)),
                walk.last.eq(Mux(walk.packed, walk.step == walk.last_step >> 1, walk.step == walk.last_step)),
            ]
        m.d.sync += walk.last_step.eq((Mux(self.direct, command.vectors, command.head_vectors) << sizes.part_bits) - 1)
        m.d.comb += walk.aligned.eq(walk.phase == config.groups - 1)
        with m.If(walk.accept):
            m.d.sync += [walk.step.eq(walk.step + 1), walk.phase.eq(Mux(walk.aligned, 0, walk.phase + 1))]

    def _end_block(self, m: Module, walk: BlockWalk) -> None:
        """The next block follows, of the next head or run after the last, until nothing is left."""
        m.d.sync += [walk.buffer.eq(walk.buffer + 1), walk.blocks_left.eq(walk.blocks_left - 1)]
        with m.If(walk.past_left != 0):
            m.d.sync += walk.past_left.eq(walk.past_left - 1)
        m.next = "BEGIN"
        with m.If(walk.blocks_left == 0):
            m.d.sync += [walk.next_head.eq(1), walk.blocks_left.eq(walk.later), walk.past_left.eq(walk.past)]
            with m.If(self.direct):
                m.next = "IDLE"
            with m.Elif(walk.head == walk.last_head):
                m.d.sync += [walk.next_run.eq(1), walk.run.eq(walk.run + 1)]
                m.next = "RUN"
                with m.If(walk.last_run):
                    m.next = "IDLE"

    def _sequence(self, m: Module, walk: BlockWalk, own: OwnPart) -> None:
        """Block after block: header, keys, values and padding of the ring; the part of the store is left to :class:`OwnPart`."""
        command, scales, config = self.op.descriptor, m.submodules.scales, self.config
        m.d.sync += [walk.last_head.eq(command.kv_heads - 1), walk.last_run.eq(walk.run + 1 == self.op.runs)]
        m.d.comb += scales.pour.eq(walk.pouring & ~scales.busy)
        with m.If(scales.pour):
            m.d.sync += walk.pouring.eq(0)
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
                m.d.sync += [walk.step.eq(0), walk.phase.eq(0)]
                # The store keeps the head of one part until its scales have poured.
                waits = walk.full | walk.pouring | scales.holds | (walk.has_own & (own.busy | scales.busy))
                with m.If(~waits):
                    m.d.comb += [walk.begin.eq(1), own.begin.eq(walk.has_own)]
                    m.d.sync += [walk.head.eq(Mux(walk.next_run, 0, walk.head + walk.next_head))]
                    m.d.sync += [walk.next_head.eq(0), walk.next_run.eq(0)]
                    m.next = "HEADER"
                    with m.If(~walk.has_past):
                        m.next = "OWN"
            with m.State("OWN"):
                m.d.sync += [walk.pouring.eq(1), walk.pour_buffer.eq(walk.buffer), walk.pour_own.eq(0)]
                self._end_block(m, walk)
            with m.State("HEADER"):
                m.d.comb += walk.in_header.eq(1)
                with m.If(walk.accept & (walk.step == config.header_beats - 1)):
                    m.d.sync += [
                        walk.pouring.eq(1), walk.pour_buffer.eq(walk.buffer),
                        walk.pour_own.eq(Mux(walk.has_own, walk.begins, config.kv_block)), walk.step.eq(0),
                    ]
                    m.next = "KEYS"
            with m.State("KEYS"):
                m.d.comb += walk.in_keys.eq(1)
                with m.If(walk.accept & walk.last):
                    m.d.sync += walk.step.eq(0)
                    m.next = "VALUES"
                    with m.If(self._keys_alone):
                        m.next = "PADDING"
                        with m.If(walk.aligned):
                            self._end_block(m, walk)
            with m.State("VALUES"):
                m.d.comb += walk.in_values.eq(1)
                with m.If(walk.accept & walk.last):
                    m.d.sync += walk.step.eq(0)
                    m.next = "PADDING"
                    with m.If(walk.aligned):
                        self._end_block(m, walk)
            with m.State("PADDING"):
                m.d.comb += walk.in_padding.eq(1)
                with m.If(walk.accept & walk.aligned):
                    self._end_block(m, walk)

    def _open_run(self, m: Module, walk: BlockWalk) -> None:
        """States that find out about a run."""
        block, block_bits = self.config.kv_block, len(walk.begins)
        with m.State("RUN"):
            m.next = "RUN_POSITION"
        with m.State("RUN_POSITION"):
            choosing = self.choosing if self.config.kv_budget else Const(0)
            m.d.sync += [walk.position.eq(seen_position(self.config, self.runs, choosing)), walk.tokens.eq(self.runs.tokens)]
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

    def _fill_buffers(self, m: Module, walk: BlockWalk, own: OwnPart, landing: Landing) -> None:
        """What lands in the buffers: beats as they come, or what the store answers; and keys of HEAD in their queue."""
        dim_bits = len(self.key_dim)
        write_place, read_place = Signal(dim_bits + len(walk.buffer)), Signal(dim_bits + len(walk.buffer))
        written, place, key_memory = self._write_memory(m, walk, own, landing, "keys")
        value_written, value_place, value_memory = self._write_memory(m, walk, own, landing, "values")
        m.submodules.keys, m.submodules.values = key_memory, value_memory
        offered = written & self.direct
        m.d.sync += [
            walk.queued.eq(counted(walk.queued, walk.accept & walk.in_keys & self.direct, self.take)),
            walk.room.eq(~self.direct | (walk.queued < (self.sizes.buffers << dim_bits) - 1)),
            walk.offered.eq(counted(walk.offered, offered, self.take)),
            # ``offered`` as it becomes is not 0
            self.offer.eq(offered | walk.offered[1:].any() | (walk.offered[0] & ~self.take)),
            read_place.eq(read_place + self.take),
            write_place.eq(write_place + offered),
        ]
        key, key_dim = self._expanded(m, "key", walk.packed_keys, key_memory.data)
        value, value_dim = self._expanded(m, "value", walk.packed_values, value_memory.data)
        m.d.comb += [
            key_memory.write_addr.eq(Mux(self.direct, write_place, place)),
            key_memory.addr.eq(Mux(self.direct, read_place, Cat(key_dim, self.key_buffer))),
            self.key.eq(key),
            value_memory.write_addr.eq(value_place),
            value_memory.addr.eq(Cat(value_dim, self.value_buffer)),
            self.value.eq(value),
        ]

    def _write_memory(
        self, m: Module, walk: BlockWalk, own: OwnPart, landing: Landing, kind: str
    ) -> tuple[Signal, Value, BlockMemory]:
        """The memory of ``kind``, "keys" or "values", and what is written there: whether, and the place in the buffers."""
        config, dim_bits = self.config, len(self.key_dim)
        beat, slot = 8 * config.beat_bytes, 8 * config.key_bytes
        lands, packed = getattr(landing, kind), getattr(walk, f"packed_{kind}")
        written = Signal(name=f"{kind}_written")
        step, buffer = Signal(dim_bits, name=f"{kind}_step"), Signal(len(walk.buffer), name=f"{kind}_buffer")
        strobe = Signal(config.kv_block, name=f"{kind}_strobe")
        data = Signal(beat, name=f"{kind}_data", reset_less=True)
        # Two beats of the store make one of 4-bit elements.
        store_data, store_step, whole = self.store.data, landing.step, Const(1)
        if config.int4_kv:
            store_data = Mux(packed, push_beat(data, store_data), store_data)
            store_step, whole = Mux(packed, landing.step >> 1, landing.step), ~packed | landing.step[0]
        m.d.sync += [
            written.eq(Mux(lands, whole, walk.accept & getattr(walk, f"in_{kind}"))),
            step.eq(Mux(lands, store_step, walk.step)),
            buffer.eq(Mux(lands, own.buffer, walk.buffer)),
            data.eq(Mux(lands, store_data, self.beats.payload)),
            strobe.eq(Mux(
                lands, ~(own.before & own.has_past.replicate(config.kv_block)),
                walk.before | (~walk.has_own).replicate(config.kv_block),
            )),
        ]
        memory = BlockMemory(beat, self.sizes.buffers << dim_bits, slot)
        m.d.comb += [
            memory.write_en.eq(strobe & written.replicate(config.kv_block)),
            memory.write_data.eq(data),
        ]
        return written, Cat(step, buffer), memory

    def _count_blocks(self, m: Module, walk: BlockWalk, own: OwnPart) -> None:
        """Buffers in use, and those whose keys and values are complete: a block counts once those before it do."""
        used = more_than(m, self.sizes.buffers, walk.begin, self.free | self.free_rows, "used")
        key_turn, keys_end = self._complete(m, walk, own, "keys")
        _, values_end = self._complete(m, walk, own, "values")
        keys = more_than(m, self.sizes.buffers, keys_end, self.key_free, "keys_ahead")
        values = more_than(m, self.sizes.buffers, values_end, self.free, "values_ahead")
        #: Keys of the present block that were written, where no other part comes to it; 0 after the last.
        keys_written = Signal(range(self.sizes.dims))
        with m.If(walk.accept & walk.in_keys):
            m.d.sync += keys_written.eq(Mux(walk.last, 0, walk.step + 1))
            if self.config.int4_kv:
                with m.If(walk.packed_keys & ~walk.last):
                    m.d.sync += keys_written.eq((walk.step + 1) << 1)
        alone = (key_turn == walk.buffer) & ~walk.has_own
        m.d.sync += self.key_limit.eq(Mux(alone, keys_written, 0))
        m.d.comb += [
            walk.full.eq(used[-1]),
            self.key_ready.eq(keys[0]),
            self.value_ready.eq(values[0]),
            self.next_value_ready.eq(values[1]),
        ]

    def _complete(self, m: Module, walk: BlockWalk, own: OwnPart, kind: str) -> tuple[Signal, Value]:
        """The buffer of the first block whose ``kind``, "keys" or "values", is not complete, and a strobe when it is."""
        turn = Signal(len(walk.buffer), name=f"{kind}_turn")
        #: Of every buffer: nothing more comes from the ring.
        brought = Signal(self.sizes.buffers, name=f"{kind}_brought")
        ended, ended_buffer = Signal(name=f"{kind}_ended"), Signal(len(walk.buffer), name=f"{kind}_ended_buffer")
        complete = Signal(name=f"{kind}_complete")
        m.d.sync += [
            ended.eq((walk.accept & getattr(walk, f"in_{kind}") & walk.last & ~self.direct) | (walk.begin & ~walk.has_past)),
            ended_buffer.eq(walk.buffer),
        ]
        m.d.comb += complete.eq(
            brought.bit_select(turn, 1) & ~(getattr(own, f"{kind}_missing") & (own.buffer == turn))
        )
        for i in range(self.sizes.buffers):
            with m.If(ended & (ended_buffer == i)):
                m.d.sync += brought[i].eq(1)
            with m.Elif(complete & (turn == i)):
                m.d.sync += brought[i].eq(0)
        with m.If(complete):
            m.d.sync += turn.eq(turn + 1)
        with m.Elif(self.start):
            m.d.sync += turn.eq(0)
        return turn, complete

    def _connect_store(self, m: Module, walk: BlockWalk, own: OwnPart) -> None:
        """The store is asked for the pass's own keys and values; scales go to their buffer."""
        command, scales = self.op.descriptor, m.submodules.scales
        m.d.comb += [
            self.store.value.eq(own.in_values),
            self.store.head.eq(own.head),
            self.store.head_vectors.eq(command.head_vectors),
            self.store.dim.eq(own.step),
            self.store.turn.eq(own.turn),
            self.store.bank.eq(scales.bank),
            scales.bank_scales.eq(self.store.scales),
            scales.put.eq(walk.accept & walk.in_header),
            scales.part.eq(walk.step),
            scales.beat.eq(self.beats.payload),
            scales.begin.eq(walk.begin),
            scales.begin_buffer.eq(walk.buffer),
            scales.buffer.eq(walk.pour_buffer),
            scales.own.eq(walk.pour_own),
            scales.turn.eq(own.turn),
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
