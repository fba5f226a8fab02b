"""Probes of the accumulators show what DRAIN asks for, and nothing of the request behind the last one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from amaranth.sim import Simulator

from hwgen.config import BuildConfig
from hwgen.descriptors import Opcode
from hwgen.hw.interfaces import ACCUMULATOR_LATENCY
from hwgen.hw.observe import Observer

#: Neither tokens nor vectors of a panel are a power of two.
CONFIG = replace(BuildConfig(), groups=1, lanes=3, rows=4, panel_rows=168, builders=1, beat_bytes=16, kv_block=16, chunk=16)


@pytest.mark.parametrize(("vector", "token", "shown"), [(41, 2, True), (42, 0, False), (0, 3, False)])
def test_requests_beyond_the_panel_are_not_shown(vector: int, token: int, shown: bool) -> None:
    assert (CONFIG.tokens, CONFIG.panel_vectors) == (3, 42)
    dut = Observer(CONFIG)

    async def bench(ctx: Any) -> None:
        for name, value in (("running", 1), ("opcode", Opcode.DRAIN)):
            ctx.set(getattr(dut, name), value)
        ctx.set(dut.accumulator.vector, vector)
        ctx.set(dut.accumulator.token, token)
        await ctx.tick().repeat(ACCUMULATOR_LATENCY)
        assert bool(ctx.get(dut.probe.acc.valid)) == shown

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
