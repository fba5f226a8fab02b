"""Trace memory: entries against what was driven, the end of the room, and what a doorbell clears."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cocotb
import pytest
from cocotb.triggers import FallingEdge

from hwgen.config import BuildConfig
from hwgen.hw.control.trace import TraceMemory
from hwgen.operators import Unit
from hwgen.registers import TRACE_WORDS
from tests.cocotb_runner import cocotb_parameters, run_cocotb, start_clock
from tools.mutant_config import CONFIG

#: Everything that comes in.
INPUTS = ("clear", "starts", "retire", "retired__unit", "retired__tag", "retired__opcode", "retired__count", "level", "index")


class Bench:
    def __init__(self, dut: Any, config: BuildConfig) -> None:
        self.dut, self.config = dut, config
        self.generator = random.Random(config.trace_entries)

    def put(self, **values: int) -> None:
        for name, value in values.items():
            getattr(self.dut, name).value = value

    async def read(self) -> list[list[int]]:
        words = []
        for index in range(TRACE_WORDS * min(self.config.trace_entries, int(self.dut.count.value))):
            self.put(index=index)
            await FallingEdge(self.dut.clk)
            words.append(int(self.dut.word.value))
        return [words[i : i + TRACE_WORDS] for i in range(0, len(words), TRACE_WORDS)]

    async def one_pass(self, operators: int) -> list[list[int]]:
        """Entries of so many operators. Cycle 0 is that of the doorbell."""
        rng, config = self.generator, self.config
        rows = config.ring_beats // config.groups
        started: dict[int, tuple[int, int]] = {}
        expected: list[list[int]] = []
        cycle = 0
        while len(expected) < operators or not cycle:
            level = rng.choice([0, 1, rows, rng.randrange(rows + 1)])
            beats = min(level * config.groups, 0xFFFF)
            # What retires has meaning with its strobe alone.
            tag, opcode, count = rng.getrandbits(16), rng.randrange(11), rng.randint(1, config.chunk)
            self.put(clear=cycle == 0, level=level, starts=0, retire=0, retired__unit=0)
            self.put(retired__tag=tag, retired__opcode=opcode, retired__count=count)
            if cycle and started and rng.random() < 0.4:
                unit = rng.choice(list(started))
                begin, at_start = started.pop(unit)
                self.put(retire=1, retired__unit=1 << unit)
                expected.append([begin, cycle, tag | opcode << 16 | count << 24, at_start | beats << 16])
            idle = [u for u in Unit if u not in started]
            if cycle and idle and rng.random() < 0.4:
                unit = rng.choice(idle)
                started[unit] = (cycle, beats)
                self.put(starts=1 << unit)
            await FallingEdge(self.dut.clk)
            cycle += 1
            assert self.dut.count.value == min(len(expected), config.trace_entries)
        self.put(clear=0, starts=0, retire=0)
        return expected


@cocotb.test()
async def entries_of_passes(dut: Any) -> None:
    config = BuildConfig.from_dict(cocotb_parameters()["config"])
    bench = Bench(dut, config)
    bench.put(**dict.fromkeys(INPUTS, 0))
    await start_clock(dut)
    await FallingEdge(dut.clk)
    entries = config.trace_entries
    for operators in (0, 1, entries - 1, entries, entries + 5, 3):
        expected = await bench.one_pass(operators)
        assert await bench.read() == expected[:entries]


@pytest.mark.parametrize("config", [
    replace(CONFIG, trace_entries=37), replace(CONFIG, trace_entries=1), BuildConfig(trace_entries=16, ring_beats=1 << 18),
])
def test_entries(config: BuildConfig, tmp_path: Path) -> None:
    run_cocotb(partial(TraceMemory, config), test_module=__name__, build_dir=tmp_path, parameters={"config": config.to_dict()})
