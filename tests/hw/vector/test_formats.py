"""Number formats of `VectorUnit` against the golden operators: e4m3 activations and queries, row scales, INT4 keys and
values, in every combination and beside the formats of ternary models."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cocotb
import pytest

from hwgen.config import BuildConfig
from hwgen.descriptors import Flag, Format, Opcode
from hwgen.hw.vector.unit import VectorUnit
from tests.cocotb_runner import run_cocotb
from tools.mutant_config import CONFIG as MUTATED

from .bench import STYLES, config_of_width
from .operators import MODES, TAIL, check_scales, drain, formats_of, norm, rope, started


@cocotb.test()
async def norm_in_all_formats(dut: Any) -> None:
    bench = await started(dut, 1)
    ways = 128 // bench.config.width
    for vectors in (1, 2, 3, ways - 1, ways, ways + 1, 2 * ways + 5):
        for style in STYLES if vectors in (3, ways + 1) else ("one", "spread"):
            for format in formats_of(bench.config, Opcode.NORM):
                await bench.run(norm(bench, vectors, 1, style, format=format))
                await check_scales(bench, 0, 1)


@cocotb.test()
async def norms_back_to_back(dut: Any) -> None:
    """Each format after each other, the scale of the one before still being computed."""
    bench = await started(dut, 2)
    formats = formats_of(bench.config, Opcode.NORM)
    for before in formats:
        for after in formats:
            for vectors in (1, 2, 30):
                count = bench.config.tokens
                await bench.run(norm(bench, 2, 1, "one", Flag.TO_QUERY))
                await bench.run(norm(bench, vectors, 1, "spread", format=before))
                await bench.run(norm(bench, 2, 1 + count, "one", format=after), first=1, count=count)
                await bench.run(norm(bench, 1, 1, "one", Flag.TO_QUERY), first=0)
                await bench.run(norm(bench, vectors, 1, "spread", format=before))
                await check_scales(bench, 0, 1)
                await check_scales(bench, 1, count)


@cocotb.test()
async def row_scales_in_all_modes(dut: Any) -> None:
    bench = await started(dut, 3)
    config = bench.config
    for flags in MODES:
        for vectors, first, count, style in (
            (1, 0, 1, "one"),
            (1, 0, config.tokens, "one"),
            (2, 1, config.tokens, "tiny"),
            (3, config.chunk - config.tokens, config.tokens, "huge"),
            (7, 1, config.lanes, "wide"),
            (config.panel_vectors, 0, 2, "spread"),
            (5, config.chunk - 1, 1, "edges"),
            (4, 0, 2, "zero"),
        ):
            await bench.run(norm(bench, 2, first + count, style, format=Format.FP8), first=first, count=count)
            d = drain(bench, flags, vectors, first + count, style, Format.FP8)
            await bench.run(d, first=first, count=count)


@cocotb.test()
async def drains_alternate(dut: Any) -> None:
    """Row scales and none in turn, each DRAIN in the cycle after the last one's ``done``."""
    bench = await started(dut, 4)
    count = bench.config.tokens
    await bench.run(norm(bench, 2, count, "one", format=Format.FP8), count=count)
    formats = formats_of(bench.config, Opcode.DRAIN)
    for k in range(24):
        vectors = bench.rng.choice((1, 2, 3, 12))
        d = drain(bench, MODES[k % len(MODES)], vectors, count, "one", formats[k % len(formats)])
        await bench.run(d, count=bench.rng.randint(1, count))


@cocotb.test()
async def row_scales_of_a_panel_part(dut: Any) -> None:
    """Row scales begin at ``param`` whatever the first row of the range is."""
    bench = await started(dut, 5)
    await bench.run(norm(bench, 3, 1, "one", format=Format.FP8))
    for row_blocks in (0, 1, bench.config.panel_vectors - 2):
        d = drain(bench, Flag.STORE, 2, 1, "one", Format.FP8)
        for param in (0, 1, bench.config.param_vectors - 2):
            await bench.run(replace(d, row_blocks=row_blocks, param=param))


@cocotb.test()
async def rope_in_all_formats(dut: Any) -> None:
    bench = await started(dut, 6)
    formats = formats_of(bench.config, Opcode.ROPE)
    for style in STYLES:
        for format in formats:
            await bench.run(rope(bench, 4, 2, 2, 2, style, format=format), count=2)
    for format in formats * 2:
        await bench.run(rope(bench, 3, 1, 4, bench.config.chunk, "spread", format=format), first=1, count=2)
        count = bench.config.tokens
        await bench.run(norm(bench, 3, count, "spread"), count=count)


@cocotb.test()
async def heads_are_mixed(dut: Any) -> None:
    """Heads that are rotated or mixed where they lie, with nothing quantised, and mixed to be quantised, one operator after the
    other."""
    bench = await started(dut, 8)
    formats = [Format.NONE, Format.MIX, Format.UNMIX] if bench.config.int4_kv else [Format.NONE]
    kinds = Flag.QUERIES | Flag.STORE
    added = kinds | Flag.ADD
    for style in STYLES:
        for format in formats:
            await bench.run(rope(bench, 4, 2, 2, 2, style, kinds, format), count=2)
        for format in formats[1:] * 4:
            await bench.run(rope(bench, 4, 2, 2, 2, style, format=format | Format.INT4_KEYS), count=2)
        if bench.config.int4_kv:
            await bench.run(rope(bench, 4, 2, 2, 2, style, added, Format.MIX), count=2)
    chunk, pairs = bench.config.chunk, bench.config.max_head_dim // bench.config.width // 2
    for format in formats * 2:
        shape = (6, 1, 4) if pairs > 1 else (4, 1, 2)
        await bench.run(rope(bench, *shape, chunk, "spread", kinds, format), first=1, count=chunk - 1)
        await bench.run(rope(bench, 2, 2, min(8, 2 * pairs), 1, "one", kinds, format))
        await bench.run(rope(bench, 3, 1, min(4, 2 * pairs), 2, "one", format=Format.NONE), count=2)
        await bench.run(norm(bench, 3, 1, "spread"))
        await bench.run(rope(bench, 1, 1, 2, 1, "one", kinds, format))
        if bench.config.int4_kv:
            await bench.run(rope(bench, *shape, chunk, "spread", added, Format.MIX), first=1, count=chunk - 1)
            await bench.run(rope(bench, 1, 1, min(8, 2 * pairs), 1, "one", added, Format.MIX))
            await bench.run(rope(bench, 3, 1, 2, chunk, "wide", Flag.KEYS | Flag.STORE | Flag.ADD, Format.MIX), count=chunk)


@cocotb.test()
async def scales_load_as_fast(dut: Any) -> None:
    """Row scales make a DRAIN later as a whole, but not every token of it."""
    bench = await started(dut, 7)
    count = bench.config.tokens
    await bench.run(norm(bench, 3, count, "one"), count=count)
    for _ in range(TAIL):
        await bench.cycle()
    d = drain(bench, Flag.STORE, 5, count, "one", Format.FP8)
    cycles = [await bench.run(d, count=tokens) for tokens in (1, count)]
    assert cycles[0] <= 5 + 45
    assert cycles[1] - cycles[0] <= (count - 1) * (5 + 2)


def simulate(config: BuildConfig, module: str, build_dir: Path, testcase: list[str] | None = None) -> None:
    run_cocotb(
        partial(VectorUnit, config),
        test_module=f"tests.hw.vector.{module}",
        build_dir=build_dir,
        parameters={"config": config.to_dict()},
        testcase=testcase,
    )


BOTH = config_of_width(8, engine="both", fp8_query=True, int4_kv=True)
INT4 = config_of_width(4, engine="int4", int4_kv=True, max_inputs=2048)


@pytest.mark.parametrize("config", [BOTH, INT4], ids=["both", "int4"])
def test_formats(config: BuildConfig, tmp_path: Path) -> None:
    simulate(config, "test_formats", tmp_path)


def test_other_operators_beside_formats(tmp_path: Path) -> None:
    """What a build without formats does, on one that has them all."""
    simulate(BOTH, "test_unit", tmp_path)


@pytest.mark.regress
def test_other_operators_of_the_int4_engine(tmp_path: Path) -> None:
    simulate(INT4, "test_unit", tmp_path)


def test_heads_of_a_small_machine(tmp_path: Path) -> None:
    """As one has them in which faults are planted."""
    simulate(MUTATED, "test_formats", tmp_path, ["heads_are_mixed"])


def test_heads_of_a_ternary_engine(tmp_path: Path) -> None:
    simulate(
        config_of_width(4, fp8_query=True, int4_kv=True), "test_formats", tmp_path,
        ["norm_in_all_formats", "rope_in_all_formats", "heads_are_mixed"],
    )
