"""Scales of the buffered blocks, one key at a time."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from ...config import BuildConfig
from ..interfaces import KV_SCALE_LATENCY, index_bits
from .item import AttentionSizes, delayed

__all__ = ["ScaleBuffer"]


class ScaleBuffer(wiring.Component):
    """Takes the scales of a block from its header beats and from the KV store, and keeps them for all buffered blocks.

    A memory one key wide is small, so a header waits in a register while its scales pour into the memory, a key a cycle.

    Members
    -------
    put : In(1), part : In, beat : In
        A header beat, and which; only while not ``holds``.
    begin : In(1), begin_buffer : In
        Strobe: a block begins in that buffer, whose scales are no longer needed.
    pour : In(1), buffer : In, own : In, turn : In
        Strobe, only while not ``busy``: the header of the block in ``buffer`` is complete, if it has one. From key ``own`` on (0 to
        ``kv_block``) the scales come from the store, whose head does not change until ``busy`` falls: those of bank ``key - turn``,
        with ``turn`` of the strobe.
    bank : Out, bank_scales : In(32)
        Read of the KV store.
    busy, holds : Out(1)
        Scales are on their way; among them those of the header.
    ready : Out
        The scales of a buffer are complete.
    read_buffer, read_key : In;  key_scale, value_scale : Out(16)
        Scales one cycle later.
    """

    def __init__(self, config: BuildConfig) -> None:
        self.config = config
        self.buffers = AttentionSizes(config).buffers
        buffer = (self.buffers - 1).bit_length()
        super().__init__({
            "put": In(1),
            "part": In(index_bits(config.header_beats)),
            "beat": In(8 * config.beat_bytes),
            "begin": In(1),
            "begin_buffer": In(buffer),
            "pour": In(1),
            "buffer": In(buffer),
            "own": In(range(config.kv_block + 1)),
            "turn": In(index_bits(config.kv_block)),
            "bank": Out(index_bits(config.chunk)),
            "bank_scales": In(32),
            "busy": Out(1),
            "holds": Out(1),
            "ready": Out(self.buffers),
            "read_buffer": In(buffer),
            "read_key": In(index_bits(config.kv_block)),
            "key_scale": Out(16),
            "value_scale": Out(16),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, block = self.config, self.config.kv_block
        header = Signal(32 * block, reset_less=True)
        beat = len(self.beat)
        for i in range(config.header_beats):
            with m.If(self.put & (self.part == i)):
                m.d.sync += header[i * beat : (i + 1) * beat].eq(self.beat)

        running, own, turn, target = Signal(), Signal(len(self.own)), Signal(len(self.turn)), Signal(len(self.buffer))
        key, of_header = Signal(index_bits(block)), Signal(name="of_header")
        with m.If(running):
            m.d.sync += key.eq(key + 1)
            with m.If(key == block - 1):
                m.d.sync += running.eq(0)
        with m.If(self.pour):
            m.d.sync += [running.eq(1), key.eq(0), own.eq(self.own), turn.eq(self.turn), target.eq(self.buffer)]
            m.d.sync += of_header.eq(self.own != 0)
        landing = delayed(m, running, KV_SCALE_LATENCY + 1, "landing")
        keys = delayed(m, key, KV_SCALE_LATENCY + 1, "key")
        from_store = delayed(m, key >= own, KV_SCALE_LATENCY, "from_store")[-1]
        past = Signal(32)
        m.d.sync += past.eq(Cat(half.word_select(keys[-3], 16) for half in (header[: 16 * block], header[16 * block :])))
        scales = Signal(32)
        m.d.sync += scales.eq(Mux(from_store, self.bank_scales, past))
        for i in range(self.buffers):
            with m.If(self.begin & (self.begin_buffer == i)):
                m.d.sync += self.ready[i].eq(0)
            with m.Elif(landing[-1] & ~landing[-2] & (target == i)):
                m.d.sync += self.ready[i].eq(1)

        m.submodules.memory = kept = memory.Memory(
            shape=32, depth=self.buffers * block, init=[], attrs={"ram_style": "distributed"}
        )
        write, read = kept.write_port(), kept.read_port()
        m.d.comb += [
            self.bank.eq(key - turn),
            self.busy.eq(running | Cat(landing[1:]).any()),
            self.holds.eq(self.busy & of_header),
            write.en.eq(landing[-1]),
            write.addr.eq(Cat(keys[-1], target)),
            write.data.eq(scales),
            read.addr.eq(Cat(self.read_key, self.read_buffer)),
            Cat(self.key_scale, self.value_scale).eq(read.data),
        ]
        return m
