"""The linear engine against plain integer products, over geometries, modes, stalls and leftovers of earlier jobs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cocotb
import numpy as np
import numpy.typing as npt
import pytest
from cocotb.triggers import ReadOnly, RisingEdge

from hwgen.config import BuildConfig
from hwgen.descriptors import Descriptor, Opcode
from hwgen.hw.interfaces import ACCUMULATOR_LATENCY
from hwgen.hw.linear.engine import LinearEngine
from hwgen.hw.linear.tables import TABLE_ENTRIES
from hwgen.layout import matrix_shape, pack_ternary, vectors_of
from tests.cocotb_runner import cocotb_parameters, run_cocotb, start_clock

# These simulations are short: compiling is what takes time.

Trits = npt.NDArray[np.int8]
Integers = npt.NDArray[np.int64]


@dataclass
class Job:
    """One LINEAR operator."""

    #: ``[rows, inputs]``
    weights: Trits
    #: ``[tokens, inputs]``
    activations: Integers
    #: Chance that no row is offered in a cycle.
    stall: float = 0.0
    #: Cycles before the first row is offered, so that tables run ahead.
    late: int = 0


def random_job(rng: np.random.Generator, rows: int, inputs: int, tokens: int, **options: Any) -> Job:
    weights = rng.integers(-1, 2, (rows, inputs)).astype(np.int8)
    return Job(weights, rng.integers(-127, 128, (tokens, inputs)), **options)


class Bench:
    """Drives a `LinearEngine` as its neighbours do."""

    def __init__(self, dut: Any) -> None:
        self.dut = dut
        self.config = BuildConfig.from_dict(cocotb_parameters()["config"])
        self.rng = np.random.default_rng(cocotb_parameters().get("seed", 7))

    async def start(self) -> None:
        dut = self.dut
        for name in ("start", "rows__valid", "activation__valid", "accumulator__vector", "op__descriptor"):
            getattr(dut, name).value = 0
        await start_clock(dut)

    async def load(self, job: Job) -> None:
        """Write the activations; elements beyond the inputs get leftovers, as the last vector of a NORM may have."""
        dut, config = self.dut, self.config
        tokens, inputs = job.activations.shape
        vectors = vectors_of(config, inputs)
        full = self.rng.integers(-127, 128, (tokens, vectors * config.width))
        full[:, :inputs] = job.activations
        gang = tokens <= config.lanes
        for token in range(tokens):
            group, lane = (None, token) if gang else divmod(token, config.lanes)
            dut.activation__groups.value = (1 << config.groups) - 1 if group is None else 1 << group
            dut.activation__lane.value = lane
            for v in range(vectors):
                dut.activation__valid.value = 1
                dut.activation__addr.value = v
                part = full[token, v * config.width : (v + 1) * config.width].astype(np.int8)
                dut.activation__data.value = int.from_bytes(part.tobytes(), "little")
                await RisingEdge(dut.clk)
        dut.activation__valid.value = 0

    def operator(self, job: Job) -> list[int]:
        """Apply the operator; returns the ring rows that it consumes."""
        config, dut = self.config, self.dut
        slices, blocks = matrix_shape(config, *job.weights.shape)
        tokens = job.activations.shape[0]
        descriptor = Descriptor(opcode=Opcode.LINEAR, slices=slices, row_blocks=blocks)
        dut.op__descriptor.value = int.from_bytes(descriptor.pack(), "little")
        dut.op__count.value = tokens
        dut.op__tokens.value = tokens
        dut.op__gang.value = int(tokens <= config.lanes)
        beats = pack_ternary(config, job.weights).reshape(-1, config.groups * config.beat_bytes)
        return [int.from_bytes(row.tobytes(), "little") for row in beats]

    async def run(self, job: Job, *, limit: int | None = None) -> int:
        """Execute; returns the cycles from the first row accepted to ``done``, or gives up after ``limit`` cycles."""
        dut = self.dut
        rows = self.operator(job)
        dut.start.value = 1
        await RisingEdge(dut.clk)
        dut.start.value = 0
        sent, cycle, first = 0, 0, None
        offering = False
        while True:
            if not offering and sent < len(rows) and cycle >= job.late:
                offering = self.rng.random() >= job.stall
            dut.rows__valid.value = int(offering)
            if offering:
                dut.rows__payload.value = rows[sent]
            await ReadOnly()
            accepted = offering and dut.rows__ready.value == 1
            done = dut.done.value == 1
            assert dut.busy.value == 1
            if not offering:
                assert dut.waiting_tables.value == 0
            await RisingEdge(dut.clk)
            if accepted:
                sent, offering = sent + 1, False
                first = cycle if first is None else first
            if done:
                break
            cycle += 1
            if limit is not None and cycle >= limit:
                return cycle
            assert cycle < 20000, "done never came"
        dut.rows__valid.value = 1  # more rows wait in the ring: they are not for this operator
        assert sent == len(rows), "done before the last row"
        for _ in range(3):
            await ReadOnly()
            assert dut.rows__ready.value == 0 and dut.busy.value == 0 and dut.done.value == 0
            await RisingEdge(dut.clk)
        dut.rows__valid.value = 0
        assert first is not None
        return cycle - first

    async def read(self, job: Job) -> Integers:
        """All accumulators ``[tokens, padded rows]``, one request a cycle."""
        dut, config = self.dut, self.config
        tokens = job.activations.shape[0]
        gang = tokens <= config.lanes
        vectors = vectors_of(config, job.weights.shape[0])
        requests = [(token, v) for token in range(tokens) for v in range(vectors)]
        result = np.zeros((tokens, vectors * config.width), np.int64)
        for cycle in range(len(requests) + ACCUMULATOR_LATENCY):
            if cycle < len(requests):
                token, v = requests[cycle]
                dut.accumulator__gang.value = int(gang)
                dut.accumulator__group.value = int(self.rng.integers(config.groups)) if gang else token // config.lanes
                dut.accumulator__lane.value = token if gang else token % config.lanes
                dut.accumulator__vector.value = v
            await ReadOnly()
            if cycle >= ACCUMULATOR_LATENCY:
                token, v = requests[cycle - ACCUMULATOR_LATENCY]
                word = dut.accumulator__data.value.to_unsigned()
                for i in range(config.width):
                    value = word >> i * config.acc_bits & ((1 << config.acc_bits) - 1)
                    value -= (value >> config.acc_bits - 1) << config.acc_bits
                    result[token, v * config.width + i] = value
            await RisingEdge(dut.clk)
        return result

    async def check(self, job: Job) -> int:
        await self.load(job)
        cycles = await self.run(job)
        rows = job.weights.shape[0]
        expected = np.zeros((len(job.activations), vectors_of(self.config, rows) * self.config.width), np.int64)
        expected[:, :rows] = job.activations @ job.weights.astype(np.int64).T
        np.testing.assert_array_equal(await self.read(job), expected)
        return cycles


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
                rows = int(rng.integers(1, min(config.max_rows, 5 * config.width)))
                await bench.check(random_job(rng, rows, inputs, tokens, stall=stall))


@cocotb.test()
async def one_vector(dut: Any) -> None:
    """A matrix of one vector of rows comes back to an accumulator at once; late rows find two slices of tables."""
    bench = Bench(dut)
    config, rng = bench.config, bench.rng
    await bench.start()
    build = TABLE_ENTRIES * config.tables // config.builders + config.slice_inputs // config.load_bytes + 20
    for tokens in (1, config.tokens):
        for stall, late in ((0.0, 0), (0.0, 3 * build), (0.9, 0)):
            for vectors in (1, 2, 3):
                rows, inputs = vectors * config.width, min(5 * config.slice_inputs, config.max_inputs)
                await bench.check(random_job(rng, rows, inputs, tokens, stall=stall, late=late))


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
                weights[2] = 0
                await bench.check(Job(weights, np.full((tokens, config.max_inputs), activation)))


@cocotb.test()
async def largest_matrix(dut: Any) -> None:
    bench = Bench(dut)
    await bench.start()
    config = bench.config
    for tokens in (1, config.tokens):
        await bench.check(random_job(bench.rng, config.max_rows, 2 * config.slice_inputs, tokens))


@cocotb.test()
async def reset_in_the_middle(dut: Any) -> None:
    bench = Bench(dut)
    config, rng = bench.config, bench.rng
    await bench.start()
    for limit in (2, 20, 45, 70, 100, 130):
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
    """One beat a cycle (ganged: one ring row) over slices that last longer than their tables take to build."""
    bench = Bench(dut)
    config = bench.config
    await bench.start()
    build = TABLE_ENTRIES * config.tables // config.builders + config.slice_inputs // config.load_bytes + 2
    for tokens, step in ((1, config.groups), (config.tokens, 1)):
        vectors = -(-build * step // config.vector_blocks) + 1
        job = random_job(bench.rng, vectors * config.width, 4 * config.slice_inputs, tokens)
        slices, blocks = matrix_shape(config, *job.weights.shape)
        gang = tokens <= config.lanes
        cycles = await bench.check(job)
        levels = (config.tables - 1).bit_length()
        # counted from the first row accepted, which is the last beat of it
        beats = slices * blocks // config.groups - 1 if gang else slices * blocks - config.groups
        assert cycles == beats + levels + LinearEngine.LOOK_UP + 3


SMALL = {"ports": 1, "groups": 1, "lanes": 1, "max_inputs": 240, "max_rows": 240, "load_bytes": 4}
CASES = ["products", "one_vector", "extremes", "largest_matrix", "reset_in_the_middle"]
GEOMETRIES: dict[str, tuple[dict[str, int], list[str]]] = {
    "one_row": (SMALL | {"rows": 1, "builders": 9}, CASES),
    "two_rows": (SMALL | {"rows": 2, "builders": 7, "load_bytes": 2}, [*CASES, "throughput"]),
    "four_rows": (SMALL | {"rows": 4, "builders": 1, "load_bytes": 1}, CASES),
    "two_groups": (SMALL | {"rows": 2, "groups": 2, "lanes": 3, "builders": 14, "max_rows": 488}, [*CASES, "throughput"]),
    "four_groups": (SMALL | {"rows": 1, "groups": 4, "builders": 27}, CASES),
    "default": ({}, ["products", "throughput"]),
    "wide": ({"ports": 4, "rows": 8, "groups": 1, "lanes": 1, "builders": 2, "max_inputs": 208}, ["products", "extremes"]),
}


@pytest.mark.parametrize("name", GEOMETRIES)
def test_engine(tmp_path: Path, name: str) -> None:
    fields, cases = GEOMETRIES[name]
    config = BuildConfig.from_dict({"name": name, **fields})
    run_cocotb(
        LinearEngine(config), test_module=__name__, build_dir=tmp_path, testcase=cases,
        parameters={"config": config.to_dict()},
    )  # fmt: skip
