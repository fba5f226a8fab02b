"""On-chip store of the keys and values of the present pass."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In

from ...config import BuildConfig
from ..data_register import data_register
from ..interfaces import KV_LATENCY, KvRead, KvScaleWrite, KvWrite

__all__ = ["KvStore"]


class KvStore(wiring.Component):
    """One bank a token of the chunk: int8 keys and values of every head; and one memory of their bf16 scales.

    Two tokens share two banks: the lower half of a vector lies in its token's own bank, the upper half in the neighbour's. A
    read, which wants the same half of every token, still finds each bank once, and a vector is written at once although a
    bank takes half a vector a cycle: block RAM is narrow and deep.

    A read of elements reaches all banks at once, one of scales a single bank: ``KV_LATENCY`` (3) cycles after the request
    ``read.data`` and ``read.scales`` hold its answer; a request every cycle. A write is seen by requests of the next cycle on.

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
        self._scales(m)
        config, kv, read = self.config, self.kv, self.read
        parts = config.width // config.key_bytes
        part_bits = (parts - 1).bit_length()
        halves = 2 if config.chunk > 1 and parts > 1 else 1
        word = 8 * config.width // halves

        # Whole powers of two a head and a kind, so that no address needs a multiplier.
        vector = len(kv.vector)
        write_addr, read_addr = Signal(vector + len(kv.head) + 1), Signal(vector + len(kv.head) + 1)
        bank, valid = Signal(len(kv.bank)), Signal()
        #: What even banks take, and odd ones: the halves change places for odd tokens.
        data = [Signal(word, name=f"data_{i}", reset_less=True) for i in range(halves)]
        part = [Signal(max(1, part_bits), name=f"part_{i}") for i in range(KV_LATENCY - 1)]
        m.d.sync += [
            write_addr.eq(Cat(kv.vector, kv.head, kv.value)),
            bank.eq(kv.bank),
            valid.eq(kv.valid),
            *(
                mine.eq(Mux(kv.bank[0] ^ i, kv.data[word:], kv.data[:word]) if halves == 2 else kv.data)
                for i, mine in enumerate(data)
            ),
            read_addr.eq(Cat((read.dim >> part_bits)[:vector], read.head, read.value)),
            part[0].eq(read.dim[:part_bits]),
            *(after.eq(before) for before, after in zip(part, part[1:], strict=False)),
        ]
        select = part[1]
        upper = read_half = Signal()
        if halves == 2:
            # The half of the read, with `read_addr` and with the data.
            upper, read_half, select = part[0][-1], part[1][-1], part[1][:-1]

        bits = 8 * config.key_bytes
        answer = data_register(m, read.data)
        fetched = [Signal(word, name=f"fetched_{i}") for i in range(config.chunk)]
        for i in range(config.chunk):
            m.submodules[f"bank_{i}"] = elements = memory.Memory(shape=word, depth=halves << len(write_addr), init=[])
            write, fetch = elements.write_port(), elements.read_port()
            m.d.comb += [write.data.eq(data[i % halves]), fetched[i].eq(fetch.data)]
            if halves == 2:
                neighbour = bank == i ^ 1
                m.d.comb += [
                    write.en.eq(valid & ((bank == i) | neighbour)),
                    write.addr.eq(Cat(write_addr, neighbour)),
                    fetch.addr.eq(Cat(read_addr, upper)),
                ]
            else:
                m.d.comb += [write.en.eq(valid & (bank == i)), write.addr.eq(write_addr), fetch.addr.eq(read_addr)]
            own = Mux(read_half, fetched[i ^ 1], fetched[i]) if halves == 2 else fetched[i]
            m.d.sync += answer[i * bits : (i + 1) * bits].eq(own.word_select(select, bits))
        return m

    def _scales(self, m: Module) -> None:
        scale, read = self.kv_scale, self.read
        m.submodules.scales = scales = memory.Memory(shape=32, depth=1 << len(Cat(read.bank, read.head)), init=[])
        write, fetch = scales.write_port(granularity=16), scales.read_port()
        address = Signal(len(fetch.addr))
        m.d.sync += [address.eq(Cat(read.bank, read.head)), read.scales.eq(fetch.data)]
        m.d.comb += [
            write.en.eq(Cat(scale.valid & ~scale.value, scale.valid & scale.value)),
            write.addr.eq(Cat(scale.bank, scale.head)),
            write.data.eq(Cat(scale.scale, scale.scale)),
            fetch.addr.eq(address),
        ]
