"""The linear engine against plain integer products, over geometries, modes, stalls, halves and leftovers of earlier jobs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cocotb
import numpy as np
import pytest
from cocotb.triggers import ReadOnly, RisingEdge

from hwgen.config import BuildConfig
from hwgen.descriptors import Buffers
from hwgen.hw.linear.activations import ActivationMemory, load_parts
from hwgen.hw.linear.engine import LinearEngine
from hwgen.hw.linear.tables import WALK
from hwgen.layout import matrix_shape
from hwgen.rounding import align, ceil_div
from tests.cocotb_runner import run_cocotb

from .bench import Bench, Job, random_job

# These simulations are short: compiling is what takes time.


def prepare_cycles(config: BuildConfig, tokens: int) -> int:
    """Cycles that a slice takes at least: its tables are built while the next one's activations are loaded."""
    parts, chunks = load_parts(config, config.slice_inputs)
    words = ceil_div(chunks + parts - 1, parts)
    return max(len(WALK) * config.tables // config.builders, tokens * words + ActivationMemory.LATENCY + 2)


def finish_cycles(config: BuildConfig) -> int:
    """Cycles from the last beat to ``done``."""
    return LinearEngine(config).add + LinearEngine.DONE


@cocotb.test()
async def products(dut: Any) -> None:
    """Random shapes in both modes, back to back, over whatever the operator before left behind."""
    bench = Bench(dut)
    config, rng = bench.config, bench.rng
    await bench.start()
    counts = sorted({1, config.lanes, min(config.lanes + 1, config.tokens), config.tokens})
    largest = min(config.max_inputs, 3 * config.slice_inputs + 1)
    for tokens in counts:
        for stall in (0.0, 0.6):
            for inputs in (1, config.slice_inputs, int(rng.integers(2, largest)), largest):
                rows = int(rng.integers(1, min(config.panel_rows, 5 * config.width)))
                await bench.check(random_job(rng, rows, inputs, tokens, stall=stall))


@cocotb.test()
async def few_rows(dut: Any) -> None:
    """A panel of few row blocks comes back to an accumulator at once; late rows find two slices of tables."""
    bench = Bench(dut)
    config, rng = bench.config, bench.rng
    await bench.start()
    for tokens in (1, config.tokens):
        for late in (0, 3 * prepare_cycles(config, tokens)):
            for rows in (1, config.width, config.width + 1, 3 * config.width):
                inputs = min(5 * config.slice_inputs, config.max_inputs)
                await bench.check(random_job(rng, rows, inputs, tokens, stall=float(rng.choice([0, 0.9])), late=late))


@cocotb.test()
async def extremes(dut: Any) -> None:
    """The largest sums of both signs, over the longest input."""
    bench = Bench(dut)
    config = bench.config
    await bench.start()
    for tokens in (1, config.tokens):
        for activation in (-127, 127):
            for weight in (-1, 1):
                weights = np.full((config.width, config.max_inputs), weight, np.int8)
                weights[1] = -weights[1]
                weights[2:3] = 0
                await bench.check(Job(weights=weights, activations=np.full((tokens, config.max_inputs), activation)))


@cocotb.test()
async def largest_panel(dut: Any) -> None:
    """Both halves full, in either order; the one computed first keeps its sums."""
    bench = Bench(dut)
    await bench.start()
    config = bench.config
    for tokens, other in ((1, config.tokens), (config.tokens, 1)):
        jobs = [
            random_job(bench.rng, config.panel_rows, 2 * config.slice_inputs, count, buffers=buffers)
            for count, buffers in ((tokens, Buffers.ACCUMULATOR), (other, Buffers.ACTIVATION))
        ]
        for job in jobs:
            await bench.load(job)
        for job in jobs:
            await bench.run(job)
        for job in jobs:
            await bench.compare(job)


@cocotb.test()
async def overlap(dut: Any) -> None:
    """While a panel is computed, the one before it is read and the activations after it are written, each every cycle."""
    bench = Bench(dut)
    config, rng = bench.config, bench.rng
    await bench.start()
    jobs = []
    for number in range(10):
        tokens = int(rng.choice([1, config.lanes, min(config.lanes + 1, config.tokens), config.tokens]))
        rows = int(rng.integers(1, min(config.panel_rows, 12 * config.width)))
        inputs = int(rng.integers(1, min(config.max_inputs, 4 * config.slice_inputs)))
        buffers = (Buffers.ACCUMULATOR | Buffers.ACTIVATION) if number % 2 else Buffers.NONE
        jobs.append(random_job(rng, rows, inputs, tokens, stall=float(rng.choice([0, 0, 0.5])), buffers=buffers))
    await bench.chain(jobs)


@cocotb.test()
async def reset_in_the_middle(dut: Any) -> None:
    bench = Bench(dut)
    config, rng = bench.config, bench.rng
    await bench.start()
    for limit in (2, 9, 20, 45, 70, 100, 130):
        tokens = int(rng.choice([1, config.tokens]))
        job = random_job(rng, 3 * config.width, 3 * config.slice_inputs, tokens, stall=0.3)
        await bench.load(job)
        await bench.run(job, limit=limit)
        dut.rows__valid.value = 1
        dut.rst.value = 1
        await RisingEdge(dut.clk)
        dut.rst.value = 0
        for _ in range(30):
            await ReadOnly()
            assert dut.busy.value == 0 and dut.done.value == 0 and dut.rows__ready.value == 0
            await RisingEdge(dut.clk)
        dut.rows__valid.value = 0
        await bench.check(random_job(rng, 2 * config.width, 3 * config.slice_inputs, tokens))


@cocotb.test()
async def throughput(dut: Any) -> None:
    """One beat a cycle (ganged: one ring row) over slices that last longer than their preparation, with every port busy."""
    bench = Bench(dut)
    config = bench.config
    await bench.start()
    for tokens in (1, config.lanes, config.tokens):
        gang = tokens <= config.lanes
        beats = prepare_cycles(config, tokens) * (config.groups if gang else 1)
        step = config.block_step
        rows = align(beats, step) * config.rows
        if rows > config.panel_rows:
            assert not gang
            continue
        jobs = [
            random_job(bench.rng, rows, 4 * config.slice_inputs, tokens, buffers=Buffers(3 * (number % 2))) for number in range(3)
        ]
        slices, blocks = matrix_shape(config, *jobs[0].weights.shape)
        # counted from the first row accepted, which is the last beat of it
        beats = slices * blocks // config.groups - 1 if gang else slices * blocks - config.groups
        assert await bench.chain(jobs) == [beats + finish_cycles(config)] * 3


@cocotb.test()
async def preparation(dut: Any) -> None:
    """Slices of few rows take as long as building the tables or loading the activations, whichever is longer."""
    bench = Bench(dut)
    config = bench.config
    await bench.start()
    for tokens in (1, config.lanes, config.tokens):
        inputs = min(config.max_inputs, 6 * config.slice_inputs)
        job = random_job(bench.rng, config.block_step * config.rows, inputs, tokens)
        slices, blocks = matrix_shape(config, *job.weights.shape)
        cycles = await bench.check(job)
        assert cycles <= (slices - 1) * max(prepare_cycles(config, tokens), 6) + blocks + finish_cycles(config)


SMALL = {"ports": 1, "groups": 1, "lanes": 1, "max_inputs": 240, "panel_rows": 240}
CASES = ["products", "few_rows", "extremes", "largest_panel", "overlap", "reset_in_the_middle", "preparation"]
#: Row blocks of a vector and groups: 4 and 1, 1 and 1, 2 and 2, 4 and 4, 2 and 4, 1 and 2; then wider beats.
GEOMETRIES: dict[str, tuple[dict[str, int], list[str]]] = {
    "one_row": (SMALL | {"rows": 1, "builders": 9}, CASES),
    "four_rows": (SMALL | {"rows": 4, "builders": 1}, CASES),
    "two_groups": (SMALL | {"rows": 2, "groups": 2, "lanes": 2, "builders": 14, "panel_rows": 488}, [*CASES, "throughput"]),
    "four_groups": (SMALL | {"rows": 1, "groups": 4, "builders": 27}, CASES),
    "more_groups_than_blocks": (SMALL | {"rows": 2, "groups": 4, "builders": 14}, CASES),
    "one_block": (
        # in a machine with both engines, whose accumulators are wider where they are read
        SMALL | {"beat_vectors": 2, "rows": 2, "groups": 2, "lanes": 2, "builders": 7, "panel_rows": 400, "engine": "both"},
        [*CASES, "throughput"],
    ),
    "short_slices": (
        {"ports": 4, "rows": 16, "groups": 1, "lanes": 1, "builders": 1, "max_inputs": 208},
        ["products", "overlap", "preparation"],
    ),
    "width_8": (
        {"ports": 4, "beat_vectors": 2, "rows": 8, "groups": 2, "lanes": 1, "builders": 2, "max_inputs": 240, "kv_block": 32,
         "panel_rows": 2048},
        ["products", "overlap", "throughput", "preparation"],
    ),
}


@pytest.mark.parametrize("name", GEOMETRIES)
def test_engine(tmp_path: Path, name: str) -> None:
    fields, cases = GEOMETRIES[name]
    config = BuildConfig.from_dict({"name": name, **fields})
    run_cocotb(
        LinearEngine(config), test_module=__name__, build_dir=tmp_path, testcase=cases,
        parameters={"config": config.to_dict()},
    )
