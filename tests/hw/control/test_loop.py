"""The loop against a plain model: what it writes, and whether another pass begins, cycle by cycle."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import cocotb
from cocotb.triggers import FallingEdge, ReadOnly

from hwgen.hw.control.loop import LoopControl
from hwgen.registers import CHOSEN_TOKENS, STOP_TOKENS
from tests.cocotb_runner import run_cocotb, start_clock
from tools.mutant_config import CONFIG

#: Cycles behind the end of a pass, or of a run, in which the position of the next run is written, and its draw is asked for; and
#: cycles from the token to the end of the run.
POSITION, ASK, COMPARE = 2, 3, STOP_TOKENS + 1

#: A cycle that never comes.
NEVER = 1 << 30

#: An event: cycle, what, run, token.
Event = tuple[int, str, int, int]


@dataclass(frozen=True)
class Loop:
    """One doorbell. Cycles count from it."""

    limit: int
    #: Best tokens behind every pass, a token a run, and cycles of every pass.
    best: list[list[int]]
    lengths: list[int]
    #: Cycles that a draw takes.
    draw: int = 1
    stops: list[int] = field(default_factory=lambda: [0xFFFFFF] * STOP_TOKENS)
    #: Cycle of STOP, and cycle from which on the memory has failed.
    stop: int = NEVER
    spoiled: int = NEVER
    #: Cycle in which the limit becomes 1.
    last: int = NEVER


def cycles_of(loop: Loop) -> int:
    """Of a run."""
    return ASK + loop.draw + COMPARE


def played(loop: Loop) -> tuple[list[Event], list[int], list[int], list[int]]:
    """Events of a loop, tokens that it has chosen, cycles in which it chooses, and those in which passes end by themselves."""
    events: list[Event] = []
    chosen: list[int] = []
    choosing: list[int] = []
    ends: list[int] = []
    now = 0
    for number, (tokens, length) in enumerate(zip(loop.best, loop.lengths, strict=True), 1):
        now += length
        ends.append(now)
        if not loop.limit or loop.spoiled <= now or loop.stop <= now:
            events.append((now, "finished", 0, 0))
            break
        decision = now + cycles_of(loop) * len(tokens) + 1
        choosing += range(now + 1, min(decision, loop.stop) + 1)
        for run, token in enumerate(tokens):
            if loop.stop >= now + POSITION:
                events.append((now + POSITION, "position", run, 0))
            written = now + ASK + loop.draw
            if loop.stop >= written:
                events.append((written, "token", run, token))
                chosen.append(token)
            now += cycles_of(loop)
        now = decision
        ended = bool(set(tokens) & set(loop.stops)) or number >= (1 if loop.last < now else loop.limit)
        if loop.stop > now:
            events.append((now, "finished" if ended else "begin", 0, 0))
        if ended or loop.stop <= now:
            break
    return events, chosen, choosing, ends


async def one(dut: Any, loop: Loop) -> tuple[list[Event], list[int], list[int]]:
    """Of one loop, what :func:`played` says of the first three things."""
    events: list[Event] = []
    choosing: list[int] = []
    ends = played(loop)[3]
    last = max(ends[-1] + cycles_of(loop) * len(loop.best[0]) + 4, loop.stop % NEVER + 3)
    stop = asked = 0
    dut.runs.value = len(loop.best[0])
    for cycle in range(last):
        behind = sum(end < cycle for end in ends)
        dut.start.value = cycle == 0
        dut.ended.value = cycle in ends
        dut.stop.value = cycle == loop.stop
        dut.spoiled.value = cycle >= loop.spoiled
        dut.limit.value = 1 if cycle >= loop.last else loop.limit
        asked = asked + 1 if dut.ask.value else 0
        is_drawn = asked == loop.draw
        dut.drawn.value = is_drawn
        dut.candidate.value = loop.best[behind - 1][int(dut.run.value)] if is_drawn else 0xFEDCBA
        # as a memory has it: of the number of the cycle before
        dut.stops__number.value = loop.stops[stop] if stop < STOP_TOKENS else 0xABCDEF
        await ReadOnly()
        if dut.write.value:
            kind = "token" if dut.of_token.value else "position"
            events.append((cycle, kind, int(dut.run.value), int(dut.token.value) if kind == "token" else 0))
        events += [(cycle, name, 0, 0) for name in ("begin", "finished") if getattr(dut, name).value]
        if dut.choosing.value:
            choosing.append(cycle)
        stop = int(dut.stops__index.value)
        await FallingEdge(dut.clk)
    log = []
    for index in range(int(dut.count.value)):
        dut.index.value = index
        await FallingEdge(dut.clk)
        log.append(int(dut.chosen.value))
    return events, log, choosing


async def check(dut: Any, loops: list[Loop]) -> None:
    """One behind the other in one circuit."""
    for name in ("start", "ended", "stop", "spoiled", "limit", "runs", "drawn", "candidate", "stops__number", "index"):
        getattr(dut, name).value = 0
    await start_clock(dut)
    await FallingEdge(dut.clk)
    for number, loop in enumerate(loops):
        assert await one(dut, loop) == played(loop)[:3], (number, loop)


def drawn(random_: random.Random) -> Loop:
    """Few tokens, so that many of them stop."""
    runs, limit = random_.choice([1, 2, 3]), random_.choice([0, 1, 2, 3])
    most = max(1, limit)
    best = [[random_.randrange(1 << random_.choice([6, 20])) for _ in range(runs)] for _ in range(most)]
    stops = [random_.choice([0xFFFFFF, random_.randrange(64)]) for _ in range(STOP_TOKENS)]
    lengths = [random_.randrange(1, 9) for _ in range(most)]
    loop = Loop(limit, best, lengths, random_.choice([1, 2, 7]), stops)
    end = sum(lengths) + most * cycles_of(loop) * runs
    times = [name for name in ("stop", "spoiled", "last") if random_.random() < 0.3]
    return replace(loop, **{name: random_.randrange(1, end + 2) for name in times})


@cocotb.test()
async def random_loops(dut: Any) -> None:
    random_ = random.Random(1)
    loops = [drawn(random_) for _ in range(60)]
    kinds = [{e[1] for e in played(loop)[0]} for loop in loops]
    assert sum("begin" in kind for kind in kinds) > 10 and sum("finished" not in kind for kind in kinds) > 3
    await check(dut, loops)


@cocotb.test()
async def stop_in_every_cycle(dut: Any) -> None:
    """In a pass, in every state of the choice, and when the next pass would begin; the loop behind it is whole."""
    loops = []
    for limit in (1, 2):
        loop = Loop(limit, [[5, 6], [7, 8]][:limit], [4, 4][:limit], draw=3)
        end = limit * (4 + 2 * cycles_of(loop) + 1)
        loops += [each for cycle in range(1, end + 3) for each in (replace(loop, stop=cycle), loop)]
    await check(dut, loops)


@cocotb.test()
async def a_stop_token_of_any_run_in_any_register(dut: Any) -> None:
    loops = []
    for place in range(STOP_TOKENS):
        for run in range(3):
            best = [[11, 12, 13], [21, 22, 23]]
            stops = [0xFFFFFF] * STOP_TOKENS
            stops[place] = best[0][run]
            loops.append(Loop(2, best, [2, 2], stops=stops))
    assert all(played(loop)[0][-1][1] == "finished" and len(played(loop)[1]) == 3 for loop in loops)
    await check(dut, loops)


@cocotb.test()
async def the_host_makes_a_pass_the_last(dut: Any) -> None:
    """In every cycle up to the decision, which takes the limit of the cycle before."""
    loop = Loop(4, [[1, 2]] * 4, [3] * 4)
    await check(dut, [replace(loop, last=cycle) for cycle in range(1, 2 * (3 + 2 * cycles_of(loop) + 1) + 3)])


@cocotb.test()
async def as_many_passes_as_there_is_room_for(dut: Any) -> None:
    """Every token is kept, up to the last place."""
    random_ = random.Random(2)
    tokens = [[random_.randrange(1 << 20)] for _ in range(CHOSEN_TOKENS)]
    await check(dut, [Loop(CHOSEN_TOKENS, tokens, [1] * CHOSEN_TOKENS)])


def test_loop_control(tmp_path: Path) -> None:
    run_cocotb(partial(LoopControl, CONFIG), test_module=__name__, build_dir=tmp_path)
