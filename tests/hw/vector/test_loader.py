"""`RingLoader` against the rows that were sent."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path
from typing import Any

import cocotb
import pytest
from cocotb.triggers import RisingEdge

from hwgen.config import BuildConfig
from hwgen.descriptors import Descriptor, Opcode
from hwgen.hw.vector.loader import RingLoader
from hwgen.rounding import ceil_div
from tests.cocotb_runner import cocotb_parameters, run_cocotb, start_clock

from .bench import config_of_width, pack

MEMORIES = ("scratch", "param")


class LoaderBench:
    """Feeds beats with random gaps and keeps every write, by memory."""

    def __init__(self, dut: Any, config: BuildConfig, seed: int) -> None:
        self.dut, self.config = dut, config
        self.rng = random.Random(seed)
        self.stall = 0.0
        self.beats: list[int] = []
        self.taken = 0
        self.written: dict[str, dict[int, int]] = {memory: {} for memory in MEMORIES}

    async def reset(self) -> None:
        dut = self.dut
        for name in ("descriptor", "first", "count", "tokens", "runs", "gang", "write_logits", "logits"):
            getattr(dut, f"op__{name}").value = 0
        dut.start.value = dut.beats__valid.value = dut.beats__payload.value = 0
        await start_clock(dut)

    def _offer(self) -> None:
        """A beat that is on offer stays until it is taken."""
        dut = self.dut
        if self.taken < len(self.beats) and (self.offered or self.rng.random() >= self.stall):
            self.offered = True
            dut.beats__valid.value, dut.beats__payload.value = 1, self.beats[self.taken]
        else:
            dut.beats__valid.value, dut.beats__payload.value = 0, self.rng.getrandbits(8 * self.config.beat_bytes)

    async def cycle(self) -> bool:
        dut = self.dut
        self._offer()
        await RisingEdge(dut.clk)
        done = bool(dut.done.value)
        for memory in MEMORIES:
            if getattr(dut, f"{memory}_write__valid").value:
                assert not done, "a write in the cycle of done"
                address = int(getattr(dut, f"{memory}_write__addr").value)
                assert address not in self.written[memory]
                self.written[memory][address] = int(getattr(dut, f"{memory}_write__data").value)
        if dut.beats__ready.value and dut.beats__valid.value:
            self.taken += 1
            self.offered = False
        return done

    def send(self, beats: list[int]) -> None:
        self.beats, self.taken, self.offered = beats, 0, False
        self.written = {memory: {} for memory in MEMORIES}

    async def begin(self, d: Descriptor, first: int, count: int) -> None:
        dut = self.dut
        dut.op__descriptor.value = int.from_bytes(d.pack(), "little")
        dut.op__first.value, dut.op__count.value = first, count
        dut.start.value = 1
        await self.cycle()
        dut.start.value = 0

    async def run(self, d: Descriptor, first: int, count: int, stall: float = 0.0) -> int:
        """Run with random beats, more than the operator may take; returns its cycles."""
        rows = 1 if d.opcode is Opcode.PARAM else count
        bits = 8 * self.config.beat_bytes
        self.stall = stall
        self.send([self.rng.getrandbits(bits) for _ in range(rows * d.stream_beats + 3)])
        await self.begin(d, first, count)
        cycles = 1
        while not await self.cycle():
            cycles += 1
            assert cycles < 200 + 20 * len(self.beats), "the operator does not end"
        assert self.taken == rows * d.stream_beats
        expected: dict[str, dict[int, int]] = {memory: {} for memory in MEMORIES}
        for row in range(rows):
            beats = self.beats[row * d.stream_beats : (row + 1) * d.stream_beats]
            token = 0 if d.opcode is Opcode.PARAM else first + row
            for v in range(d.vectors):
                if d.opcode is Opcode.EMBED:
                    beat, part = divmod(v, 2 * self.config.beat_vectors)
                    narrow = beats[beat] >> 16 * self.config.width * part
                    elements = [(narrow >> 16 * k & 0xFFFF) << 16 for k in range(self.config.width)]
                    expected["scratch"][d.dst + token * d.dst_stride + v] = pack(elements, 32)
                else:
                    beat, part = divmod(v, self.config.beat_vectors)
                    vector = beats[beat] >> 32 * self.config.width * part & ((1 << 32 * self.config.width) - 1)
                    expected["param"][d.dst + token * d.dst_stride + v] = vector
        assert self.written == expected
        return cycles


async def started(dut: Any, seed: int) -> LoaderBench:
    bench = LoaderBench(dut, BuildConfig.from_dict(cocotb_parameters()["config"]), seed)
    bench.send([])
    await bench.reset()
    return bench


def descriptor(opcode: Opcode, vectors: int, beats: int, dst: int = 3, gap: int = 1) -> Descriptor:
    return Descriptor(opcode=opcode, vectors=vectors, stream_beats=beats, dst=dst, dst_stride=vectors + gap)


@cocotb.test()
async def loads_rows(dut: Any) -> None:
    bench = await started(dut, 1)
    held = bench.config.beat_vectors
    for stall in (0.0, 0.5, 0.9):
        for vectors, padding in ((1, 0), (1, 1), (2, 0), (3, 2), (7, 1), (12, 0)):
            for first, count in ((0, 1), (2, 3)):
                narrow, wide = ceil_div(vectors, 2 * held) + padding, ceil_div(vectors, held) + padding
                await bench.run(descriptor(Opcode.EMBED, vectors, narrow), first, count, stall)
                await bench.run(descriptor(Opcode.ROTARY, vectors, wide), first, count, stall)
                await bench.run(descriptor(Opcode.PARAM, vectors, wide), first, count, stall)


@cocotb.test()
async def keeps_the_pace(dut: Any) -> None:
    bench = await started(dut, 2)
    held = bench.config.beat_vectors
    assert await bench.run(descriptor(Opcode.EMBED, 40, 20 // held), 0, 2) <= 80 + 6
    assert await bench.run(descriptor(Opcode.PARAM, 40, 40 // held), 0, 2) <= 40 + 6
    assert await bench.run(descriptor(Opcode.ROTARY, 20, 20 // held), 0, 2) <= 40 + 6


@cocotb.test()
async def takes_nothing_while_idle(dut: Any) -> None:
    bench = await started(dut, 3)
    for opcode in Opcode:
        if opcode not in (Opcode.EMBED, Opcode.PARAM, Opcode.ROTARY):
            bench.send([1, 2, 3])
            await bench.begin(descriptor(opcode, 2, 2), 0, 1)
            for _ in range(10):
                assert not await bench.cycle()
            assert bench.taken == 0 and not any(bench.written.values())


@cocotb.test()
async def returns_to_idle_on_reset(dut: Any) -> None:
    bench = await started(dut, 4)
    for cycles in range(1, 20):
        d = descriptor(Opcode.EMBED, 5, 3)
        bench.send([bench.rng.getrandbits(8 * bench.config.beat_bytes) for _ in range(9)])
        await bench.begin(d, 0, 3)
        for _ in range(cycles):
            await bench.cycle()
        dut.rst.value = 1
        await bench.cycle()
        dut.rst.value = 0
        bench.send([5, 6])
        for _ in range(4):
            assert not await bench.cycle()
        assert bench.taken == 0 and not any(bench.written.values())
        await bench.run(d, 1, 2)


@pytest.mark.parametrize("width", [4, 8, 16])
def test_loader(width: int, tmp_path: Path) -> None:
    config = config_of_width(width)
    run_cocotb(
        partial(RingLoader, config),
        test_module=__name__,
        build_dir=tmp_path,
        parameters={"config": config.to_dict()},
    )
