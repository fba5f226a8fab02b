"""Random builds, models, memories and passes in lock step with the golden machine: a little of what `hwgen fuzz` runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hwgen.config import BuildConfig
from hwgen.decoder import BITNET
from hwgen.hw.verilog import cached_verilog
from hwgen.sim.dram import KV260, RANDOM
from hwgen.sw.devices.verilator import VerilatorDevice
from hwgen.sw.verification.case import MEMORY_BYTES, Case, CaseResult, Step, load_case, run_case, save_case
from hwgen.sw.verification.fuzz import fuzz, run_safely
from hwgen.sw.verification.interrupted import Fault, Interruption
from hwgen.sw.verification.random_case import random_cases, random_config
from hwgen.sw.verification.shrink import shrink

from .small import CONFIG, SHAPE, SmallDevice

#: Small builds: three ports, two vectors a beat and a small ring; the INT4 engine with a 4-bit cache and e4m3 queries. What begins
#: with noise is slow.
BUILDS = [(41, "ternary", 2, False), (3, "int4", 2, True)]
#: One port whose bursts are shorter than a row of the ring; both engines; scales of groups.
MORE_BUILDS = [(20, "ternary", 3, False), (7, "both", 2, False), (2, "grouped", 2, False)]


def simulated(case: Case) -> VerilatorDevice:
    """As `open_case`, compiled sooner and slower."""
    return VerilatorDevice(
        case.config, memory_bytes=MEMORY_BYTES, memory_base=case.base, timing=case.timing, optimize=False,
        noise=case.seed + 1 if case.noisy else None, verilog=cached_verilog(case.config),
    )


def check_build(seed: int, engine: str, cases: int, noisy: bool) -> None:
    for drawn in random_cases(seed, cases, random_config(seed, engine)):
        case = replace(drawn, noisy=noisy)
        result = run_case(case, simulated(case))
        assert not result.wrong, (case, result)
        assert result.passes == len(case.steps)


@pytest.mark.parametrize("build", BUILDS)
def test_random_build(build: tuple[int, str, int, bool]) -> None:
    check_build(*build)


@pytest.mark.regress
@pytest.mark.parametrize("build", MORE_BUILDS)
def test_more_random_builds(build: tuple[int, str, int, bool]) -> None:
    check_build(*build)


@pytest.mark.regress
@pytest.mark.parametrize("name", [
    "one_key_beat",  # HEAD stood still: rows of the short list that are one beat of keys
])
def test_cases_that_went_wrong_once(name: str) -> None:
    """As the fuzzer made them small."""
    case = load_case(Path(__file__).parent / "found" / f"{name}.json")
    result = run_case(case, simulated(case))
    assert not result.wrong and result.passes == len(case.steps)


@pytest.mark.regress
def test_builds_at_the_same_time() -> None:
    told: list[str] = []
    result = fuzz(1, 9, cases=1, jobs=2, progress=told.append)
    assert (result.builds, result.configurations, result.findings) == (2, 2, [])
    assert result.passes >= 2 and result.kinds["matrices ternary"] >= 1 and sum(result.bins.values()) > result.operators
    assert len(told) == 2 and told[-1] == f"2 builds, 2 configurations, {result.passes} passes"


#: Everything that a host does around passes, on the build that the system tests share.
STEPS = (
    Step(((0, 4, 1),)),
    Step(((0, 2, 0), (1, 3, 2)), interruption=Interruption(stop=900)),
    Step(((2, 1, 1), (0, 1, 1)), shared=(1, 2), interruption=Interruption(fault=Fault(0, False, 300, 2))),
    Step(((1, 5, 1),), parked=(0,), interruption=Interruption(fault=Fault(0, True, 0, 3))),
    Step(((0, 1, 1), (2, 1, 1), (1, 1, 1)), interruption=Interruption(stop=0)),
    Step(((2, 2, 1), (1, 1, 0)), interruption=Interruption(reset=2000), ports=1),
    Step(((2, 1, 1),), interruption=Interruption(damaged=30_000)),
)


def small_case(steps: tuple[Step, ...] = STEPS) -> Case:
    return Case(CONFIG, SHAPE, KV260, steps, 5, "exact", BITNET)


def test_what_a_host_does_around_passes() -> None:
    result = run_case(small_case(), SmallDevice(RANDOM(3)))
    assert not result.wrong and result.passes == len(STEPS)
    assert (result.stopped, result.failed, result.reset) == (2, 3, 1)


def test_a_planted_fault_is_found_and_made_small(tmp_path: Path) -> None:
    """A bit of a sum of products that is always wrong: one pass of one token through one layer shows it, here and when replayed."""

    def run(case: Case) -> CaseResult:
        device = SmallDevice(case.timing)
        (name,) = (name for name in device.accelerator.public_names() if name.endswith("linear.lane_0_0.sum_2_1_0"))
        device.accelerator.flip_each_cycle(name, 3, device.accelerator.cycle, 1 << 40)
        return run_safely(case, device)

    first = run(small_case())
    assert "operator LINEAR" in first.wrong and first.step == 0
    small, left = shrink(small_case(), first, run)
    assert [step.parts for step in small.steps] == [((0, 1, 0),)] and small.shape.layers == 1
    assert "operator LINEAR" in left.wrong
    save_case(small, tmp_path / "found.json")
    assert run(load_case(tmp_path / "found.json")).wrong == left.wrong


def broken_steps(case: Case) -> Iterator[int]:
    """Steps that a made-up machine gets wrong: a run of three tokens or more right behind a step that parked something."""
    for i, step in enumerate(case.steps[1:], 1):
        if case.steps[i - 1].parked and any(tokens >= 3 for _, tokens, _ in step.parts):
            yield i


def test_what_is_made_small_keeps_what_matters() -> None:
    def run(case: Case) -> CaseResult:
        step = next(broken_steps(case), None)
        return CaseResult(step=step or 0, wrong="" if step is None else "made up")

    config: BuildConfig = random_config(20)
    case = next(case for case in random_cases(20, 99, config) if any(broken_steps(case)))
    small, left = shrink(case, run(case), run, tries=500)
    assert left.wrong == "made up" and left.step == 1
    assert len(small.steps) == 2 and small.steps[0].parked and not small.steps[1].parked
    assert max(tokens for _, tokens, _ in small.steps[1].parts) <= 5 and len(small.steps[1].parts) == 1
    assert all(step.interruption is None for step in small.steps)
