"""The steps of a stop, cycle by cycle: by hand, and at random against what the contract says one step after the other."""

from __future__ import annotations

import random
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cocotb
from cocotb.triggers import FallingEdge, ReadOnly

from hwgen.hw.control.stop import DRAINED_CYCLES, StopControl
from hwgen.operators import Unit
from tests.cocotb_runner import run_cocotb, start_clock

OUTPUTS = ("pause", "halt", "flush", "stopped", "ended")


@dataclass(frozen=True)
class Cycle:
    """What comes in."""

    request: bool = False
    finished: bool = False
    spoiled: bool = False
    running: int = 0
    drained: bool = False


def expected() -> Generator[set[str], Cycle, None]:
    """Is sent what comes in in a cycle, and yields the names of the outputs that are 1 in it."""
    now = yield set()
    while True:
        pause: set[str] = set()
        if now.request and not now.finished:  # finish
            now, pause = (yield pause), {"pause"}
            while now.running and not now.finished:
                now = yield pause
        if now.finished and now.spoiled:
            yield pause
            yield {"flush"}
            now = yield {"ended"}
        elif now.finished:
            now = yield {*pause, "ended"}
        elif pause:
            now = yield pause
            quiet = 0
            while quiet < DRAINED_CYCLES:  # drain
                quiet = quiet + 1 if now.drained else 0
                now = yield {"pause", "halt"}
            yield {"pause", "halt", "flush"}
            now = yield {"pause", "stopped"}
        else:
            now = yield pause


async def begin(dut: Any) -> None:
    for name, value in vars(Cycle()).items():
        getattr(dut, name).value = int(value)
    await start_clock(dut)


async def play(dut: Any, cycles: Iterable[Cycle]) -> list[set[str]]:
    """Names of the outputs that are 1 in each cycle."""
    found = []
    for cycle in cycles:
        await FallingEdge(dut.clk)
        for name, value in vars(cycle).items():
            getattr(dut, name).value = int(value)
        await ReadOnly()
        found.append({name for name in OUTPUTS if getattr(dut, name).value})
    return found


async def outputs_of(dut: Any, inputs: dict[str, set[int]], running: dict[int, int], cycles: int) -> dict[str, list[int]]:
    """Cycles in which each output is 1. ``inputs``: cycles in which each input is; ``running``: its value from a cycle on."""
    units, played = 0, []
    for number in range(cycles):
        units = running.get(number, units)
        played.append(Cycle(running=units, **{name: number in when for name, when in inputs.items()}))
    found = await play(dut, played)
    return {name: [number for number, names in enumerate(found) if name in names] for name in OUTPUTS}


@cocotb.test()
async def steps(dut: Any) -> None:
    """Units end, memory drains for a while, one cycle of reset, the end."""
    await begin(dut)
    ended = 30
    for unit in Unit:
        for drained in (5, 40):
            quiet = max(ended + 1, drained)
            seen = await outputs_of(dut, {"request": {3, 9}, "drained": set(range(drained, 200))}, {0: 1 << unit, ended: 0}, 100)
            flush = quiet + DRAINED_CYCLES
            assert seen == {
                "pause": list(range(4, flush + 2)), "halt": list(range(ended + 1, flush + 1)), "flush": [flush],
                "stopped": [flush + 1], "ended": [],
            }


@cocotb.test()
async def drained_must_last(dut: Any) -> None:
    await begin(dut)
    gap = 20
    seen = await outputs_of(dut, {"request": {3}, "drained": set(range(200)) - {gap}}, {}, 100)
    assert seen["flush"] == [gap + 1 + DRAINED_CYCLES]
    again = await outputs_of(dut, {"request": {3, 60}, "drained": set(range(200))}, {}, 100)
    assert len(again["flush"]) == len(again["stopped"]) == 2


@cocotb.test()
async def a_pass_that_ends_by_itself(dut: Any) -> None:
    """``finished`` may come with the request or in the next cycle: it was decided before the pause."""
    await begin(dut)
    for finished in (3, 4):
        seen = await outputs_of(dut, {"request": {3}, "finished": {finished}, "drained": set(range(100))}, {}, 60)
        assert seen == {"pause": [4] if finished == 4 else [], "halt": [], "flush": [], "stopped": [], "ended": [finished]}


@cocotb.test()
async def a_spoiled_pass_is_flushed_at_its_end(dut: Any) -> None:
    await begin(dut)
    none: set[int] = set()
    for requests in (none, {3}, {2}):
        seen = await outputs_of(dut, {"request": requests, "finished": {3}, "spoiled": {1, 2, 3}}, {}, 20)
        assert (seen["flush"], seen["ended"], seen["stopped"]) == ([4], [5], [])


def some_cycles(generator: random.Random) -> Iterable[Cycle]:
    """A hundred of them, in which some things are rare and others usual."""
    often = {name: generator.choice([0.01, 0.1, 0.5, 0.97]) for name in ("request", "finished", "spoiled", "running", "drained")}
    if generator.random() < 0.6:
        often["finished"] = 0
    for _ in range(100):
        happens = {name: generator.random() < share for name, share in often.items()}
        yield Cycle(**{**happens, "running": happens["running"] and generator.randrange(1, 1 << len(Unit))})


@cocotb.test()
async def whatever_comes_in(dut: Any) -> None:
    await begin(dut)
    generator = random.Random(1)
    cycles = [cycle for _ in range(60) for cycle in some_cycles(generator)]
    model = expected()
    next(model)
    wanted = [model.send(cycle) for cycle in cycles]
    assert all(sum(name in names for names in wanted) > 20 for name in OUTPUTS)
    for number, (found, names) in enumerate(zip(await play(dut, cycles), wanted, strict=True)):
        assert found == names, (number, cycles[number])


def test_stop_control(tmp_path: Path) -> None:
    run_cocotb(partial(StopControl), test_module=__name__, build_dir=tmp_path)
