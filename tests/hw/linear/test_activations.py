"""The activation memory against slices of a plain array, and the time that a slice takes to arrive."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import cocotb
import numpy as np
import pytest
from cocotb.triggers import ReadOnly, RisingEdge

from hwgen.config import BuildConfig
from hwgen.hw.linear.activations import ActivationMemory, load_parts
from hwgen.rounding import ceil_div
from tests.cocotb_runner import cocotb_parameters, run_cocotb, start_clock


class Bench:
    def __init__(self, dut: Any) -> None:
        self.dut = dut
        self.config = BuildConfig.from_dict(cocotb_parameters()["config"])
        self.rng = np.random.default_rng(5)
        self.parts, self.chunks = load_parts(self.config, self.config.slice_inputs)
        words = self.config.max_inputs
        #: What was written, ``[half, token, input]``, and what has arrived, ``[token, input of the slice]``.
        self.memory = np.zeros((2, self.config.tokens, words), np.int8)
        self.arrived = np.zeros((self.config.tokens, self.config.slice_inputs), np.int8)

    async def cycle(self) -> bool:
        """One cycle; lanes keep what arrives at its end. Returns ``loaded``."""
        dut = self.dut
        await ReadOnly()
        loaded = bool(dut.loaded.value == 1)
        if loaded:
            assert dut.load__chunks.value == 0, "the next slice arrives before this one was taken"
        tokens, chunks = int(dut.token.value), int(dut.load__chunks.value)
        word = np.frombuffer(int(dut.load__data.value).to_bytes(self.config.width, "little"), np.int8)
        size = self.config.width // self.parts
        for token in range(self.config.tokens):
            for c in range(self.chunks):
                if tokens >> token & chunks >> c & 1:
                    part = c % self.parts
                    self.arrived[token, c * size : (c + 1) * size] = word[part * size : (part + 1) * size]
        await RisingEdge(dut.clk)
        return loaded

    async def write(self, half: int, tokens: int, vectors: int) -> None:
        dut, config = self.dut, self.config
        for token in range(tokens):
            for v in range(vectors):
                values = self.rng.integers(-128, 128, config.width).astype(np.int8)
                self.memory[half, token, v * config.width : (v + 1) * config.width] = values
                dut.write__valid.value = 1
                dut.write__half.value, dut.write__token.value, dut.write__addr.value = half, token, v
                dut.write__data.value = int.from_bytes(values.tobytes(), "little")
                await self.cycle()
        dut.write__valid.value = 0

    async def run(self, half: int, tokens: int, slices: int, pause: float) -> list[int]:
        """One operator, slices taken after random pauses; returns the cycles from one ``taken`` to the next ``loaded``."""
        dut, config = self.dut, self.config
        dut.half.value, dut.count.value, dut.slices.value = half, tokens, slices
        dut.start.value = 1
        await self.cycle()
        dut.start.value = 0
        waits = []
        for s in range(slices):
            wait = 0
            dut.taken.value = 0
            while not await self.cycle():
                wait += 1
                assert wait < 1000, "the slice never came"
            waits.append(wait)
            while self.rng.random() < pause:
                assert await self.cycle()
            expected = self.memory[half, :tokens, s * config.slice_inputs : (s + 1) * config.slice_inputs]
            got = self.arrived[:tokens, : expected.shape[1]]
            np.testing.assert_array_equal(got, expected)
            dut.taken.value = 1
            assert await self.cycle()
        dut.taken.value = 0
        for _ in range(20):
            assert not await self.cycle()
        return waits[1:]


@cocotb.test()
async def slices(dut: Any) -> None:
    bench = Bench(dut)
    config, rng = bench.config, bench.rng
    for name in ("start", "taken", "write__valid"):
        getattr(dut, name).value = 0
    await start_clock(dut)
    vectors = config.max_inputs // config.width
    for half in range(2):
        await bench.write(half, config.tokens, vectors)
    most = ceil_div(config.max_inputs, config.slice_inputs)
    for pause in (0.0, 0.9):
        for tokens in sorted({1, config.lanes, config.tokens}):
            half, count = int(rng.integers(2)), int(rng.integers(1, most + 1))
            await bench.write(1 - half, 1, vectors)
            waits = await bench.run(half, tokens, count, pause)
            longest = tokens * ceil_div(bench.chunks + bench.parts - 1, bench.parts)
            assert all(wait <= longest + ActivationMemory.LATENCY for wait in waits), (waits, longest)


@cocotb.test()
async def one_word(dut: Any) -> None:
    """An operator that starts in the cycle after its only word was written."""
    bench = Bench(dut)
    for name in ("start", "taken", "write__valid"):
        getattr(dut, name).value = 0
    await start_clock(dut)
    for half in (1, 0, 1):
        await bench.write(half, 1, 1)
        bench.memory[:, :, bench.config.width :] = 0
        bench.dut.half.value, bench.dut.count.value, bench.dut.slices.value = half, 1, 1
        dut.start.value = 1
        await bench.cycle()
        dut.start.value = 0
        while not await bench.cycle():
            pass
        size = min(bench.config.width, bench.config.slice_inputs)
        np.testing.assert_array_equal(bench.arrived[0, :size], bench.memory[half, 0, :size])
        dut.taken.value = 1
        await bench.cycle()
        dut.taken.value = 0


SMALL = {"beat_bytes": 16, "groups": 1, "lanes": 1, "rows": 2, "builders": 1, "max_inputs": 240, "panel_rows": 240}
GEOMETRIES: dict[str, dict[str, int]] = {
    "small": SMALL,
    "twelve_tokens": {
        "beat_bytes": 64, "beat_vectors": 2, "rows": 8, "groups": 2, "lanes": 6, "builders": 2, "kv_block": 32, "max_inputs": 488,
    },
    "half_words": SMALL | {"beat_bytes": 64, "rows": 8, "lanes": 3, "max_inputs": 208},
    "slices_of_five_quarters": SMALL | {"beat_bytes": 64, "rows": 16, "lanes": 2, "max_inputs": 208},
    "slices_below_a_word": SMALL | {
        "beat_bytes": 128, "rows": 32, "groups": 2, "lanes": 1, "kv_block": 64, "max_inputs": 96, "panel_rows": 256,
    },
}


@pytest.mark.parametrize("name", GEOMETRIES)
def test_activations(tmp_path: Path, name: str) -> None:
    config = BuildConfig.from_dict({"name": name, **GEOMETRIES[name]})
    run_cocotb(
        partial(ActivationMemory, config, config.slice_inputs), test_module=__name__, build_dir=tmp_path,
        parameters={"config": config.to_dict()},
    )
