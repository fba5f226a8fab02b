"""The first memory error of a pass, of several at the same time that of the lowest source."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path
from typing import Any

import cocotb
import pytest
from cocotb.triggers import FallingEdge

from hwgen.hw.control.errors import ErrorLatch
from tests.cocotb_runner import run_cocotb, start_clock

SOURCES = 4


@cocotb.test()
async def keeps_the_first(dut: Any) -> None:
    generator = random.Random(1)
    reports = [(getattr(dut, f"sources__{i}__valid"), getattr(dut, f"sources__{i}__resp")) for i in range(SOURCES)]
    for signal in (dut.clear, dut.operator, *(signal for report in reports for signal in report)):
        signal.value = 0
    await start_clock(dut)
    kept, alone = None, set()
    for cycle in range(1500):
        await FallingEdge(dut.clk)
        assert dut.valid.value == (kept is not None), cycle
        if kept is not None:
            assert (dut.source.value, dut.resp.value, dut.at.value) == kept, cycle
        often = generator.choice([0.05, 0.5])
        valid = [generator.random() < often for _ in range(SOURCES)]
        resp = [generator.randrange(4) for _ in range(SOURCES)]
        clear, operator = generator.random() < 0.2, generator.getrandbits(16)
        for i, report in enumerate(reports):
            report[0].value, report[1].value = valid[i], resp[i]
        dut.clear.value, dut.operator.value = clear, operator
        if kept is None and any(valid):
            first = valid.index(True)
            kept = (first, resp[first], operator)
            alone |= {first} if sum(valid) == 1 else set()
        if clear:
            kept = None
    assert alone == set(range(SOURCES))


def test_errors(tmp_path: Path) -> None:
    run_cocotb(partial(ErrorLatch, SOURCES), test_module=__name__, build_dir=tmp_path)


@pytest.mark.parametrize("sources", [0, -1])
def test_refuses_no_sources(sources: int) -> None:
    with pytest.raises(ValueError, match="sources must be at least 1, not"):
        ErrorLatch(sources)
