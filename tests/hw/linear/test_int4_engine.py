"""The INT4 engine against plain integer products, over geometries, modes, group sizes, stalls, halves and leftovers."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import cocotb
import numpy as np
import pytest

from hwgen.config import BuildConfig
from hwgen.descriptors import Buffers
from hwgen.hw.linear.int4_engine import Int4Engine
from hwgen.int4 import Int4Matrix
from hwgen.rounding import ceil_div

from .bench import Bench
from .engine_cases import check_geometry
from .int4_jobs import Int4Job, Int4Jobs

# These simulations are short: compiling is what takes time.


@cocotb.test()
async def groups(dut: Any) -> None:
    """Every group size, with a last group that is whole or short, symmetric or not."""
    bench = Bench(dut)
    config, rng, jobs = bench.config, bench.rng, Int4Jobs(bench.config)
    await bench.start()
    for group in jobs.groups:
        for inputs in {min(group + 16, config.max_inputs), min(2 * group, config.max_inputs)}:
            for tokens in (1, config.tokens):
                await bench.check(jobs.random(rng, 2 * config.width, inputs, tokens, group=group))


@cocotb.test()
async def extremes(dut: Any) -> None:
    """The largest sums of both signs, over the longest input; the smallest values beside them."""
    bench = Bench(dut)
    config, rng, jobs = bench.config, bench.rng, Int4Jobs(bench.config)
    await bench.start()
    rows, inputs = config.width, config.max_inputs
    group = jobs.groups[-1]
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
    config, rng, jobs = bench.config, bench.rng, Int4Jobs(bench.config)
    await bench.start()
    for minus in (False, True):
        job = jobs.random(rng, config.width, 2 * jobs.slice, config.tokens)
        job.activations[::2] = 0
        job.minus_zero = minus
        job.matrix.codes[::2] = 0
        job.matrix.scales[1::3] = 0
        await bench.check(job)


@cocotb.test()
async def back_to_back(dut: Any) -> None:
    """Operators that start in the cycle after ``done`` of the one before, with other groups, tokens and halves."""
    bench = Bench(dut)
    config, rng, jobs = bench.config, bench.rng, Int4Jobs(bench.config)
    await bench.start()
    for turn in range(8):
        pair = []
        for buffers in (Buffers.ACCUMULATOR, Buffers.ACTIVATION):
            rows, inputs, tokens = rng.integers(1, (3 * config.width, 128, config.tokens + 1)).tolist()
            pair.append(jobs.random(rng, rows, inputs, tokens, buffers=buffers, late=40 * (turn % 2)))
        for job in pair:
            await bench.load(job)
        await bench.run(pair[0], idle=False)
        await bench.run(pair[1])
        for job in pair:
            await bench.compare(job)


SMALL = {"beat_bytes": 16, "groups": 1, "lanes": 1, "max_inputs": 256, "panel_rows": 256, "engine": "int4"}
CASES = [
    "products", "groups", "few_rows", "extremes", "zeros", "largest_panel", "overlap", "back_to_back", "reset_in_the_middle",
    "preparation",
]
#: By slice inputs, rows, groups; width.
GEOMETRIES: dict[str, tuple[dict[str, int], list[str]]] = {
    "one_row": (SMALL | {"rows": 1}, CASES),
    "two_groups": (SMALL | {"beat_bytes": 32, "rows": 2, "groups": 2, "lanes": 2, "panel_rows": 512}, [*CASES, "throughput"]),
    "slice_16": (SMALL | {"rows": 2, "groups": 1, "lanes": 3}, CASES),
    "slice_8": (SMALL | {"rows": 4, "groups": 4}, CASES),
    "slice_4": (SMALL | {"beat_bytes": 32, "rows": 8, "groups": 2, "kv_block": 32}, CASES),
    "one_block": (SMALL | {"beat_bytes": 32, "beat_vectors": 2, "rows": 4, "groups": 2}, CASES),
    "narrow": (SMALL | {"beat_vectors": 2, "rows": 2, "groups": 4, "lanes": 1}, CASES),
}


#: Whose corners random builds have too: of the regression.
NIGHTLY = ("slice_4", "narrow")


def check_engine(tmp_path: Path, name: str) -> None:
    fields, cases = GEOMETRIES[name]
    check_geometry(Int4Engine, "int4", __name__, {"name": name, **fields}, cases, tmp_path)


@pytest.mark.parametrize("name", [name for name in GEOMETRIES if name not in NIGHTLY])
def test_engine(tmp_path: Path, name: str) -> None:
    check_engine(tmp_path, name)


@pytest.mark.regress
@pytest.mark.parametrize("name", NIGHTLY)
def test_more_geometries(tmp_path: Path, name: str) -> None:
    check_engine(tmp_path, name)


def test_plain_form(tmp_path: Path) -> None:
    """The same engine with plain products, in a geometry of the machine with both engines."""
    fields = SMALL | {"rows": 4, "groups": 2, "engine": "both", "builders": 1}
    check_geometry(partial(Int4Engine, packed=False), "int4", __name__, fields, ["products", "extremes", "overlap"], tmp_path)


def test_engine_refuses() -> None:
    with pytest.raises(ValueError, match="max_inputs must be a multiple of 32, not 240"):
        BuildConfig.from_dict(SMALL | {"rows": 1, "max_inputs": 240})
    config = BuildConfig.from_dict(SMALL | {"rows": 1, "max_inputs": 256})
    with pytest.raises(ValueError, match="longest_chain must be 4, 8 or 16, not 32"):
        Int4Engine(config, longest_chain=32)
