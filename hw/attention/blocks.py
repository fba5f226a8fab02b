"""Blocks of keys and values on their way from the ring, or from the KV store, to the attention arithmetic."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from ...config import BuildConfig
from ...descriptors import Format
from ..interfaces import KV_LATENCY, BeatStream, KvRead, Operator, index_bits
from .item import BUFFERS, AttentionSizes, delayed
from .memory import BlockMemory
from .nibbles import expand_beat
from .scales import ScaleBuffer

__all__ = ["BlockBuffer"]


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
    key_limit : Out
        Key beats that may be read of the oldest block whose keys were not freed; it may rise before the block is complete.
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
    free : In(1)
        Strobe: nothing of the oldest block is needed any more.
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
            "key_limit": Out(bits_for(self.sizes.dims)),
            "key_free": In(1),
            "offer": Out(1),
            "take": In(1),
            "value_buffer": In(buffer),
            "value_dim": In(dim),
            "value": Out(beat),
            "value_ready": Out(1),
            "next_value_ready": Out(1),
            "free": In(1),
            "scales_ready": Out(BUFFERS),
            "scale_buffer": In(buffer),
            "scale_key": In(index_bits(config.kv_block)),
            "key_scale": Out(16),
            "value_scale": Out(16),
            **({"key_own": In(1), "value_own": In(1)} if config.int4_kv else {}),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, sizes, command = self.config, self.sizes, self.op.descriptor
        header_beats = config.header_beats
        block_bits = (config.kv_block - 1).bit_length()
        dim_bits = len(self.key_dim)
        m.submodules.scales = scales = ScaleBuffer(config)

        buffer = Signal(len(self.key_buffer))
        used, keys_ahead, values_ahead = (Signal(range(BUFFERS + 1), name=n) for n in ("used", "keys_ahead", "values_ahead"))
        head = Signal(bits_for(config.max_kv_heads))
        #: Blocks still to come of this head (ATTENTION) or of the operator (HEAD), beside the present one.
        blocks_left = Signal(32)
        past = Signal(bits_for(config.max_pages))
        own = Signal()
        step = Signal(range(sizes.head_dims))
        last_step = Signal(range(sizes.head_dims))
        #: Beats since the last multiple of ``groups``.
        phase = Signal(index_bits(config.groups))
        in_header, in_keys, in_values, in_padding = Signal(), Signal(), Signal(), Signal()
        #: HEAD: beats from here on into the queue, and those that were written there.
        queued, offered = Signal(range((BUFFERS << dim_bits) + 1)), Signal(range((BUFFERS << dim_bits) + 1))
        begin, wanted, accept, last = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            past.eq((self.op.position + (config.kv_block - 1)) >> block_bits),
            wanted.eq(in_header | (in_keys & (~self.direct | (queued != BUFFERS << dim_bits))) | in_values | in_padding),
            self.beats.ready.eq(wanted & ~own),
            # The store answers every request.
            accept.eq(wanted & (own | self.beats.valid)),
            last.eq(step == last_step),
        ]
        #: Past blocks hold two elements a byte.
        int4: Value = Const(0)
        if config.int4_kv:
            int4 = Signal()
            m.d.sync += int4.eq((command.format & Format.INT4_KV).any() & ~self.direct)
            m.d.comb += last.eq(step == Mux(int4 & ~own, last_step >> 1, last_step))
        m.d.sync += last_step.eq((Mux(self.direct, command.vectors, command.head_vectors) << sizes.part_bits) - 1)
        aligned = Signal()
        m.d.comb += aligned.eq(phase == config.groups - 1)
        with m.If(accept):
            m.d.sync += [step.eq(step + 1), phase.eq(Mux(aligned, 0, phase + 1))]

        # What lands in the buffers: beats as they come, or what the store answers.
        from_store = [delayed(m, own & state, KV_LATENCY, n) for state, n in ((in_keys, "own_keys"), (in_values, "own_values"))]
        own_last = delayed(m, last, KV_LATENCY, "own_last", reset_less=True)[-1]
        own_step = delayed(m, step[:dim_bits], KV_LATENCY, "own_step", reset_less=True)[-1]
        landed = Signal()
        m.d.comb += landed.eq(~Cat(*from_store[0], *from_store[1]).any())

        def end_block() -> None:
            m.d.sync += [buffer.eq(buffer + 1), blocks_left.eq(blocks_left - 1), own.eq(0)]
            m.next = "BEGIN"
            with m.If(blocks_left == 0):
                m.d.sync += [head.eq(head + 1), own.eq(1), blocks_left.eq(past)]
                with m.If(self.direct | (head == command.kv_heads - 1)):
                    m.next = "IDLE"

        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += [
                    head.eq(0), own.eq(~self.direct), blocks_left.eq(Mux(self.direct, command.row_blocks - 1, past)), buffer.eq(0),
                ]
                with m.If(self.start):
                    m.next = "BEGIN"
            with m.State("BEGIN"):
                m.d.sync += [step.eq(0), phase.eq(0)]
                with m.If((used != BUFFERS) & ~scales.busy):
                    m.d.comb += [begin.eq(1), scales.pour.eq(own)]
                    m.next = "HEADER"
                    with m.If(own):
                        m.next = "KEYS"
            with m.State("HEADER"):
                m.d.comb += in_header.eq(1)
                with m.If(accept & (step == header_beats - 1)):
                    m.d.comb += scales.pour.eq(1)
                    m.d.sync += step.eq(0)
                    m.next = "KEYS"
            with m.State("KEYS"):
                m.d.comb += in_keys.eq(1)
                with m.If(accept & last):
                    m.d.sync += step.eq(0)
                    m.next = "VALUES"
                    with m.If(self.direct):
                        m.next = "PADDING"
                        with m.If(aligned):
                            end_block()
            with m.State("VALUES"):
                m.d.comb += in_values.eq(1)
                with m.If(accept & last):
                    m.next = "PADDING"
                    with m.If(own):
                        m.next = "LAND"
                    with m.Elif(aligned):
                        end_block()
            with m.State("LAND"), m.If(landed & ~scales.busy):
                end_block()
            with m.State("PADDING"):
                m.d.comb += in_padding.eq(1)
                with m.If(accept & aligned):
                    end_block()

        key_written, value_written, last_written = Signal(), Signal(), Signal()
        write_step, write_buffer = Signal(dim_bits), Signal(len(buffer))
        data = Signal(8 * config.beat_bytes, reset_less=True)
        m.d.sync += [
            key_written.eq(from_store[0][-1] | (accept & in_keys & ~own)),
            value_written.eq(from_store[1][-1] | (accept & in_values & ~own)),
            last_written.eq(Mux(own, own_last, last)),
            write_step.eq(Mux(own, own_step, step)),
            write_buffer.eq(buffer),
            data.eq(Mux(own, self.store.data, self.beats.payload)),
        ]
        keys_written = Signal(range(sizes.dims))
        with m.If(key_written):
            m.d.sync += keys_written.eq(Mux(last_written, 0, write_step + 1))
            if config.int4_kv:
                with m.If(int4 & ~own & ~last_written):
                    m.d.sync += keys_written.eq((write_step + 1) << 1)
        write_place, read_place = Signal(dim_bits + len(buffer)), Signal(dim_bits + len(buffer))
        m.d.sync += [
            used.eq(used + begin - self.free),
            keys_ahead.eq(keys_ahead + (key_written & last_written & ~self.direct) - self.key_free),
            values_ahead.eq(values_ahead + (value_written & last_written) - (self.free & ~self.direct)),
            queued.eq(queued + (accept & in_keys & self.direct) - self.take),
            offered.eq(offered + (key_written & self.direct) - self.take),
            read_place.eq(read_place + self.take),
            write_place.eq(write_place + (key_written & self.direct)),
        ]
        m.d.comb += [
            self.key_limit.eq(Mux(keys_ahead != 0, sizes.dims, keys_written)),
            self.value_ready.eq(values_ahead != 0),
            self.next_value_ready.eq(values_ahead > 1),
            self.offer.eq(offered != 0),
        ]

        m.submodules.keys = keys = BlockMemory(8 * config.beat_bytes, BUFFERS << dim_bits)
        m.submodules.values = values = BlockMemory(8 * config.beat_bytes, BUFFERS << dim_bits)
        key, key_dim = self._expanded(m, "key", int4, keys.data)
        value, value_dim = self._expanded(m, "value", int4, values.data)
        m.d.comb += [
            keys.write_en.eq(key_written),
            keys.write_addr.eq(Mux(self.direct, write_place, Cat(write_step, write_buffer))),
            keys.write_data.eq(data),
            keys.addr.eq(Mux(self.direct, read_place, Cat(key_dim, self.key_buffer))),
            self.key.eq(key),
            values.write_en.eq(value_written),
            values.write_addr.eq(Cat(write_step, write_buffer)),
            values.write_data.eq(data),
            values.addr.eq(Cat(value_dim, self.value_buffer)),
            self.value.eq(value),
            self.store.value.eq(in_values),
            self.store.head.eq(head),
            self.store.head_vectors.eq(command.head_vectors),
            self.store.dim.eq(step),
            self.store.bank.eq(scales.bank),
            scales.bank_scales.eq(self.store.scales),
            scales.put.eq(accept & in_header),
            scales.part.eq(step),
            scales.beat.eq(self.beats.payload),
            scales.begin.eq(begin),
            scales.buffer.eq(buffer),
            scales.own.eq(own),
            self.scales_ready.eq(scales.ready),
            scales.read_buffer.eq(self.scale_buffer),
            scales.read_key.eq(self.scale_key),
            self.key_scale.eq(scales.key_scale),
            self.value_scale.eq(scales.value_scale),
        ]
        return m

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
