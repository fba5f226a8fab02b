"""On-chip store of the keys and values of the present pass."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In

from ...config import BuildConfig
from ..interfaces import KV_LATENCY, KvRead, KvScaleWrite, KvWrite

__all__ = ["KvStore"]


class KvStore(wiring.Component):
    """One bank a token of the chunk: int8 keys and values of every head, and their bf16 scales.

    Two tokens share two banks: the lower half of a vector lies in its token's own bank, the upper half in the neighbour's. A
    read, which wants the same half of every token, still finds each bank once, and a vector is written at once although a
    bank takes half a vector a cycle: block RAM is narrow and deep.

    A read reaches all banks at once: ``KV_LATENCY`` (3) cycles after the request ``read.data`` and ``read.scales`` hold
    its answer; a request every cycle. A write is seen by requests of the next cycle on.

    Members
    -------
    kv : In(KvWrite)
    kv_scale : In(KvScaleWrite)
    read : In(KvRead)
    """

    def __init__(self, config: BuildConfig) -> None:
        self.config = config
        super().__init__({"kv": In(KvWrite(config)), "kv_scale": In(KvScaleWrite(config)), "read": In(KvRead(config))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        parts = config.width // config.key_bytes
        part_bits = (parts - 1).bit_length()
        kv, scale, read = self.kv, self.kv_scale, self.read

        # Whole powers of two a head and a kind, so that no address needs a multiplier.
        write_addr = Cat(kv.vector, kv.head, kv.value)
        scale_addr = Cat(scale.head, scale.value)
        read_addr = Signal(len(write_addr))
        read_scale_addr = Signal(len(scale_addr))
        part = [Signal(max(1, part_bits), name=f"part_{i}") for i in range(KV_LATENCY - 1)]
        m.d.sync += [
            read_addr.eq(Cat((read.dim >> part_bits)[: len(kv.vector)], read.head, read.value)),
            read_scale_addr.eq(Cat(read.head, read.value)),
            part[0].eq(read.dim[:part_bits]),
            *(after.eq(before) for before, after in zip(part, part[1:], strict=False)),
        ]

        halves = 2 if config.chunk > 1 and parts > 1 else 1
        word = 8 * config.width // halves
        upper = read_half = Signal()
        if halves == 2:
            # The half of the read, with `read_addr` and with the data.
            upper, read_half = part[0][-1], part[1][-1]
            part[1] = part[1][:-1]
        fetched = [Signal(word, name=f"fetched_{bank}") for bank in range(config.chunk)]
        for bank in range(config.chunk):
            elements = memory.Memory(shape=word, depth=halves << len(write_addr), init=[])
            scales = memory.Memory(shape=16, depth=1 << len(scale_addr), init=[])
            m.submodules[f"bank_{bank}"] = elements
            m.submodules[f"scales_{bank}"] = scales
            write, fetch = elements.write_port(), elements.read_port()
            write_scale, fetch_scale = scales.write_port(), scales.read_port()
            bits = 8 * config.key_bytes
            if halves == 2:
                neighbour = kv.bank == bank ^ 1
                m.d.comb += [
                    write.en.eq(kv.valid & ((kv.bank == bank) | neighbour)),
                    write.addr.eq(Cat(write_addr, neighbour)),
                    write.data.eq(Mux(neighbour, kv.data[word:], kv.data[:word])),
                    fetch.addr.eq(Cat(read_addr, upper)),
                ]
            else:
                m.d.comb += [
                    write.en.eq(kv.valid & (kv.bank == bank)),
                    write.addr.eq(write_addr),
                    write.data.eq(kv.data),
                    fetch.addr.eq(read_addr),
                ]
            own = Mux(read_half, fetched[bank ^ 1], fetched[bank]) if halves == 2 else fetched[bank]
            m.d.comb += [
                fetched[bank].eq(fetch.data),
                write_scale.en.eq(scale.valid & (scale.bank == bank)),
                write_scale.addr.eq(scale_addr),
                write_scale.data.eq(scale.scale),
                fetch_scale.addr.eq(read_scale_addr),
            ]
            m.d.sync += [
                read.data[bank * bits : (bank + 1) * bits].eq(own.word_select(part[1], bits)),
                read.scales[bank * 16 : (bank + 1) * 16].eq(fetch_scale.data),
            ]
        return m
