"""Random builds, models, passes and memories, in lock-step with the golden machine.

`HWGEN_FUZZ_SEEDS=first:last` runs those seeds instead of the two of every test run; each is one build with several models.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytest

from hwgen.config import BuildConfig
from hwgen.hw.verilog import cached_verilog

from .cases import random_cases, random_config, run_case

FUZZING = "HWGEN_FUZZ_SEEDS" in os.environ

#: Models, passes and memories that run on every build; fewer where a simulation is slow.
CASES = 8
FEW_CASES = CASES if FUZZING else 2

#: Engine whose builds begin with noise in every run of the tests; when fuzzing all do. Such a simulation is slow.
NOISY_ENGINE = "int4"


#: Small builds: one port whose bursts are shorter than a row of the ring; three ports, two vectors a beat and a small ring.
SEEDS = (20, 41)
SLOW_SEED = 41


#: INT4 engine: 4-bit cache and e4m3 queries; with both engines, the one or the other.
INT4_SEEDS = {"int4": (3,), "both": (7,)}


def seeds(usual: Sequence[int] = SEEDS) -> Sequence[int]:
    wanted = os.environ.get("HWGEN_FUZZ_SEEDS")
    return range(*map(int, wanted.split(":"))) if wanted else usual


@pytest.mark.parametrize("seed", seeds())
def test_random_build(seed: int) -> None:
    check_build(seed, random_config(seed), FEW_CASES if seed == SLOW_SEED else CASES)


@pytest.mark.parametrize(("seed", "engine"), [(s, e) for e in ("int4", "both") for s in seeds(INT4_SEEDS[e])])
def test_random_build_with_int4_engine(seed: int, engine: str) -> None:
    """Llama models in every number format; on builds with both engines, ternary ones in turn with them."""
    check_build(seed, random_config(seed, engine), FEW_CASES)


def check_build(seed: int, config: BuildConfig, cases: int) -> None:
    verilog = cached_verilog(config)
    for case in random_cases(seed, cases, config):
        outcome, device = run_case(case, verilog, noisy=FUZZING or config.engine == NOISY_ENGINE)
        accelerator = device.accelerator
        assert outcome.mismatches == 0, (case, str(outcome.first))
        assert outcome.passes == len(case.passes)
        assert accelerator.violation_count == 0, (case, accelerator.violations()[0])
        assert accelerator.error_count == 0, (case, accelerator.errors()[0])
