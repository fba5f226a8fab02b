"""`VectorUnit` against the golden operators, bit for bit on every bus."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cocotb
import pytest
from cocotb.triggers import ReadOnly

from hwgen.config import BuildConfig, ConfigError
from hwgen.descriptors import Descriptor, Flag, Format, Opcode
from hwgen.hw.vector.unit import VectorUnit
from tests.cocotb_runner import run_cocotb

from .bench import BUSES, STYLES, config_of_width
from .operators import ALL_KINDS, KINDS, MODES, TAIL, check_scales, drain, norm, norm_heads, rope, started


@cocotb.test()
async def norm_of_all_sizes(dut: Any) -> None:
    bench = await started(dut, 1)
    ways = 128 // bench.config.width
    sizes = (1, 2, 3, ways // 2, ways // 2 + 1, ways - 1, ways, ways + 1, 2 * ways + 5)
    for vectors in sizes:
        for style in STYLES if vectors in (3, ways + 1) else ("one", "wide"):
            await bench.run(norm(bench, vectors, 1, style))
            await check_scales(bench, 0, 1)


@cocotb.test()
async def norm_of_many_tokens(dut: Any) -> None:
    bench = await started(dut, 2)
    config = bench.config
    for first, count, gang, vectors in (
        (0, config.tokens, False, 1),
        (config.chunk - 2, 2, False, 5),
        (1, config.lanes, True, 11),
        (0, 1, True, 2),
        (1, config.tokens, False, 19),
    ):
        await bench.run(
            norm(bench, vectors, first + count, bench.rng.choice(STYLES)), first=first, count=count, gang=gang
        )
        await check_scales(bench, first, count)


@cocotb.test()
async def norm_to_query(dut: Any) -> None:
    bench = await started(dut, 3)
    for vectors, first in ((1, 0), (9, 3), (40, bench.config.chunk - 1)):
        d = norm(bench, vectors, first + 1, "one", Flag.TO_QUERY)
        await bench.run(d, first=first)
        assert bench.written["query_scale"]
        await check_scales(bench, first, 1)


@cocotb.test()
async def norm_of_heads(dut: Any) -> None:
    """Each head by itself, back into its place; the scales of tokens, one of which is still being computed, stay as they are."""
    bench = await started(dut, 11)
    chunk, tokens = bench.config.chunk, bench.config.tokens
    await bench.run(norm(bench, 3, tokens, "one"), count=tokens)
    for heads, vectors, first, count, style in (
        (1, 1, 0, 1, "one"), (1, 2, 1, 2, "edges"), (5, 2, 0, tokens, "one"), (2, 128 // bench.config.width + 1, 0, 1, "wide"),
        (3, 4, chunk - 2, 2, "tiny"), (2, 2, 0, 1, "zero"), (2, 3, 1, 1, "huge"), (4, 2, 0, chunk, "spread"),
    ):
        await bench.run(norm_heads(bench, heads, vectors, first + count, style), first=first, count=count)
    await check_scales(bench, 0, tokens)


@cocotb.test()
async def norm_of_wanted_tokens(dut: Any) -> None:
    """Read where they lie in the pass, kept by their number among the wanted ones."""
    bench = await started(dut, 8)
    chunk, tokens = bench.config.chunk, bench.config.tokens
    for first, count, flags in ((0, tokens, Flag.NONE), (chunk - 1, 1, Flag.NONE), (chunk - 1, 1, Flag.TO_QUERY)):
        await bench.run(norm(bench, 3, chunk, "one", Flag.LOGITS | flags), first=first, count=count)
        await check_scales(bench, first, count)


@cocotb.test()
async def drain_of_listed_scores(dut: Any) -> None:
    """The next token waits while the lists are busy; results are those of any DRAIN."""
    bench = await started(dut, 9)
    count = bench.config.tokens
    await bench.run(norm(bench, 4, count, "one"), count=count, gang=False)
    await bench.run(drain(bench, Flag.STORE | Flag.SHORTLIST, 5, count, "one"), count=count, gang=False)
    bench.dut.lists_busy.value = 1
    await bench.begin(drain(bench, Flag.STORE | Flag.SHORTLIST, 5, count, "one"), count=count, gang=False)
    for _ in range(100):
        assert not await bench.cycle()
    assert not bench.written["scratch_write"]
    bench.dut.lists_busy.value = 0
    while not await bench.cycle():
        pass
    assert len(bench.written["scratch_write"]) == 5 * count


@cocotb.test()
async def drain_of_candidates(dut: Any) -> None:
    """A vector begins when there is room, a vector's width of cycles after the one before at least; done when all are in place."""
    bench = await started(dut, 12)
    config, count = bench.config, bench.config.tokens
    flags = Flag.MULTIPLY | Flag.CANDIDATES | (Flag.DIGITS if config.has_ternary else Flag.NONE)
    format = Format.NONE if config.has_ternary else Format.FP8
    await bench.run(norm(bench, 4, count, "one"), count=count, gang=False)
    for style, tokens, gang in (("one", count, False), ("wide", 1, True), ("edges", 1, False)):
        d = replace(drain(bench, flags, 6, tokens, style, format), dst_stride=6)
        assert await bench.run(d, count=tokens, gang=gang) >= tokens * 6 * config.width
    d = drain(bench, flags, 9, 1, "one", format)
    await bench.begin(d, gang=True)
    begun, since, ended = 0, config.width, False
    while not ended:
        bench.dut.room.value = room = int(bench.rng.random() < 0.3)
        bench.dut.lists_busy.value = busy = int(begun == d.vectors and bench.rng.random() < 0.9)
        await ReadOnly()
        begins = int(bench.dut.begin.value)
        assert not begins or (room and since >= config.width)
        begun, since = begun + begins, 1 if begins else since + 1
        ended = await bench.cycle()
        assert not ended or (begun == d.vectors and not busy)
    assert begun == d.vectors and bench.written["scratch_write"] == bench.expected(d, range(1))["scratch_write"]
    bench.dut.room.value, bench.dut.lists_busy.value = 1, 0


@cocotb.test()
async def drain_in_all_modes(dut: Any) -> None:
    bench = await started(dut, 4)
    config = bench.config
    for flags in MODES:
        for vectors, first, count, gang, style in (
            (1, 0, 1, True, "one"),
            (3, 2, config.lanes, True, "one"),
            (7, 1, config.tokens, False, "wide"),
            (30, 0, 2, False, "one"),
            (2, config.chunk - 1, 1, True, "edges"),
        ):
            await bench.run(norm(bench, 2, first + count, style), first=first, count=count, gang=gang)
            await bench.run(drain(bench, flags, vectors, first + count, style), first=first, count=count, gang=gang)


@cocotb.test()
async def drain_in_place(dut: Any) -> None:
    bench = await started(dut, 5)
    count = bench.config.tokens
    await bench.run(norm(bench, 4, count, "one"), count=count, gang=False)
    for flags in (Flag.ADD, Flag.MULTIPLY):
        d = drain(bench, flags, 9, count, "one")
        await bench.run(replace(d, dst=d.src, dst_stride=d.src_stride), count=count, gang=False)


@cocotb.test()
async def rope_of_all_shapes(dut: Any) -> None:
    bench = await started(dut, 6)
    chunk = bench.config.chunk
    for heads, kv_heads, head_vectors, first, count, style in (
        (1, 1, 2, 0, 1, "one"),
        (1, 1, 2, 0, chunk, "wide"),
        (3, 1, 2, 0, 3, "one"),
        (4, 2, 4, 0, 2, "huge"),
        (2, 2, 2, 2, 3, "tiny"),
        (6, 2, 2, chunk - 2, 2, "one"),
        (2, 1, 4, chunk - 1, 1, "zero"),
        (3, 3, 2, 0, 2, "edges"),
        (8, 1, 2, 1, chunk - 1, "one"),
    ):
        for kinds in KINDS if style in ("one", "edges") else [ALL_KINDS]:
            d = rope(bench, heads, kv_heads, head_vectors, first + count, style, kinds)
            await bench.run(d, first=first, count=count)


@cocotb.test()
async def operators_back_to_back(dut: Any) -> None:
    """Each starts in the cycle after the last one's ``done``, with scales still being computed."""
    bench = await started(dut, 7)
    rng, config = bench.rng, bench.config
    for first in range(0, config.chunk, config.tokens):
        count = min(config.tokens, config.chunk - first)
        await bench.run(norm(bench, 2, first + count, "one"), first=first, count=count)
    for _ in range(40):
        count = rng.randint(1, config.tokens)
        first = rng.randint(0, config.chunk - count)
        where = {"first": first, "count": count}
        match rng.randrange(4):
            case 0:
                await bench.run(norm(bench, rng.randint(1, 20), first + count, "one"), **where)
            case 1 if rng.random() < 0.5:
                await bench.run(norm_heads(bench, rng.randint(1, 3), 2, first + count, "one"), **where)
            case 1:
                await bench.run(rope(bench, 2, 1, 2, first + count, "one", rng.choice(KINDS)), **where)
            case _:
                await bench.run(drain(bench, rng.choice(MODES), rng.randint(1, 12), first + count, "one"), **where)


@cocotb.test()
async def operators_behind_long_sums(dut: Any) -> None:
    """Behind NORM of a token whose columns are still being added, operators of every other kind: they wait for the lanes, and the
    scale stays that of its token, inside.
    """
    bench = await started(dut, 13)
    chunk, ways = bench.config.chunk, 128 // bench.config.width
    for vectors in (ways - 3, ways, ways + 8):
        for follow in (
            lambda: norm(bench, 1, 1, "one", Flag.TO_QUERY), lambda: norm(bench, 2, 1, "one"),
            lambda: norm_heads(bench, 2, 2, 1, "one"), lambda: rope(bench, 1, 1, 2, 1, "one"),
            lambda: rope(bench, 2, 1, 2, 1, "one", Flag.QUERIES | Flag.STORE, Format.NONE),
        ):
            await bench.run(norm(bench, vectors, chunk, "spread"), first=chunk - 1)
            await bench.run(follow())
            await check_scales(bench, chunk - 1, 1)


@cocotb.test()
async def reset_in_the_middle(dut: Any) -> None:
    bench = await started(dut, 8)
    count = min(2, bench.config.tokens)
    makers = (
        lambda: norm(bench, 11, count, "one"),
        lambda: drain(bench, Flag.SILU, 13, count, "one"),
        lambda: rope(bench, 2, 1, 4, count, "one"),
        lambda: norm_heads(bench, 2, 3, count, "one"),
    )
    for round_ in range(16):
        d = makers[round_ % 4]()
        await bench.begin(d, count=count)
        for _ in range(bench.rng.randint(1, 110)):
            await bench.cycle()
        dut.rst.value = 1
        await bench.cycle()
        dut.rst.value = 0
        bench.written = {bus: {} for bus in BUSES}
        for _ in range(bench.rng.choice((0, 3, 150))):
            assert not await bench.cycle()
        assert not any(bench.written.values()), "the unit writes after reset"
        bench.scales[:] = 0
        await bench.run(norm(bench, bench.rng.randint(1, 15), count, "one"), count=count)
        await bench.run(makers[1](), count=count)
        await bench.run(makers[2](), count=count)
        await bench.run(makers[3](), count=count)


@cocotb.test()
async def other_opcodes_are_ignored(dut: Any) -> None:
    bench = await started(dut, 9)
    for opcode in Opcode:
        if opcode not in (Opcode.NORM, Opcode.DRAIN, Opcode.ROPE):
            await bench.begin(Descriptor(opcode=opcode, vectors=4, heads=1, kv_heads=1, head_vectors=2))
            for _ in range(60):
                assert not await bench.cycle()
            assert not any(bench.written.values())


@cocotb.test()
async def overhead_is_small(dut: Any) -> None:
    bench = await started(dut, 10)
    count = bench.config.tokens
    ways = 128 // bench.config.width
    vectors = 100
    cycles = await bench.run(norm(bench, vectors, count, "one"), count=count)
    bound = max(2 * vectors + 38, vectors + 2 * ways + 84)  # the column sums of the token before
    assert cycles <= count * bound + 20, f"NORM: {cycles} cycles"
    for _ in range(TAIL):
        await bench.cycle()
    cycles = await bench.run(norm_heads(bench, 5, 4, 2, "one"), count=2)
    assert cycles <= 2 * 5 * (2 * 4 + 2 * ways + 150) + 20, f"NORM of heads: {cycles} cycles"
    cycles = await bench.run(drain(bench, Flag.ADD, 20, count, "one"), count=count)
    assert cycles <= count * 20 + 44, f"DRAIN: {cycles} cycles"
    cycles = await bench.run(rope(bench, 4, 2, 2, 3, "one"), count=3)
    assert cycles <= 3 * (2 * 16 + 33) + 20, f"ROPE: {cycles} cycles"


@cocotb.test()
async def tokens_follow_each_other(dut: Any) -> None:
    """As closely as `NormSteps`, `DrainSteps` and `RopeSteps` say, to the cycle."""
    bench = await started(dut, 14)
    peak = bench.config.width.bit_length() - 1
    stored = Flag.QUERIES | Flag.STORE
    for make, cadence in (
        (lambda: norm(bench, 120, 2, "one"), 2 * 120 + 30 + peak),
        (lambda: drain(bench, Flag.ADD, 20, 2, "one"), 20),
        (lambda: rope(bench, 4, 2, 2, 2, "one"), 16 + 2 + 41 + peak),
        (lambda: rope(bench, 8, 1, 4, 2, "one"), 40 + 40 + 16),
        (lambda: rope(bench, 4, 2, 2, 2, "one", stored, Format.NONE), 8 + 1),
    ):
        cycles = []
        for count in (1, 2):
            d = make()
            cycles.append(await bench.run(d, count=count))
            for _ in range(TAIL):
                await bench.cycle()
        assert cycles[1] - cycles[0] == cadence, f"{d.opcode.name}: {cycles}"


def simulate(config: BuildConfig, build_dir: Path, testcase: list[str] | None = None) -> None:
    run_cocotb(
        partial(VectorUnit, config),
        test_module=__name__,
        build_dir=build_dir,
        parameters={"config": config.to_dict()},
        testcase=testcase,
    )


@pytest.mark.parametrize("width", [4, 8])
def test_vector_unit(width: int, tmp_path: Path) -> None:
    simulate(config_of_width(width), tmp_path)


@pytest.mark.regress
def test_widest(tmp_path: Path) -> None:
    simulate(config_of_width(16), tmp_path, ["norm_of_all_sizes", "drain_in_all_modes", "rope_of_all_shapes"])


def test_too_wide() -> None:
    config = BuildConfig(beat_bytes=128, kv_block=64, rows=4, groups=2, builders=1)
    with pytest.raises(
        ConfigError, match=r"^beat_bytes must be .* vectors of 16 elements.*, not 128; the nearest legal value is 64"
    ):
        VectorUnit(config)
