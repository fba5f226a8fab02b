"""Sequencer: operators start in program order, never before and always as soon as what they depend on has ended; skipping,
buses, retirement, replay and the end of a pass, with units that answer at random times."""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import cocotb
import pytest

from hwgen.config import BuildConfig
from hwgen.descriptors import Buffers, Descriptor, Fetch, Flag, Opcode, field_bits
from hwgen.hw.control.sequencer import Sequencer
from hwgen.operators import OPERATORS, Unit, active_tokens, has_more_rounds, must_wait, skipped
from tests.cocotb_runner import cocotb_parameters, run_cocotb
from tests.hw.axi.bench import Bench, Source
from tests.hw.memory.test_prefetch import random_descriptor

CONFIGS = {
    "default": BuildConfig(),
    "one_lane": BuildConfig(groups=1, lanes=1, chunk=4),
}
SEEN = ("opcode", "tag", "src", "row_blocks", "scalar0", "stream_address", "buffers")


@dataclass
class Execution:
    """When an operator ran and what was on its bus."""

    bus: dict[str, int]
    hold: int
    start: int
    done: int = -1
    retired: int = -1


class Machine:
    """Source of descriptors and five units that answer after a random time. Logs every cycle."""

    def __init__(self, bench: Bench, rate: float, times: list[int]) -> None:
        self.bench, self.dut, self.times = bench, bench.dut, times
        self.source = Source(bench, "descriptors", rate=rate)
        self.cycle = 0
        self.offered: list[int] = []
        self.executions: list[Execution] = []
        self.order: list[int] = []
        self.left: dict[Unit, int] = {}
        self.present: dict[Unit, Execution] = {}
        self.rewinds: list[int] = []
        self.holds: list[int] = []
        self.finished: list[int] = []
        self.fixed: dict[int, int] = {}
        self.dut.dones.value = 0
        bench.agents.append(self)

    def bus(self, unit: Unit) -> dict[str, int]:
        names = ("first", "count", "tokens", "runs", "gang", "write_logits", "logits")
        values = {name: int(getattr(self.dut, f"ops__{unit.value}__{name}").value) for name in names}
        word = int(getattr(self.dut, f"ops__{unit.value}__descriptor").value)
        for name in SEEN:
            first, width = field_bits()[name]
            values[name] = word >> first & ((1 << width) - 1)
        return values

    def drive(self) -> None:
        self.cycle += 1
        dones, running = 0, int(self.dut.running.value)
        for unit in Unit:
            if unit in self.left:
                self.left[unit] -= 1
                if self.left[unit] == 0:
                    dones |= 1 << unit
                    self.present[unit].done = self.cycle
                    del self.left[unit]
            elif not running >> unit & 1:
                dones |= self.bench.random.getrandbits(1) << unit  # strobes of an idle unit mean nothing
        self.dut.dones.value = dones

    def sample(self) -> None:
        if self.source.offered and (not self.offered or len(self.offered) < self.source_taken() + 1):
            self.offered.append(self.cycle)
        starts, running = int(self.dut.starts.value), int(self.dut.running.value)
        assert starts & (starts - 1) == 0, "two starts at a time"
        if self.dut.retire.value:
            unit = Unit(int(self.dut.retired__unit.value).bit_length() - 1)
            assert int(self.dut.retired__unit.value) == 1 << unit
            ended = self.present.pop(unit)
            assert ended.done >= 0, "retired before done"
            ended.retired = self.cycle
            tag, opcode, count = (int(getattr(self.dut, f"retired__{name}").value) for name in ("tag", "opcode", "count"))
            assert (tag, opcode, count) == tuple(ended.bus[name] for name in ("tag", "opcode", "count"))
            self.order.append(tag)
        if starts:
            unit = Unit(starts.bit_length() - 1)
            assert unit not in self.present, "started before the operator before it retired"
            execution = Execution(self.bus(unit), int(self.dut.hold.value), self.cycle)
            assert int(self.dut.tag.value) == execution.bus["tag"]
            self.present[unit] = execution
            self.executions.append(execution)
            self.left[unit] = self.fixed.get(execution.bus["tag"], 0) or self.bench.random.choice(self.times)
        assert running == sum(1 << unit for unit in self.present)
        for unit, execution in self.present.items():
            assert self.bus(unit) == execution.bus, "the bus moved"
        if self.dut.rewind.value:
            self.rewinds.append(self.cycle)
        if self.dut.hold.value:
            self.holds.append(self.cycle)
        if self.dut.finished.value:
            assert not self.present
            self.finished.append(self.cycle)

    def source_taken(self) -> int:
        return self.total - len(self.source.items)

    async def run(self, program: list[Descriptor]) -> None:
        for log in (self.offered, self.executions, self.order, self.rewinds, self.holds, self.finished):
            log.clear()
        words = [int.from_bytes(d.pack(), "little") for d in [*program, Descriptor()]]
        self.total = len(words)
        self.source.items.extend(words)
        await self.bench.until(lambda: not self.source.items and not self.present, 8000)
        await self.bench.step(4)


def executed(program: list[Descriptor], tokens: int, wanted: int) -> list[tuple[int, Descriptor]]:
    return [(index, d) for index, d in enumerate(program) if not skipped(d, tokens, wanted)]


def check_times(machine: Machine, chosen: list[tuple[int, Descriptor]], program: list[Descriptor]) -> None:
    """Each start is exactly when its contract says; so it is never too early, and at most four cycles late."""
    runs = machine.executions
    ended = sorted(((run.done + 1, i) for i, run in enumerate(runs)), key=lambda pair: pair)
    # Retirement: in each cycle the first in program order of those whose done came a cycle before at least.
    waiting: list[int] = []
    cycle, expected = 0, {}
    while ended or waiting:
        cycle = cycle if waiting else ended[0][0]
        while ended and ended[0][0] <= cycle:
            waiting.append(ended.pop(0)[1])
        first = min(waiting)
        waiting.remove(first)
        expected[first] = cycle + 1
        cycle += 1
    assert [run.retired for run in runs] == [expected[i] for i in range(len(runs))]
    for later, run in enumerate(runs):
        index, d = chosen[later]
        blockers = [runs[i] for i in range(later) if must_wait(d, program[chosen[i][0]])]
        times = [b.retired + 1 for b in blockers]
        times.append(machine.offered[index] + 3)
        if later:
            times.append(runs[later - 1].start + 2)
        assert run.start == max(times), f"operator {later} ({d.opcode.name}) started at {run.start}, not {max(times)}"
        assert all(run.start > b.done for b in blockers)


@cocotb.test()
async def executes(dut: Any) -> None:
    config = BuildConfig.from_dict(cocotb_parameters()["config"])
    overlapped = 0
    for seed, rate, choice in ((1, 0.7, [1, 1, 2, 9]), (2, 1.0, [1, 2, 3, 4, 5, 40]), (3, 1.0, [1, 60, 61, 62, 63])):
        bench = Bench(dut, seed)
        g = bench.random
        machine = Machine(bench, rate, choice)
        dut.quiet.value = 0
        await bench.start()
        for tokens in [1, config.chunk, *(g.randint(1, config.chunk) for _ in range(5))]:
            program = [
                replace(random_descriptor(config, g), tag=i, scalar0=0.0, buffers=Buffers(g.randrange(8))) for i in range(60)
            ]
            wanted, runs = g.choice([0, tokens, g.randint(0, tokens)]), g.randint(1, tokens)
            write_logits, address = g.randrange(2), g.randrange(2**40)
            dut.current__tokens.value = tokens
            dut.current__runs.value = runs
            dut.current__wanted.value = wanted
            dut.write_logits.value = write_logits
            dut.logits.value = address
            await machine.run(program)
            await bench.step(20)
            assert not machine.finished
            dut.quiet.value = 1
            await bench.step(6)
            dut.quiet.value = 0
            assert len(machine.finished) == 1

            chosen = executed(program, tokens, wanted)
            assert len(machine.executions) == len(chosen)
            rewinds, held = [], []
            for run, (_, d) in zip(machine.executions, chosen, strict=True):
                active = active_tokens(d, tokens, wanted)
                first, count = active.start, len(active)
                assert run.bus == {
                    "first": first, "count": count, "tokens": tokens, "runs": runs, "gang": int(count <= config.lanes),
                    "write_logits": write_logits, "logits": address,
                    "opcode": d.opcode, "tag": d.tag, "src": d.src, "row_blocks": d.row_blocks, "scalar0": 0,
                    "stream_address": d.stream_address, "buffers": d.buffers,
                }
                if d.opcode is Opcode.LINEAR and d.flags & Flag.REPLAY and has_more_rounds(d, tokens, wanted):
                    held += range(run.start, run.done + 1)
                    rewinds.append(run.done + 1)
            assert machine.rewinds == rewinds and machine.holds == held
            check_times(machine, chosen, program)
            # The ring has one reader at a time, and a rewind comes before the next one starts.
            ring_readers = {opcode for opcode, row in OPERATORS.items() if row.fetches != (Fetch.NONE,)}
            readers = [r for r in machine.executions if r.bus["opcode"] in ring_readers]
            for before, after in zip(readers, readers[1:], strict=False):
                assert after.start > before.done + 1
            overlapped += sum(a.done > b.start for a, b in zip(machine.executions, machine.executions[1:], strict=False))
    assert overlapped > 30, "operators should have run at the same time"


@cocotb.test()
async def pairs(dut: Any) -> None:
    """Every operator behind every other, with every choice of halves: it overtakes exactly when the hazard table lets it."""
    bench = Bench(dut, 4)
    machine = Machine(bench, 1.0, [1])
    machine.fixed = {0: 30}
    dut.quiet.value = 1
    dut.current__tokens.value = 1
    dut.current__wanted.value = 1
    await bench.start()
    for earlier in OPERATORS:
        for later in OPERATORS:
            halves = range(4) if Opcode.LINEAR in (earlier, later) else (0, Buffers.PARAMETER) if later is Opcode.PARAM else (0,)
            for first_half, second_half in itertools.product(halves, halves):
                program = [
                    Descriptor(opcode=earlier, token_count=1, tag=0, buffers=Buffers(first_half)),
                    Descriptor(opcode=later, token_count=1, tag=1, buffers=Buffers(second_half)),
                ]
                await machine.run(program)
                first, second = machine.executions
                name = f"{later.name} after {earlier.name}, halves {first_half} and {second_half}"
                if must_wait(program[1], program[0]):
                    assert second.start == first.retired + 1 == first.done + 3, name
                else:
                    assert second.start == first.start + 2, name
                    assert second.done < first.done, name
                assert machine.finished and machine.finished[0] > first.retired, name


@cocotb.test()
async def end_waits_for_all_units(dut: Any) -> None:
    bench = Bench(dut, 5)
    machine = Machine(bench, 1.0, [1])
    dut.quiet.value = 1
    dut.current__tokens.value = 1
    await bench.start()
    program = [Descriptor(opcode=o, token_count=1, tag=i) for i, o in enumerate((Opcode.KV_WRITE, Opcode.LINEAR, Opcode.NORM))]
    program[2] = replace(program[2], buffers=Buffers.ACTIVATION)
    for slow in range(3):
        machine.fixed = {slow: 50}
        await machine.run(program)
        last = max(run.retired for run in machine.executions)
        assert machine.executions[slow].retired == last
        assert machine.finished == [last + 2]
        assert machine.order == [*(i for i in range(3) if i != slow), slow]


@cocotb.test()
async def one_retires_a_cycle(dut: Any) -> None:
    """Units that end together retire in program order."""
    bench = Bench(dut, 6)
    machine = Machine(bench, 1.0, [1])
    dut.quiet.value = 1
    dut.current__tokens.value = 1
    await bench.start()
    program = [Descriptor(opcode=Opcode.KV_WRITE, token_count=1, tag=7), Descriptor(opcode=Opcode.LINEAR, token_count=1, tag=8),
               Descriptor(opcode=Opcode.DRAIN, token_count=1, tag=9, buffers=Buffers.ACCUMULATOR)]
    machine.fixed = {7: 20, 8: 18, 9: 16}
    await machine.run(program)
    dones = [run.done for run in machine.executions]
    assert len(set(dones)) == 1
    assert [run.retired for run in machine.executions] == [dones[0] + 2, dones[0] + 3, dones[0] + 4]


@cocotb.test()
async def pairs_that_end_together(dut: Any) -> None:
    """Of any two that may run at the same time the one that started first retires first, whichever it is."""
    bench = Bench(dut, 10)
    machine = Machine(bench, 1.0, [1])
    machine.fixed = {0: 12, 1: 10}
    dut.quiet.value = 1
    dut.current__tokens.value = 1
    dut.current__wanted.value = 1
    await bench.start()
    ended = set()
    for earlier, later in itertools.product(OPERATORS, OPERATORS):
        program = [
            Descriptor(opcode=earlier, token_count=1, tag=0), Descriptor(opcode=later, token_count=1, tag=1, buffers=Buffers(7)),
        ]
        if not must_wait(program[1], program[0]):
            await machine.run(program)
            first, second = machine.executions
            assert first.done == second.done and second.retired == first.retired + 1, (earlier, later)
            ended.add((OPERATORS[earlier].unit, OPERATORS[later].unit))
    both = [(Unit.KV_WRITER, Unit.LOADER), (Unit.KV_WRITER, Unit.LINEAR), (Unit.VECTOR, Unit.LINEAR)]
    assert {*both, *((later, earlier) for earlier, later in both)} <= ended


@cocotb.test()
async def skips_while_an_operator_waits(dut: Any) -> None:
    """What the pass does not need costs no time behind an operator that waits."""
    bench = Bench(dut, 7)
    machine = Machine(bench, 1.0, [1])
    dut.quiet.value = 1
    dut.current__tokens.value = 1
    await bench.start()
    machine.fixed = {0: 50}
    linear = Descriptor(opcode=Opcode.LINEAR, token_count=1)
    skipped = replace(linear, token_start=1)
    await machine.run([linear, replace(linear, tag=1), *[skipped] * 15, Descriptor(opcode=Opcode.KV_WRITE, token_count=1, tag=2)])
    first, second, third = machine.executions
    assert second.start == first.retired + 1
    assert third.start == second.start + 2


@cocotb.test()
async def unknown_opcodes_pass(dut: Any) -> None:
    bench = Bench(dut, 2)
    machine = Machine(bench, 1.0, [1])
    dut.quiet.value = 1
    dut.current__tokens.value = 1
    await bench.start()
    unknown = int.from_bytes(Descriptor(opcode=Opcode.END, token_count=1).pack(), "little") | 200
    machine.total = 3
    machine.source.items.extend([unknown, int.from_bytes(Descriptor(opcode=Opcode.PARAM, token_count=1).pack(), "little"), 0])
    await bench.until(lambda: bool(machine.finished), 60)
    assert [run.bus["opcode"] for run in machine.executions] == [Opcode.PARAM]


@cocotb.test()
async def a_pause_and_a_flush(dut: Any) -> None:
    """Nothing starts or ends in a pause; what was taken is dropped with the flush, and the next program starts as ever."""
    bench = Bench(dut, 9)
    machine = Machine(bench, 1.0, [10])
    dut.quiet.value = 1
    dut.current__tokens.value = 1
    await bench.start()
    dut.pause.value = 1
    program = [Descriptor(opcode=Opcode.LINEAR, token_count=1, tag=3), Descriptor(opcode=Opcode.DRAIN, token_count=1, tag=4)]
    for flushed in (program, []):  # an operator, END
        machine.total = len(flushed) + 1
        machine.source.items.extend([*(int.from_bytes(d.pack(), "little") for d in flushed), 0])
        await bench.step(20)
        assert not machine.executions and not machine.finished and not int(dut.running.value)
        machine.source.items.clear()
        machine.source.offered = False
        dut.descriptors__valid.value = 0
        dut.flush.value = 1
        await bench.step()
        dut.flush.value = 0
        await bench.step(5)
    dut.pause.value = 0
    await bench.step(10)
    assert not machine.executions and not machine.finished
    machine.times = [3]
    await machine.run([Descriptor(opcode=Opcode.LINEAR, token_count=1, tag=5)])
    assert [run.bus["tag"] for run in machine.executions] == [5] and len(machine.finished) == 1


@cocotb.test()
async def reset_forgets(dut: Any) -> None:
    """Reset while units run and an operator waits: the next program starts as if nothing had been."""
    bench = Bench(dut, 8)
    machine = Machine(bench, 1.0, [40])
    dut.quiet.value = 1
    dut.current__tokens.value = BuildConfig.from_dict(cocotb_parameters()["config"]).chunk
    await bench.start()
    program = [Descriptor(opcode=Opcode.LINEAR, flags=Flag.REPLAY, token_count=1, tag=3)] * 2
    machine.total = 2
    machine.source.items.extend(int.from_bytes(d.pack(), "little") for d in program)
    await bench.step(12)
    assert len(machine.executions) == 1 and machine.present and int(dut.hold.value)
    machine.source.items.clear()
    machine.source.offered = False
    machine.left.clear()
    machine.present.clear()
    dut.descriptors__valid.value = 0
    dut.dones.value = 0
    await bench.reset()
    assert not int(dut.hold.value) and not int(dut.running.value)
    machine.times = [3]
    await machine.run([Descriptor(opcode=Opcode.LINEAR, token_count=1, tag=5)])
    assert [run.bus["tag"] for run in machine.executions] == [5] and len(machine.finished) == 1


@pytest.mark.parametrize("name", CONFIGS)
def test_sequencer(name: str, tmp_path: Path) -> None:
    run_cocotb(partial(Sequencer, CONFIGS[name]), test_module=__name__, build_dir=tmp_path,
               parameters={"config": asdict(CONFIGS[name])})
