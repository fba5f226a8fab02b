"""CandidateList against a stable sort, with many equal keys: lists that begin anew and lists that go on."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path
from typing import Any

import cocotb
import numpy as np
import pytest
from cocotb.triggers import ClockCycles, ReadOnly, RisingEdge

from hwgen.hw.attention.candidates import CandidateList
from tests.cocotb_runner import cocotb_parameters, run_cocotb, start_clock
from tests.hw.attention.bench import pulse
from tools.mutant_config import CONFIG as MUTATED


async def offer(dut: Any, choice: random.Random, candidates: list[tuple[int, int]], most: int) -> None:
    """Offer ``(index, key)`` with random gaps, and wait until the list rests: ``most`` cycles."""
    for index, key in candidates:
        while choice.random() < 0.2:
            dut.valid.value = 0
            await RisingEdge(dut.clk)
        dut.valid.value, dut.index.value, dut.key.value = 1, index, key
        await RisingEdge(dut.clk)
    dut.valid.value = 0
    await RisingEdge(dut.clk)
    for _ in range(most):
        await ReadOnly()
        busy = int(dut.busy.value)
        await RisingEdge(dut.clk)
        if not busy:
            break
    assert not busy


def best(candidates: list[tuple[int, int]], size: int) -> list[tuple[int, int]]:
    keys = np.array([key for _, key in candidates], np.int64)
    return [candidates[i] for i in np.argsort(-keys, kind="stable")[:size]]


@cocotb.test()
async def sorts(dut: Any) -> None:
    size, lists, depth = (cocotb_parameters()[name] for name in ("size", "lists", "depth"))
    choice = random.Random(size)
    for name in ("clear", "resume", "list", "reserve", "valid", "index", "key", "entry"):
        getattr(dut, name).value = 0
    await start_clock(dut)
    offered: dict[int, list[tuple[int, int]]] = {}
    for turn in range(60):
        count = min(depth, choice.choice([0, 1, size - 1, size, size + 1, 40]))
        levels = [0, 1, 1 << 31, (1 << 31) + 1, (1 << 32) - 1] if turn // 4 % 2 else [choice.getrandbits(32) for _ in range(50)]
        dut.list.value = number = choice.randrange(lists)
        goes_on = number in offered and choice.random() < 0.6
        await pulse(dut, dut.resume if goes_on else dut.clear)
        candidates = offered[number] if goes_on else []
        new = [(len(candidates) + i, choice.choice(levels)) for i in range(count)]
        assert int(dut.free.value) == depth
        dut.reserve.value = count
        await RisingEdge(dut.clk)
        dut.reserve.value = 0
        await RisingEdge(dut.clk)
        assert int(dut.free.value) == depth - count
        offered[number] = candidates + new
        await offer(dut, choice, new, (size + 4) * (count + 1))
        for of, all_offered in offered.items():
            for place, entry in enumerate(best(all_offered, size)):
                dut.entry.value = of * size + place
                await ClockCycles(dut.clk, 2)
                assert (int(dut.index_of_entry.value), int(dut.key_of_entry.value)) == entry, (turn, of)


@pytest.mark.parametrize(("size", "lists", "depth"), [(1, 3, 64), (5, 3, 64), (MUTATED.topk, MUTATED.chunk, 2 * MUTATED.kv_block)])
def test_candidates(tmp_path: Path, size: int, lists: int, depth: int) -> None:
    parameters = {"size": size, "lists": lists, "depth": depth}
    run_cocotb(partial(CandidateList, size, lists, depth=depth), test_module=__name__, build_dir=tmp_path, parameters=parameters)


@pytest.mark.parametrize("size", [0, -1, 2.0])
def test_refuses_bad_sizes(size: Any) -> None:
    with pytest.raises(ValueError, match="size must be at least 1, not"):
        CandidateList(size, 1, depth=8)
