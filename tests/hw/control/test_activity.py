"""Causes of an idle linear engine: one a cycle, the first that applies."""

from __future__ import annotations

import random
from typing import Any

import pytest
from amaranth.sim import Simulator

from hwgen.config import BuildConfig
from hwgen.hw.control.activity import EngineActivity
from hwgen.operators import Unit
from hwgen.registers import COUNTERS, ENGINE_COUNTERS

NAMES = [name for name, _ in ENGINE_COUNTERS]


def test_causes_are_counters() -> None:
    assert set(ENGINE_COUNTERS) <= set(COUNTERS)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_one_cause_a_cycle(groups: int) -> None:
    config = BuildConfig(groups=groups)
    dut = EngineActivity(config)
    rng = random.Random(groups)
    seen = dict.fromkeys(NAMES, 0)

    async def bench(ctx: Any) -> None:
        # Rows that the engine takes, a beat a cycle: with gang in one cycle, else in ``groups`` cycles of which it is the last.
        beats: list[tuple[bool, bool, bool]] = []
        while len(beats) < 3000:
            if rng.random() < 0.6:
                beats.append((False, False, False))
            elif rng.random() < 0.5:
                beats.append((True, True, True))
            else:
                beats += [(True, False, False)] * (groups - 1) + [(True, True, False)]
        expected: list[int] = []
        for works, row, gang in beats:
            busy, running = rng.random() < 0.95, rng.choice([0, 0, rng.getrandbits(len(Unit))])
            tables, no_row = rng.random() < 0.2, rng.random() < 0.2
            for name, value in (("busy", busy), ("running", running), ("row", row), ("gang", gang),
                                ("waits_for_tables", tables), ("waits_for_row", no_row)):
                ctx.set(getattr(dut, name), int(value))
            if works:
                cause = "engine_busy"
            elif running >> Unit.LINEAR & 1:
                cause = "engine_tables" if tables else "engine_rows" if no_row else "engine_pipeline"
            elif running >> Unit.VECTOR & 1:
                cause = "engine_idle_vector"
            elif running >> Unit.ATTENTION & 1:
                cause = "engine_idle_attention"
            else:
                cause = "engine_idle_loader" if running >> Unit.LOADER & 1 else "engine_idle_other"
            if busy:
                seen[cause] += 1
            expected.append(busy << NAMES.index(cause))
            if len(expected) > groups:
                assert ctx.get(dut.causes) == expected[-1 - groups]
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    assert min(seen.values()) > 0
