"""The steps of a stop, cycle by cycle."""

from __future__ import annotations

from typing import Any

import pytest
from amaranth.sim import Simulator

from hwgen.hw.control.stop import DRAINED_CYCLES, StopControl
from hwgen.operators import Unit

OUTPUTS = ("pause", "halt", "flush", "stopped", "ended")


def outputs_of(inputs: dict[str, set[int]], running: dict[int, int], cycles: int) -> dict[str, list[int]]:
    """Cycles in which each output is 1. ``inputs``: cycles in which each input is; ``running``: its value from a cycle on."""
    dut = StopControl()
    seen: dict[str, list[int]] = {name: [] for name in OUTPUTS}

    async def bench(ctx: Any) -> None:
        for cycle in range(cycles):
            for name, when in inputs.items():
                ctx.set(getattr(dut, name), int(cycle in when))
            if cycle in running:
                ctx.set(dut.running, running[cycle])
            for name in OUTPUTS:
                if ctx.get(getattr(dut, name)):
                    seen[name].append(cycle)
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return seen


@pytest.mark.parametrize("unit", list(Unit))
@pytest.mark.parametrize("drained", [5, 40])
def test_steps(unit: Unit, drained: int) -> None:
    """Units end, memory drains for a while, one cycle of reset, the end."""
    ended = 30
    begin = max(ended + 1, drained)
    seen = outputs_of({"request": {3, 9}, "drained": set(range(drained, 200))}, {0: 1 << unit, ended: 0}, 100)
    flush = begin + DRAINED_CYCLES
    assert seen == {
        "pause": list(range(4, flush + 2)), "halt": list(range(ended + 1, flush + 1)), "flush": [flush], "stopped": [flush + 1],
        "ended": [],
    }


def test_drained_must_last() -> None:
    gap = 20
    seen = outputs_of({"request": {3}, "drained": set(range(200)) - {gap}}, {}, 100)
    assert seen["flush"] == [gap + 1 + DRAINED_CYCLES]
    again = outputs_of({"request": {3, 60}, "drained": set(range(200))}, {}, 100)
    assert len(again["flush"]) == len(again["stopped"]) == 2


@pytest.mark.parametrize("finished", [3, 4])
def test_a_pass_that_ends_by_itself(finished: int) -> None:
    """``finished`` may come with the request or in the next cycle: it was decided before the pause."""
    seen = outputs_of({"request": {3}, "finished": {finished}, "drained": set(range(100))}, {}, 60)
    assert seen == {"pause": [4] if finished == 4 else [], "halt": [], "flush": [], "stopped": [], "ended": [finished]}


@pytest.mark.parametrize("requests", [set(), {3}, {2}])
def test_a_spoiled_pass_is_flushed_at_its_end(requests: set[int]) -> None:
    seen = outputs_of({"request": requests, "finished": {3}, "spoiled": {1, 2, 3}}, {}, 20)
    assert (seen["flush"], seen["ended"], seen["stopped"]) == ([4], [5], [])
