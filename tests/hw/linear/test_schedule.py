"""The table schedule: what the builders are told, and how it waits for activations and table copies."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import cocotb
import numpy as np
import pytest
from cocotb.triggers import ReadOnly, RisingEdge

from hwgen.config import BuildConfig
from hwgen.hw.linear.schedule import BUFFERS, TableSchedule, rounds_of
from hwgen.hw.linear.tables import WALK
from tests.cocotb_runner import cocotb_parameters, run_cocotb, start_clock


@cocotb.test()
async def builds(dut: Any) -> None:
    """Every entry of every round is written once a slice, in alternating copies, none before its copy is free."""
    config = BuildConfig.from_dict(cocotb_parameters()["config"])
    rounds = rounds_of(config)
    rng = np.random.default_rng(3)
    for name in ("start", "loaded", "release"):
        getattr(dut, name).value = 0
    await start_clock(dut)
    for slow_load, slow_use in ((0.0, 0.0), (0.97, 0.0), (0.0, 0.97), (0.9, 0.9)):
        dut.start.value = 1
        await RisingEdge(dut.clk)
        dut.start.value = 0
        slices = 8
        cleared: list[int] = []  # copies
        writes: list[tuple[int, int, int, int]] = []  # cycle, copy, round, entry
        releases: list[int] = []
        builts: list[int] = []
        taken = cycle = 0
        loaded = release = False
        while taken < slices or len(writes) < slices * rounds * len(WALK):
            loaded = loaded or (taken < slices and rng.random() >= slow_load)
            release = len(releases) < len(builts) and rng.random() >= slow_use
            dut.loaded.value, dut.release.value = int(loaded), int(release)
            await ReadOnly()
            if release:
                releases.append(cycle)
            if dut.taken.value == 1:
                assert loaded
                taken, loaded = taken + 1, False
            if dut.built.value == 1:
                builts.append(cycle)
            tables = int(dut.build__tables.value)
            if dut.build__clear.value == 1:
                # entry 0 of a copy, in every round, before any other
                assert tables == (1 << rounds) - 1 and dut.build__entry.value == 0 and not writes
                cleared.append(int(dut.build__buffer.value))
            elif tables:
                assert dut.build__enable.value == 1 and tables & tables - 1 == 0
                # a lane writes one cycle later
                entry = dut.build__entry.value.to_unsigned()
                writes.append((cycle + 1, int(dut.build__buffer.value), tables.bit_length() - 1, entry))
            await RisingEdge(dut.clk)
            cycle += 1
            assert cycle < 20000
        dut.loaded.value = dut.release.value = 0
        assert cleared == [0, 1]
        for s in range(slices):
            part = writes[s * rounds * len(WALK) : (s + 1) * rounds * len(WALK)]
            assert [w[1:] for w in part] == [(s % BUFFERS, r, step.entry) for r in range(rounds) for step in WALK]
            assert part[-1][0] <= builts[s] + TableSchedule.WRITE_LATENCY
            if s >= BUFFERS:
                assert part[0][0] >= releases[s - BUFFERS] + TableSchedule.RELEASE_LATENCY
        if not slow_load and not slow_use:
            assert set(np.diff(builts)) == {len(WALK) * rounds}


@pytest.mark.parametrize("builders", [2, 7, 14])
def test_schedule(tmp_path: Path, builders: int) -> None:
    config = BuildConfig(beat_bytes=16, rows=2, groups=1, builders=builders)
    run_cocotb(partial(TableSchedule, config), test_module=__name__, build_dir=tmp_path, parameters={"config": config.to_dict()})
