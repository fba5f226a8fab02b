"""TopK against a stable sort, with many equal keys."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import cocotb
import pytest

from hwgen.hw.attention.topk import TopK
from tests.cocotb_runner import cocotb_parameters, run_cocotb, start_clock
from tests.hw.attention.bench import offer_entries


@cocotb.test()
async def sorts(dut: Any) -> None:
    size = cocotb_parameters()["size"]
    choice = random.Random(size)
    for name in ("clear", "valid", "index", "key"):
        getattr(dut, name).value = 0
    await start_clock(dut)
    for turn in range(60):
        count = choice.choice([0, 1, size - 1, size, size + 1, 40])
        levels = [0, 1, 5, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF] if turn % 2 else [choice.getrandbits(32) for _ in range(50)]
        keys = [choice.choice(levels) for _ in range(count)]
        await offer_entries(dut, choice, dut.key, keys, size + 1)
        order = sorted(range(count), key=lambda i: (-keys[i], i))[:size]
        found = [int(getattr(dut, f"best__{i}").value) for i in range(size)]
        assert found == order + [0] * (size - len(order)), keys


@pytest.mark.parametrize("size", [1, 5])
def test_topk(tmp_path: Path, size: int) -> None:
    run_cocotb(TopK(size, 6), test_module=__name__, build_dir=tmp_path, parameters={"size": size})


@pytest.mark.parametrize("size", [0, -1, 2.0])
def test_refuses_bad_sizes(size: Any) -> None:
    with pytest.raises(ValueError, match="size must be at least 1, not"):
        TopK(size, 8)
