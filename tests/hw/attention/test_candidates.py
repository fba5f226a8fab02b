"""CandidateList against a stable sort, with many equal logits."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import cocotb
import numpy as np
import pytest
from cocotb.triggers import ClockCycles

from hwgen.hw.attention.candidates import CandidateList
from tests.cocotb_runner import cocotb_parameters, run_cocotb, start_clock
from tests.hw.attention.bench import offer_entries

LISTS = 3


@cocotb.test()
async def sorts(dut: Any) -> None:
    size = cocotb_parameters()["size"]
    choice = random.Random(size)
    for name in ("clear", "list", "begin", "valid", "index", "logit", "entry"):
        getattr(dut, name).value = 0
    await start_clock(dut)
    kept: dict[int, list[tuple[int, int]]] = {}
    for turn in range(60):
        count = choice.choice([0, 1, size - 1, size, size + 1, 40])
        levels = [-3.4e38, -2.5, -1.0, 0.0, 1.5, 3.4e38] if turn % 2 else [choice.gauss(0, 1) for _ in range(50)]
        logits = np.array([choice.choice(levels) for _ in range(count)], np.float32)
        dut.list.value = number = choice.randrange(LISTS)
        await offer_entries(dut, choice, dut.logit, logits.view(np.uint32).tolist(), (size + 1) * (count + 1))
        order = np.argsort(-logits.astype(np.float64), kind="stable")[:size]
        kept[number] = [(int(i), int(logits[i].view(np.uint32))) for i in order]
        for of, expected in kept.items():
            for place, entry in enumerate(expected):
                dut.entry.value = of * size + place
                await ClockCycles(dut.clk, 2)
                assert (int(dut.index_of_entry.value), int(dut.logit_of_entry.value)) == entry, logits


@pytest.mark.parametrize("size", [1, 5])
def test_candidates(tmp_path: Path, size: int) -> None:
    run_cocotb(CandidateList(size, LISTS, 64), test_module=__name__, build_dir=tmp_path, parameters={"size": size})


@pytest.mark.parametrize("size", [0, -1, 2.0])
def test_refuses_bad_sizes(size: Any) -> None:
    with pytest.raises(ValueError, match="size must be at least 1, not"):
        CandidateList(size, 1, 8)
