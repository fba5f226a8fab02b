"""What counts as covered: every operator that is compiled is of a kind with bins, and a pass reaches those that it should."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from hwgen.descriptors import Descriptor, Fetch, Flag, Format, Opcode
from hwgen.sim.dram import PortStatistics
from hwgen.sw.devices.golden import GoldenDevice
from hwgen.sw.verification.functional import (
    BINS,
    KINDS,
    FunctionalCoverage,
    context_bins,
    kind_of,
    pass_bins,
    size_bins,
    stall_bins,
    summarise,
)
from hwgen.sw.verification.fuzz import ENGINES
from hwgen.sw.verification.lock_step import LockStep
from hwgen.sw.verification.random_case import random_cases, random_config
from tests.system.small import CONFIG, MEMORY_BYTES, SmallDevice, small_image

QUIET = PortStatistics(**dict.fromkeys(PortStatistics.__dataclass_fields__, 0))


@pytest.mark.parametrize("engine", ENGINES)
def test_every_kind_of_operator_has_bins(engine: str) -> None:
    config = random_config(7, engine)
    for case in random_cases(7, 3, config):
        program = case.image().descriptors
        for d in program:
            assert stall_bins(d, 999, 999, [QUIET], [QUIET])
        assert context_bins(config, program, [(0, 1), (config.kv_block - 1, 2)]) <= BINS


def test_a_kind_without_bins_is_told() -> None:
    with pytest.raises(KeyError, match=r"DRAIN none.*KINDS"):
        kind_of(Descriptor(opcode=Opcode.DRAIN))


@pytest.mark.parametrize(("d", "kind"), [
    (Descriptor(opcode=Opcode.EMBED, fetch=Fetch.STREAM), "biases"),
    (Descriptor(opcode=Opcode.NORM, flags=Flag.LOGITS | Flag.TO_QUERY), "to queries"),
    (Descriptor(opcode=Opcode.LINEAR, format=Format.GROUPED), "grouped again"),
    (Descriptor(opcode=Opcode.DRAIN, flags=Flag.STORE | Flag.CANDIDATES | Flag.LOGITS, format=Format.FP8), "candidates of int4"),
    (Descriptor(opcode=Opcode.DRAIN, flags=Flag.MULTIPLY | Flag.SHORTLIST | Flag.LOGITS), "short list"),
    (Descriptor(opcode=Opcode.DRAIN, flags=Flag.MULTIPLY | Flag.DIGITS | Flag.CANDIDATES), "candidates of digits"),
    (Descriptor(opcode=Opcode.ROPE, flags=Flag.KEYS | Flag.VALUES), "keys and values"),
    (Descriptor(opcode=Opcode.ROPE, flags=Flag.QUERIES | Flag.STORE, format=Format.UNMIX), "mix back alone"),
])
def test_kinds(d: Descriptor, kind: str) -> None:
    assert kind_of(d) == kind and kind in KINDS[d.opcode]


def bins(d: Descriptor, tokens: int, wanted: int = 0, **counts: int) -> set[str]:
    return {rest for _, _, rest in stall_bins(d, tokens, wanted, [QUIET, QUIET], [QUIET, replace(QUIET, **counts)])}


def test_stalls_and_tokens() -> None:
    d = Descriptor(opcode=Opcode.LINEAR, token_start=2, token_count=3)
    assert bins(d, 3) == {"ternary again, one, nothing"}
    assert bins(d, 4, read_address_stalled=1) == {"ternary again, several, addresses"}
    assert bins(d, 9, read_address_stalled=2, write_stalled=1) == {"ternary again, all, addresses", "ternary again, all, writes"}
    head = replace(d, flags=Flag.LOGITS)
    assert bins(head, 9, 3, read_waiting=5) == {"ternary again, one, nothing"}
    assert bins(replace(d, token_start=0, token_count=1), 1) == {"ternary again, one, nothing", "ternary again, all, nothing"}


def test_sizes() -> None:
    blocks = CONFIG.panel_rows // CONFIG.rows
    assert {b[2] for b in size_bins(CONFIG, Descriptor(opcode=Opcode.LINEAR, slices=1, row_blocks=blocks))} == {
        "slices, least", "row_blocks, most"}
    assert {b[2] for b in size_bins(CONFIG, Descriptor(opcode=Opcode.LINEAR, slices=2, row_blocks=CONFIG.block_step))} >= {
        "row_blocks, least"}
    mixed = Descriptor(opcode=Opcode.ROPE, flags=Flag.STORE, heads=1, kv_heads=1, head_vectors=2)
    assert size_bins(CONFIG, mixed) == set() != size_bins(CONFIG, replace(mixed, flags=Flag.NONE))


def test_places_of_runs() -> None:
    block, end = CONFIG.kv_block, CONFIG.max_context
    program = [Descriptor(opcode=Opcode.KV_WRITE, format=Format.INT4_VALUES)]

    def places(first: int, count: int) -> set[str]:
        return {rest.removeprefix("k8v4, ") for _, _, rest in context_bins(CONFIG, program, [(first, count)])}

    assert places(0, 1) == {"from the start"} | ({"to a block's end"} if block == 1 else set())
    assert places(block, 1) == {"from a block's start"}
    assert places(1, 1) == {"within a block"}
    assert places(block - 1, 2) == {"over a block's end"}
    assert places(1, block - 1) == {"to a block's end"}
    assert places(end - 1, 1) == {"to a block's end", "to the end"}
    assert pass_bins(2, 5, 5) == {("passes", "pass", "two runs, all")}
    assert pass_bins(1, 1, 1) == {("passes", "pass", "one run, one"), ("passes", "pass", "one run, all")}


def test_a_pass_reaches_its_bins_and_no_others() -> None:
    device = SmallDevice()
    coverage: list[FunctionalCoverage] = []
    golden = GoldenDevice(CONFIG, memory_bytes=MEMORY_BYTES)
    step = LockStep(CONFIG, small_image(), device, golden, retired=lambda tag: coverage[0].retired(tag))
    coverage.append(FunctionalCoverage(step.rtl_engine, device))
    coverage[0].begin([(0, 3, 1)])
    assert step.forward([5, 40, 3], logits=True) is not None
    reached = coverage[0].reached
    assert set(reached) <= BINS
    assert ("passes", "pass", "one run, one") in reached and ("contexts", "ATTENTION", "k8v8, int8, from the start") in reached
    assert {b[1] for b in reached if b[0] == "stalls"} == {d.opcode.name for d in small_image().descriptors}
    operators = sum(count for b, count in reached.items() if b[0] == "stalls" and b[1] == "ROTARY")
    assert operators >= 1 and not any(b[0] == "interrupted" for b in reached)
    coverage[0].interrupted("stopped")
    assert [b for b in reached if b[0] == "interrupted"] == [("interrupted", small_image().descriptors[-1].opcode.name, "stopped")]


def test_summary() -> None:
    some = sorted(BINS)[:3]
    summary = summarise(Counter(dict.fromkeys(some, 2)))
    assert summary["functional_bins"] == len(BINS) == sum(row["bins"] for row in summary["coverage"])
    assert summary["functional_reached"] == 3 == sum(row["reached"] for row in summary["coverage"])
    assert len(summary["not_reached"]) == len(BINS) - 3
    assert ": ".join(some[0]) not in summary["not_reached"]
