"""What every linear engine must do: cases that the tests of both run, over jobs of their own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cocotb
from amaranth.lib.wiring import Component
from cocotb.triggers import ReadOnly, RisingEdge

from hwgen.config import BuildConfig
from hwgen.descriptors import Buffers
from hwgen.rounding import align
from tests.cocotb_runner import run_cocotb

from .bench import Bench


def check_geometry(
    make: Callable[[BuildConfig], Component], engine: str, module: str, fields: dict[str, Any], cases: list[str], build_dir: Path
) -> None:
    """Run ``cases``, of here or of ``module``, on what ``make`` makes of ``fields``; ``engine`` names its jobs."""
    config = BuildConfig.from_dict(fields)
    run_cocotb(
        partial(make, config), test_module=(__name__, module), build_dir=build_dir, testcase=cases,
        parameters={"config": config.to_dict(), "engine": engine},
    )


@cocotb.test()
async def products(dut: Any) -> None:
    """Random shapes in both modes, back to back, over whatever the operator before left behind."""
    bench = Bench(dut)
    config, rng, jobs = bench.config, bench.rng, bench.jobs
    await bench.start()
    least, longest = jobs.least, jobs.longest
    for tokens in range(1, config.tokens + 1):
        for stall in (0.0, 0.6):
            for inputs in (least, jobs.slice, int(rng.integers(least + 1, longest)), longest):
                rows = int(rng.integers(1, min(config.panel_rows, 5 * config.width)))
                await bench.check(jobs.random(rng, rows, inputs, tokens, stall=stall))


@cocotb.test()
async def few_rows(dut: Any) -> None:
    """A panel of few row blocks comes back to an accumulator at once; late rows find the next slices prepared."""
    bench = Bench(dut)
    config, rng, jobs = bench.config, bench.rng, bench.jobs
    await bench.start()
    for tokens in (1, config.tokens):
        for late in (0, 3 * jobs.prepare_cycles(tokens)):
            for rows in (1, config.width, config.width + 1, 3 * config.width):
                inputs = min(5 * jobs.slice, config.max_inputs)
                await bench.check(jobs.random(rng, rows, inputs, tokens, stall=float(rng.choice([0, 0.9])), late=late))


@cocotb.test()
async def largest_panel(dut: Any) -> None:
    """Both halves full, in either order; the one computed first keeps its sums."""
    bench = Bench(dut)
    await bench.start()
    config = bench.config
    for tokens, other in ((1, config.tokens), (config.tokens, 1)):
        pair = [
            bench.jobs.largest(bench.rng, count, buffers)
            for count, buffers in ((tokens, Buffers.ACCUMULATOR), (other, Buffers.ACTIVATION))
        ]
        for job in pair:
            await bench.load(job)
        for job in pair:
            await bench.run(job)
        for job in pair:
            await bench.compare(job)


@cocotb.test()
async def overlap(dut: Any) -> None:
    """While a panel is computed, the one before it is read and the activations after it are written, each every cycle."""
    bench = Bench(dut)
    config, rng, jobs = bench.config, bench.rng, bench.jobs
    await bench.start()
    chain = []
    for number in range(10):
        tokens = int(rng.choice([1, config.lanes, min(config.lanes + 1, config.tokens), config.tokens]))
        rows = int(rng.integers(1, min(config.panel_rows, 12 * config.width)))
        inputs = int(rng.integers(1, jobs.chained))
        buffers = (Buffers.ACCUMULATOR | Buffers.ACTIVATION) if number % 2 else Buffers.NONE
        chain.append(jobs.random(rng, rows, inputs, tokens, stall=float(rng.choice([0, 0, 0.5])), buffers=buffers))
    await bench.chain(chain)


@cocotb.test()
async def reset_in_the_middle(dut: Any) -> None:
    bench = Bench(dut)
    config, rng, jobs = bench.config, bench.rng, bench.jobs
    await bench.start()
    for limit in (2, 9, 20, 33, 45, 70, 100, 130):
        tokens = int(rng.choice([1, config.tokens]))
        inputs = min(config.max_inputs, 3 * jobs.slice)
        job = jobs.random(rng, 3 * config.width, inputs, tokens, stall=0.3)
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
        await bench.check(jobs.random(rng, 2 * config.width, inputs, tokens))


@cocotb.test()
async def throughput(dut: Any) -> None:
    """One beat a cycle (ganged: one ring row) over slices that last longer than their preparation, with every port busy."""
    bench = Bench(dut)
    config, jobs = bench.config, bench.jobs
    await bench.start()
    for tokens in (1, config.lanes, config.tokens):
        gang = tokens <= config.lanes
        beats = jobs.prepare_cycles(tokens) * (config.groups if gang else 1)
        rows = align(beats, config.block_step) * config.rows
        if rows > config.panel_rows:
            assert not gang and jobs.name == "ternary"
            continue
        chain = [jobs.steady(bench.rng, rows, tokens, Buffers(3 * (number % 2))) for number in range(3)]
        assert await bench.chain(chain) == [jobs.stream_cycles(chain[0])] * 3


@cocotb.test()
async def preparation(dut: Any) -> None:
    """Slices of few rows take as long as their preparation, for which rows wait."""
    bench = Bench(dut)
    config, jobs = bench.config, bench.jobs
    await bench.start()
    for tokens in (1, config.lanes, config.tokens):
        job = jobs.random(bench.rng, config.block_step * config.rows, min(config.max_inputs, 6 * jobs.slice), tokens)
        cycles = await bench.check(job)
        assert cycles <= jobs.most_cycles(job)
        assert bench.waited
