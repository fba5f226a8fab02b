"""Causes of an idle linear engine: one a cycle, the first that applies."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cocotb
import pytest
from cocotb.triggers import FallingEdge, ReadOnly

from hwgen.config import BuildConfig
from hwgen.hw.control.activity import EngineActivity
from hwgen.operators import Unit
from hwgen.registers import COUNTERS, ENGINE_COUNTERS
from tests.cocotb_runner import cocotb_parameters, run_cocotb, start_clock

NAMES = [name for name, _ in ENGINE_COUNTERS]


@dataclass(frozen=True)
class Cycle:
    """What comes in."""

    busy: bool = False
    running: int = 0
    row: bool = False
    gang: bool = False
    waits_for_tables: bool = False
    waits_for_row: bool = False

    def cause(self, works: bool) -> str:
        """Why the engine does nothing, unless it ``works`` on a beat."""
        units = {unit for unit in Unit if self.running >> unit & 1}
        if works:
            return "engine_busy"
        if Unit.LINEAR in units:
            return "engine_tables" if self.waits_for_tables else "engine_rows" if self.waits_for_row else "engine_pipeline"
        if Unit.VECTOR in units:
            return "engine_idle_vector"
        if Unit.ATTENTION in units:
            return "engine_idle_attention"
        return "engine_idle_loader" if Unit.LOADER in units else "engine_idle_other"


def some_cycles(generator: random.Random, groups: int, count: int) -> Iterator[tuple[Cycle, str]]:
    """Cycles of passes, each with its cause."""
    # Rows that the engine takes, a beat a cycle: with gang in one cycle, else in ``groups`` cycles of which it is the last.
    beats: list[tuple[bool, bool, bool]] = []
    while len(beats) < count:
        gang = generator.random() < 0.5
        if generator.random() < 0.6:
            beats.append((False, False, gang))
        elif gang:
            beats.append((True, True, True))
        else:
            beats += [(True, False, generator.random() < 0.5) for _ in range(groups - 1)] + [(True, True, False)]
    for works, row, gang in beats:
        running = generator.choice([0, 1 << generator.choice(list(Unit)), generator.getrandbits(len(Unit))])
        tables, no_row = generator.random() < 0.3, generator.random() < 0.3
        cycle = Cycle(generator.random() < 0.95, running, row, gang, tables, no_row)
        yield cycle, cycle.cause(works)


@cocotb.test()
async def one_cause_a_cycle(dut: Any) -> None:
    groups = cocotb_parameters()["groups"]
    for name, value in vars(Cycle()).items():
        getattr(dut, name).value = int(value)
    await start_clock(dut)
    seen = dict.fromkeys(NAMES, 0)
    expected, waited = [0] * groups, False
    for cycle, cause in some_cycles(random.Random(groups), groups, 3000):
        await FallingEdge(dut.clk)
        for name, value in vars(cycle).items():
            getattr(dut, name).value = int(value)
        dut.waits_for_row.value, waited = int(waited), cycle.waits_for_row  # told a cycle later
        await ReadOnly()
        seen[cause] += cycle.busy
        expected.append(cycle.busy << NAMES.index(cause))
        assert dut.causes.value == expected[-1 - groups], (len(expected), cycle, cause)
    assert min(seen.values()) > 0


def test_causes_are_counters() -> None:
    assert set(ENGINE_COUNTERS) <= set(COUNTERS)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_one_cause_a_cycle(groups: int, tmp_path: Path) -> None:
    dut = EngineActivity(BuildConfig(groups=groups))
    run_cocotb(dut, test_module=__name__, build_dir=tmp_path, parameters={"groups": groups})
