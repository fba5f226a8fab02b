"""The linear engine against plain integer products, over geometries, modes, stalls, halves and leftovers of earlier jobs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cocotb
import numpy as np
import pytest

from hwgen.grouped import GroupedMatrix
from hwgen.hw.linear.engine import LinearEngine
from hwgen.numerics import GROUP

from .bench import Bench
from .engine_cases import check_geometry
from .grouped_jobs import GroupedJob
from .ternary_jobs import Job

# These simulations are short: compiling is what takes time.


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
async def scales(dut: Any) -> None:
    """Every scale, under weights of one sign and under the largest sums of both; then a panel without scales."""
    bench = Bench(dut)
    config, rng = bench.config, bench.rng
    await bench.start()
    rows, inputs = config.panel_rows // config.width * config.width, config.max_inputs
    codes = np.resize(np.arange(256, dtype=np.uint8), (rows, inputs // GROUP))
    codes[0] = codes[1] = 255
    trits = np.where(rng.random((rows, inputs)) < 0.9, 1, -1).astype(np.int8)
    trits[0], trits[1] = 1, -1
    for tokens in (1, config.tokens):
        for value in (-127, 127):
            activations = np.full((tokens, inputs), value)
            await bench.check(GroupedJob(matrix=GroupedMatrix(trits, codes, 1.0), activations=activations))
        await bench.check(Job(weights=trits, activations=activations))


SMALL = {"beat_bytes": 16, "groups": 1, "lanes": 1, "max_inputs": 240, "panel_rows": 240}
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
        {"beat_bytes": 64, "rows": 16, "groups": 1, "lanes": 1, "builders": 1, "max_inputs": 208},
        ["products", "overlap", "preparation"],
    ),
    "width_8": (
        {"beat_bytes": 64, "beat_vectors": 2, "rows": 8, "groups": 2, "lanes": 1, "builders": 2, "max_inputs": 240, "kv_block": 32,
         "panel_rows": 2048},
        ["products", "overlap", "throughput", "preparation"],
    ),
}
GROUPED = SMALL | {"engine": "grouped", "max_inputs": 384}
#: Slices of 40, 20 and 80 inputs, whose short slices have 4, 2 and 1 row blocks in a beat.
GEOMETRIES |= {
    "groups_of_four": (
        GROUPED | {"rows": 2, "groups": 2, "lanes": 2, "builders": 14, "panel_rows": 488}, [*CASES, "scales", "throughput"],
    ),
    "groups_of_two": (GROUPED | {"rows": 4, "groups": 4, "builders": 1}, [*CASES, "scales"]),
    "groups_of_one": (GROUPED | {"rows": 1, "builders": 9}, [*CASES, "scales"]),
}


#: Whose corners random builds have too: of the regression.
NIGHTLY = ("four_groups", "more_groups_than_blocks", "groups_of_one")


def check_engine(tmp_path: Path, name: str) -> None:
    fields, cases = GEOMETRIES[name]
    check_geometry(LinearEngine, "ternary", __name__, {"name": name, **fields}, cases, tmp_path)


@pytest.mark.parametrize("name", [name for name in GEOMETRIES if name not in NIGHTLY])
def test_engine(tmp_path: Path, name: str) -> None:
    check_engine(tmp_path, name)


@pytest.mark.regress
@pytest.mark.parametrize("name", NIGHTLY)
def test_more_geometries(tmp_path: Path, name: str) -> None:
    check_engine(tmp_path, name)
