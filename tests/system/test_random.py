"""Random builds, models, passes and memories, in lock-step with the golden machine.

`HWGEN_FUZZ_SEEDS=first:last` runs those seeds instead of the two of every test run; each is one build with several models.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytest

from hwgen.sw.verilog import cached_verilog

from .cases import random_cases, random_config, run_case

#: Models, passes and memories that run on every build.
CASES = 8


#: Small builds: two groups and five rounds of tokens; four ports, four groups, two vectors a beat and a small ring.
SEEDS = (20, 24)


def seeds() -> Sequence[int]:
    wanted = os.environ.get("HWGEN_FUZZ_SEEDS")
    return range(*map(int, wanted.split(":"))) if wanted else SEEDS


@pytest.mark.parametrize("seed", seeds())
def test_random_build(seed: int) -> None:
    config = random_config(seed)
    verilog = cached_verilog(config)
    for case in random_cases(seed, CASES):
        outcome, device = run_case(case, verilog)
        accelerator = device.accelerator
        assert outcome.mismatches == 0, (case, str(outcome.first))
        assert outcome.passes == len(case.passes)
        assert accelerator.violation_count == 0, (case, accelerator.violations()[0])
        assert accelerator.error_count == 0, (case, accelerator.errors()[0])
