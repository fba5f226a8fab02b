"""The INT4 engine against plain integer products, over geometries, modes, group sizes, stalls, halves and leftovers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cocotb
import numpy as np
import numpy.typing as npt
import pytest
import torch
from cocotb.triggers import ReadOnly, RisingEdge

from hwgen.config import BuildConfig
from hwgen.descriptors import Buffers, Descriptor, Format, Opcode
from hwgen.golden.int4 import e4m3_codes, e4m3_values, int4_matmul
from hwgen.hw.linear.int4_engine import Int4Engine
from hwgen.int4 import GROUPS, Int4Matrix
from hwgen.layout import Int4Layout
from hwgen.rounding import align, ceil_div
from tests.cocotb_runner import run_cocotb

from .bench import Bench, Bytes, Integers, PanelJob

# These simulations are short: compiling is what takes time.

#: All finite values, as integers; twice zero and the extremes.
VALUES = e4m3_values(torch.tensor([c for c in range(256) if c & 0x7F != 0x7F], dtype=torch.uint8)).numpy()


@dataclass(kw_only=True)
class Int4Job(PanelJob):
    """LINEAR of the INT4 engine."""

    matrix: Int4Matrix
    #: ``[tokens, inputs]``, e4m3 values in units of 2^-9.
    activations: npt.NDArray[np.int32]
    #: Zeros are written as -0, code 0x80.
    minus_zero: bool = False

    @property
    def tokens(self) -> int:
        return self.activations.shape[0]

    @property
    def rows(self) -> int:
        return self.matrix.rows

    def codes(self, config: BuildConfig, rng: np.random.Generator) -> Bytes:
        """Zeros up to whole slices and vectors."""
        inputs = self.activations.shape[1]
        step = max(config.int4_slice_inputs, config.width)
        full = np.zeros((self.tokens, align(inputs, step)), np.uint8)
        full[:, :inputs] = e4m3_codes(torch.from_numpy(self.activations)).numpy()
        if self.minus_zero:
            full[full == 0] = 0x80
        return full

    def stream(self, config: BuildConfig) -> tuple[Descriptor, Bytes]:
        m = self.matrix
        layout = Int4Layout(config, m.rows, m.inputs, m.group)
        descriptor = Descriptor(
            opcode=Opcode.LINEAR, format=Format.FP8, slices=layout.slices, vectors=layout.shared, row_blocks=layout.row_blocks,
            buffers=self.buffers,
        )
        return descriptor, layout.pack(m.codes, m.scales, m.midpoints)

    def products(self) -> Integers:
        weights = torch.from_numpy(self.matrix.integers().astype(np.float64))
        return int4_matmul(torch.from_numpy(self.activations), weights).numpy()


def int4_matrix(rng: np.random.Generator, rows: int, inputs: int, group: int, *, symmetric: bool = False) -> Int4Matrix:
    groups = ceil_div(inputs, group)
    codes = rng.integers(-8, 8, (rows, inputs)).astype(np.int8)
    scales = rng.integers(0, 256, (rows, groups)).astype(np.uint8)
    midpoints = None if symmetric else rng.integers(-127, 128, (rows, groups)).astype(np.int8)
    return Int4Matrix(codes, group, scales, midpoints, np.ones(rows, np.float32))


def legal_groups(config: BuildConfig) -> list[int]:
    return [g for g in GROUPS if g % config.int4_slice_inputs == 0]


def random_job(rng: np.random.Generator, config: BuildConfig, rows: int, inputs: int, tokens: int, **options: Any) -> Int4Job:
    group = options.pop("group", None) or int(rng.choice(legal_groups(config)))
    options.setdefault("buffers", Buffers(int(rng.integers(4))))
    matrix = int4_matrix(rng, rows, align(inputs, 16), group, symmetric=bool(rng.integers(2)))
    # half of the activations small: the codes whose integers are odd
    pool = np.concatenate((VALUES, VALUES[np.abs(VALUES) < 32].repeat(8)))
    activations = rng.choice(pool, (tokens, matrix.inputs)).astype(np.int32)
    return Int4Job(matrix=matrix, activations=activations, minus_zero=bool(rng.integers(2)), **options)


def token_counts(config: BuildConfig) -> list[int]:
    return sorted({1, config.lanes, min(config.lanes + 1, config.tokens), config.tokens})


def load_cycles(config: BuildConfig, tokens: int) -> int:
    """Cycles that a slice takes at least: the next one's activations are loaded meanwhile."""
    words = max(1, config.int4_slice_inputs // config.width)
    return tokens * words + 26


@cocotb.test()
async def products(dut: Any) -> None:
    """Random shapes in both modes, back to back, with changing groups, over whatever the operator before left behind."""
    bench = Bench(dut)
    config, rng = bench.config, bench.rng
    await bench.start()
    largest = min(config.max_inputs, 288)
    for tokens in range(1, config.tokens + 1):
        for stall in (0.0, 0.6):
            for inputs in (16, config.int4_slice_inputs, int(rng.integers(17, largest)), largest):
                rows = int(rng.integers(1, min(config.panel_rows, 5 * config.width)))
                await bench.check(random_job(rng, config, rows, inputs, tokens, stall=stall))


@cocotb.test()
async def groups(dut: Any) -> None:
    """Every group size, with a last group that is whole or short, symmetric or not."""
    bench = Bench(dut)
    config, rng = bench.config, bench.rng
    await bench.start()
    for group in legal_groups(config):
        for inputs in {min(group + 16, config.max_inputs), min(2 * group, config.max_inputs)}:
            for tokens in (1, config.tokens):
                await bench.check(random_job(rng, config, 2 * config.width, inputs, tokens, group=group))


@cocotb.test()
async def few_rows(dut: Any) -> None:
    """A panel of few row blocks comes back to an accumulator at once; late rows find the next slice loaded."""
    bench = Bench(dut)
    config, rng = bench.config, bench.rng
    await bench.start()
    for tokens in (1, config.tokens):
        for late in (0, 3 * load_cycles(config, tokens)):
            for rows in (1, config.width, config.width + 1, 3 * config.width):
                inputs = min(5 * max(16, config.int4_slice_inputs), config.max_inputs)
                stall = float(rng.choice([0, 0.9]))
                await bench.check(random_job(rng, config, rows, inputs, tokens, stall=stall, late=late))


@cocotb.test()
async def extremes(dut: Any) -> None:
    """The largest sums of both signs, over the longest input; the smallest values beside them."""
    bench = Bench(dut)
    config, rng = bench.config, bench.rng
    await bench.start()
    rows, inputs = config.width, config.max_inputs
    group = legal_groups(config)[-1]
    groups_ = ceil_div(inputs, group)
    for tokens in (1, config.tokens):
        for value in (-229376, 229376, 15, -1):
            codes = np.full((rows, inputs), -8, np.int8)
            codes[1::2] = 7
            codes[rows // 2 :] = rng.choice([-8, 7], (rows - rows // 2, inputs))
            midpoints = np.full((rows, groups_), -127, np.int8)
            midpoints[rng.random(rows) < 0.5] = 127
            matrix = Int4Matrix(codes, group, np.full((rows, groups_), 255, np.uint8), midpoints, np.ones(rows, np.float32))
            activations = np.full((tokens, inputs), value, np.int32)
            activations[:, rng.random(inputs) < 0.2] *= -1
            await bench.check(Int4Job(matrix=matrix, activations=activations))
            whole = np.full((tokens, inputs), value, np.int32)
            await bench.check(Int4Job(matrix=matrix, activations=whole, buffers=Buffers.ACCUMULATOR))


@cocotb.test()
async def zeros(dut: Any) -> None:
    """Zero rows of activations (either zero), zero scales, zero codes."""
    bench = Bench(dut)
    config, rng = bench.config, bench.rng
    await bench.start()
    for minus in (False, True):
        job = random_job(rng, config, config.width, 2 * max(16, config.int4_slice_inputs), config.tokens)
        job.activations[::2] = 0
        job.minus_zero = minus
        job.matrix.codes[::2] = 0
        job.matrix.scales[1::3] = 0
        await bench.check(job)


@cocotb.test()
async def largest_panel(dut: Any) -> None:
    """Both halves full, in either order; the one computed first keeps its sums."""
    bench = Bench(dut)
    await bench.start()
    config = bench.config
    for tokens, other in ((1, config.tokens), (config.tokens, 1)):
        jobs = [
            random_job(bench.rng, config, config.panel_rows, 32, count, buffers=buffers, group=legal_groups(config)[0])
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
        tokens = int(rng.choice(token_counts(config)))
        rows = int(rng.integers(1, min(config.panel_rows, 12 * config.width)))
        inputs = int(rng.integers(1, min(config.max_inputs, 160)))
        buffers = (Buffers.ACCUMULATOR | Buffers.ACTIVATION) if number % 2 else Buffers.NONE
        jobs.append(random_job(rng, config, rows, inputs, tokens, stall=float(rng.choice([0, 0, 0.5])), buffers=buffers))
    await bench.chain(jobs)


@cocotb.test()
async def back_to_back(dut: Any) -> None:
    """Operators that start in the cycle after ``done`` of the one before, with other groups, tokens and halves."""
    bench = Bench(dut)
    config, rng = bench.config, bench.rng
    await bench.start()
    for turn in range(8):
        jobs = []
        for buffers in (Buffers.ACCUMULATOR, Buffers.ACTIVATION):
            rows, inputs, tokens = rng.integers(1, (3 * config.width, 128, config.tokens + 1)).tolist()
            jobs.append(random_job(rng, config, rows, inputs, tokens, buffers=buffers, late=40 * (turn % 2)))
        for job in jobs:
            await bench.load(job)
        await bench.run(jobs[0], idle=False)
        await bench.run(jobs[1])
        for job in jobs:
            await bench.compare(job)


@cocotb.test()
async def reset_in_the_middle(dut: Any) -> None:
    bench = Bench(dut)
    config, rng = bench.config, bench.rng
    await bench.start()
    for limit in (2, 9, 20, 33, 45, 70, 100, 130):
        tokens = int(rng.choice([1, config.tokens]))
        inputs = min(config.max_inputs, 3 * max(16, config.int4_slice_inputs))
        job = random_job(rng, config, 3 * config.width, inputs, tokens, stall=0.3)
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
        await bench.check(random_job(rng, config, 2 * config.width, inputs, tokens))


@cocotb.test()
async def throughput(dut: Any) -> None:
    """One beat a cycle (ganged: one ring row) over slices that last longer than loading, with every port busy."""
    bench = Bench(dut)
    config = bench.config
    await bench.start()
    for tokens in (1, config.lanes, config.tokens):
        gang = tokens <= config.lanes
        beats = load_cycles(config, tokens) * (config.groups if gang else 1)
        step = config.block_step
        rows = align(beats, step) * config.rows
        assert rows <= config.panel_rows
        inputs, group = 4 * config.int4_slice_inputs, max(32, legal_groups(config)[0])
        jobs = [
            random_job(
                bench.rng, config, rows, inputs, tokens, group=group, buffers=Buffers(3 * (number % 2)),
                late=2 * load_cycles(config, tokens),
            )
            for number in range(3)
        ]
        layout = Int4Layout(config, rows, inputs, group)
        blocks = layout.row_blocks // config.groups if gang else layout.row_blocks
        # counted from the first row accepted, which is the last beat of it
        cycles = layout.slices * blocks + layout.groups * layout.scale_beats - config.groups
        engine = Int4Engine(config)
        assert await bench.chain(jobs) == [cycles + engine.add + engine.DONE] * 3


@cocotb.test()
async def loading(dut: Any) -> None:
    """Slices of few rows take as long as loading their activations."""
    bench = Bench(dut)
    config = bench.config
    await bench.start()
    for tokens in (1, config.lanes, config.tokens):
        inputs = min(config.max_inputs, 6 * max(16, config.int4_slice_inputs))
        job = random_job(bench.rng, config, config.block_step * config.rows, inputs, tokens)
        layout = Int4Layout(config, job.rows, inputs, job.matrix.group)
        cycles = await bench.check(job)
        engine = Int4Engine(config)
        most = layout.slices * load_cycles(config, tokens) + layout.row_blocks + layout.groups * layout.scale_beats
        assert cycles <= most + engine.add + engine.DONE


SMALL = {"ports": 1, "groups": 1, "lanes": 1, "max_inputs": 256, "panel_rows": 256, "engine": "int4"}
CASES = [
    "products", "groups", "few_rows", "extremes", "zeros", "largest_panel", "overlap", "back_to_back", "reset_in_the_middle",
    "loading",
]
#: By slice inputs, rows, groups; width.
GEOMETRIES: dict[str, tuple[dict[str, int], list[str]]] = {
    "one_row": (SMALL | {"rows": 1}, CASES),
    "two_groups": (SMALL | {"ports": 2, "rows": 2, "groups": 2, "lanes": 2, "panel_rows": 512}, [*CASES, "throughput"]),
    "slice_16": (SMALL | {"rows": 2, "groups": 1, "lanes": 3}, CASES),
    "slice_8": (SMALL | {"rows": 4, "groups": 4}, CASES),
    "slice_4": (SMALL | {"ports": 2, "rows": 8, "groups": 2, "kv_block": 32}, CASES),
    "one_block": (SMALL | {"ports": 2, "beat_vectors": 2, "rows": 4, "groups": 2}, CASES),
    "narrow": (SMALL | {"beat_vectors": 2, "rows": 2, "groups": 4, "lanes": 1}, CASES),
}


@pytest.mark.parametrize("name", GEOMETRIES)
def test_engine(tmp_path: Path, name: str) -> None:
    fields, cases = GEOMETRIES[name]
    config = BuildConfig.from_dict({"name": name, **fields})
    run_cocotb(
        Int4Engine(config), test_module=__name__, build_dir=tmp_path, testcase=cases, parameters={"config": config.to_dict()},
    )


def test_plain_form(tmp_path: Path) -> None:
    """The same engine with plain products, in a geometry of the machine with both engines."""
    config = BuildConfig.from_dict(SMALL | {"rows": 4, "groups": 2, "engine": "both", "builders": 1})
    run_cocotb(
        Int4Engine(config, packed=False), test_module=__name__, build_dir=tmp_path, testcase=["products", "extremes", "overlap"],
        parameters={"config": config.to_dict()},
    )


def test_engine_refuses() -> None:
    with pytest.raises(ValueError, match="max_inputs must be a multiple of 32, not 240"):
        BuildConfig.from_dict(SMALL | {"rows": 1, "max_inputs": 240})
    config = BuildConfig.from_dict(SMALL | {"rows": 1, "max_inputs": 256})
    with pytest.raises(ValueError, match="longest_chain must be 4, 8 or 16, not 32"):
        Int4Engine(config, longest_chain=32)
