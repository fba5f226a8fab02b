"""Blocks of keys and values on their way from the ring, or from the KV store, to the attention arithmetic."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from ...config import BuildConfig
from ..interfaces import BeatStream, KvRead, Operator, index_bits
from .item import BUFFERS, AttentionSizes
from .reader import StoreReader

__all__ = ["BlockBuffer"]


class BlockBuffer(wiring.Component):
    """Loads blocks into ``BUFFERS`` local buffers, used in turn, ahead of the stages that work on them.

    ATTENTION: for every key/value head the pass's own block from the KV store, then the past blocks from ``beats``.
    HEAD (``direct``): blocks of vocabulary rows; only their scales are buffered, key beats are offered as they come.
    A block is followed by padding up to a multiple of ``groups`` beats, which is dropped.

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
    offer, offer_data : Out;  take : In(1)
        With ``direct``: a key beat, taken in the cycle of ``take`` (only while ``offer``).
    value_buffer, value_dim : In;  value : Out
        Value beat, one cycle later.
    value_ready : Out(1)
        The values of the oldest block that was not freed are complete.
    free : In(1)
        Strobe: nothing of the oldest block is needed any more.
    scales_buffer, scales_read : In;  key_scales, value_scales : Out
        bf16 scales of every key of a block, held from the cycle after the strobe on.
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
            "offer_data": Out(beat),
            "take": In(1),
            "value_buffer": In(buffer),
            "value_dim": In(dim),
            "value": Out(beat),
            "value_ready": Out(1),
            "free": In(1),
            "scales_buffer": In(buffer),
            "scales_read": In(1),
            "key_scales": Out(16 * config.kv_block),
            "value_scales": Out(16 * config.kv_block),
        })  # fmt: skip

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, sizes, command = self.config, self.sizes, self.op.descriptor
        header_beats = 4 // config.key_bytes
        block_bits = (config.kv_block - 1).bit_length()
        dim_bits = len(self.key_dim)
        m.submodules.reader = reader = StoreReader(config)
        wiring.connect(m, wiring.flipped(self.store), reader.store)

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
        begin, accept, loaded_keys, loaded_values = Signal(), Signal(), Signal(), Signal()
        payload = Signal(8 * config.beat_bytes)
        wanted, valid = Signal(), Signal()
        m.d.comb += [
            past.eq((self.op.position + (config.kv_block - 1)) >> block_bits),
            last_step.eq((Mux(self.direct, command.vectors, command.head_vectors) << sizes.part_bits) - 1),
            payload.eq(Mux(own, reader.beats.payload, self.beats.payload)),
            valid.eq(Mux(own, reader.beats.valid, self.beats.valid)),
            wanted.eq(in_header | (in_keys & (~self.direct | self.take)) | in_values | in_padding),
            reader.beats.ready.eq(wanted & own),
            self.beats.ready.eq(wanted & ~own),
            accept.eq(wanted & valid),
            self.offer.eq(in_keys & self.direct & self.beats.valid),
            self.offer_data.eq(self.beats.payload),
            reader.head.eq(head),
            reader.head_vectors.eq(command.head_vectors),
            reader.start.eq(begin & own),
        ]
        aligned = Signal()
        m.d.comb += aligned.eq(own | (phase == config.groups - 1))
        with m.If(accept):
            m.d.sync += [step.eq(step + 1), phase.eq(Mux(phase == config.groups - 1, 0, phase + 1))]

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
                ]  # fmt: skip
                with m.If(self.start):
                    m.next = "BEGIN"
            with m.State("BEGIN"):
                m.d.sync += [step.eq(0), phase.eq(0)]
                with m.If(used != BUFFERS):
                    m.d.comb += begin.eq(1)
                    m.next = "HEADER"
            with m.State("HEADER"):
                m.d.comb += in_header.eq(1)
                with m.If(accept & (step == header_beats - 1)):
                    m.d.sync += step.eq(0)
                    m.next = "KEYS"
            with m.State("KEYS"):
                m.d.comb += in_keys.eq(1)
                with m.If(accept & (step == last_step)):
                    m.d.comb += loaded_keys.eq(1)
                    m.d.sync += step.eq(0)
                    m.next = "VALUES"
                    with m.If(self.direct):
                        m.next = "PADDING"
                        with m.If(aligned):
                            end_block()
            with m.State("VALUES"):
                m.d.comb += in_values.eq(1)
                with m.If(accept & (step == last_step)):
                    m.d.comb += loaded_values.eq(1)
                    m.next = "PADDING"
                    with m.If(aligned):
                        end_block()
            with m.State("PADDING"):
                m.d.comb += in_padding.eq(1)
                with m.If(accept & aligned):
                    end_block()

        m.d.sync += [
            used.eq(used + begin - self.free),
            keys_ahead.eq(keys_ahead + (loaded_keys & ~self.direct) - self.key_free),
            values_ahead.eq(values_ahead + loaded_values - self.free),
        ]
        with m.If(self.direct):
            m.d.sync += values_ahead.eq(0)
        m.d.comb += [
            self.key_limit.eq(Mux(keys_ahead != 0, sizes.dims, Mux(in_keys, step, 0))),
            self.value_ready.eq(values_ahead != 0),
        ]

        m.submodules.keys = keys = memory.Memory(shape=8 * config.beat_bytes, depth=BUFFERS << dim_bits, init=[])
        m.submodules.values = values = memory.Memory(shape=8 * config.beat_bytes, depth=BUFFERS << dim_bits, init=[])
        m.submodules.scales = scales = memory.Memory(shape=32 * config.kv_block, depth=BUFFERS, init=[])
        put_key, get_key, put_value, get_value = keys.write_port(), keys.read_port(), values.write_port(), values.read_port()
        put_scales, get_scales = scales.write_port(granularity=8 * config.beat_bytes), scales.read_port()
        m.d.comb += [
            put_key.en.eq(accept & in_keys & ~self.direct),
            put_key.addr.eq(Cat(step[:dim_bits], buffer)),
            put_key.data.eq(payload),
            get_key.addr.eq(Cat(self.key_dim, self.key_buffer)),
            self.key.eq(get_key.data),
            put_value.en.eq(accept & in_values),
            put_value.addr.eq(put_key.addr),
            put_value.data.eq(payload),
            get_value.addr.eq(Cat(self.value_dim, self.value_buffer)),
            self.value.eq(get_value.data),
            put_scales.en.eq(Mux(accept & in_header, 1 << step[: bits_for(header_beats - 1)], 0)),
            put_scales.addr.eq(buffer),
            put_scales.data.eq(Cat(payload for _ in range(header_beats))),
            get_scales.addr.eq(self.scales_buffer),
            get_scales.en.eq(self.scales_read),
            Cat(self.key_scales, self.value_scales).eq(get_scales.data),
        ]
        return m
