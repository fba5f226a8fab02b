"""Both linear engines behind one port, as the small machine has them in which faults are planted: what one computes, beside what
the other has left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cocotb

from hwgen.hw.linear.pair import EnginePair
from tools.mutant_config import CONFIG

from .bench import Bench
from .engine_cases import check_geometry


@cocotb.test()
async def turns(dut: Any) -> None:
    """Operators of either engine, the other's results beside them."""
    bench = Bench(dut)
    config, rng, jobs = bench.config, bench.rng, bench.jobs
    await bench.start()
    for tokens in (1, config.tokens):
        pair = [jobs.random(rng, config.panel_rows, config.max_inputs, tokens) for _ in range(2)]
        for job in pair:
            await bench.load(job)
            await bench.run(job)
        for job in pair:
            await bench.compare(job)


def test_pair(tmp_path: Path) -> None:
    cases = ["turns", "few_rows", "overlap", "preparation", "reset_in_the_middle"]
    check_geometry(EnginePair, "pair", __name__, CONFIG.to_dict(), cases, tmp_path)
