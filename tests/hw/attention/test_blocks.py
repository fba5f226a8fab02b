"""The buffers of blocks: as many are loaded ahead as there are, whenever one is freed."""

from __future__ import annotations

import random
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import cocotb
from cocotb.triggers import FallingEdge

from hwgen.descriptors import Descriptor, Opcode
from hwgen.hw.attention.blocks import BlockBuffer
from hwgen.hw.attention.item import AttentionSizes
from hwgen.layout import KvBlockLayout
from tests.cocotb_runner import run_cocotb, start_clock
from tools.mutant_config import CONFIG

BUFFERS = AttentionSizes(CONFIG).buffers
VECTORS = CONFIG.max_head_dim // CONFIG.width
#: Blocks of a head that come from the ring; behind them one of the pass's own tokens.
CACHED = CONFIG.max_context // CONFIG.kv_block - 1


class Bench:
    def __init__(self, dut: Any, generator: random.Random, *, direct: bool) -> None:
        self.dut, self.direct, self.random = dut, direct, generator
        #: Beats, and blocks that were freed.
        self.taken = self.freed = 0

    async def begin(self, blocks: int) -> None:
        dut = self.dut
        descriptor = Descriptor(
            opcode=Opcode.HEAD if self.direct else Opcode.ATTENTION, row_blocks=blocks, vectors=VECTORS, head_vectors=VECTORS,
            heads=CONFIG.max_heads, kv_heads=CONFIG.max_kv_heads,
        )
        dut.op__descriptor.value = int.from_bytes(descriptor.pack(), "little")
        dut.op__runs.value = CONFIG.chunk
        dut.runs__position.value, dut.runs__tokens.value = CACHED * CONFIG.kv_block, 1
        dut.direct.value = int(self.direct)
        dut.start.value = 1
        await FallingEdge(dut.clk)
        dut.start.value = 0

    async def step(self, *, rate: float, free: float) -> None:
        """A cycle in which a beat is there, and a block that is complete is freed, with these chances."""
        dut = self.dut
        complete = self.taken >= self.beats(self.freed + 1) if self.direct else int(dut.key_ready.value and dut.value_ready.value)
        frees = int(bool(complete) and self.random.random() < free)
        dut.free_rows.value = frees * self.direct
        dut.free.value = dut.key_free.value = frees * (not self.direct)
        dut.take.value = int(dut.offer.value) * self.direct
        dut.beats__valid.value = valid = int(self.random.random() < rate)
        self.taken += valid * int(dut.beats__ready.value)
        self.freed += frees
        await FallingEdge(dut.clk)

    async def until(self, freed: int, *, rate: float, free: float) -> None:
        """So many blocks are freed."""
        for _ in range(100 * freed):
            if self.freed == freed:
                return
            await self.step(rate=rate, free=free)
            assert self.taken <= self.beats(self.freed + BUFFERS)
        assert self.freed == freed

    def beats(self, blocks: int) -> int:
        """Of the first blocks."""
        header, block = CONFIG.header_beats, KvBlockLayout(CONFIG, CONFIG.max_head_dim).beats
        dims = VECTORS << AttentionSizes(CONFIG).part_bits
        of_block = [header + dims] if self.direct else [block] * CACHED + [0]
        return sum(islice(cycle(of_block), blocks))


@cocotb.test()
async def as_many_ahead_as_there_are(dut: Any) -> None:
    for name in ("start", "direct", "beats__valid", "key_free", "free", "free_rows", "take", "store__data", "store__scales"):
        getattr(dut, name).value = 0
    dut.op__descriptor.value = 0
    await start_clock(dut)
    await FallingEdge(dut.clk)
    generator = random.Random(5)
    for direct in (True, False) * 4:
        bench = Bench(dut, generator, direct=direct)
        blocks = CONFIG.shortlist if direct else CONFIG.chunk * CONFIG.max_kv_heads * (CACHED + 1)
        await bench.begin(blocks)
        for until, rate, free in ((0, 1.0, 0.0), (blocks // 3, 0.6, 0.1), (2 * blocks // 3, 0.4, 0.3)):
            await bench.until(until, rate=rate, free=free)
            for _ in range(20 * BUFFERS):
                await bench.step(rate=1.0, free=0.0)
            assert bench.taken == bench.beats(min(blocks, bench.freed + BUFFERS))
        await bench.until(blocks, rate=1.0, free=0.2)
        assert bench.taken == bench.beats(blocks)
        await bench.step(rate=0.0, free=0.0)


def test_blocks(tmp_path: Path) -> None:
    run_cocotb(partial(BlockBuffer, CONFIG), test_module=__name__, build_dir=tmp_path)
