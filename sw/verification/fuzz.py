"""Whole-machine fuzzing: random builds, models, memories and passes, as long as there is time; what goes wrong is made small."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

from ...config import BuildConfig
from ...errors import HwgenError
from .case import Case, CaseResult, open_case, run_case
from .functional import Bin, summarise
from .random_case import random_cases, random_config
from .shrink import shrink

if TYPE_CHECKING:
    from ..devices.verilator import VerilatorDevice

__all__ = ["CASES_PER_BUILD", "Finding", "FuzzResult", "builds", "fuzz", "run_build", "run_safely"]

#: Models, memories and passes that run on a build before the next one: building takes as long as a dozen.
CASES_PER_BUILD = 16

ENGINES = ("ternary", "both", "int4", "grouped")


@dataclass(frozen=True)
class Finding:
    """A case that goes wrong, made small."""

    case: Case
    wrong: str
    #: Steps of the case as it was found.
    steps_before: int


@dataclass
class FuzzResult:
    """What ran. ``configurations`` counts different combinations of build, model and memory."""

    seconds: float = 0
    builds: int = 0
    configurations: int = 0
    passes: int = 0
    stopped: int = 0
    failed: int = 0
    reset: int = 0
    operators: int = 0
    elements: int = 0
    cycles: int = 0
    #: How many configurations had what.
    kinds: Counter[str] = field(default_factory=Counter)
    #: Functional coverage.
    bins: Counter[Bin] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)

    def add(self, case: Case, result: CaseResult) -> None:
        self.configurations += 1
        self._count(result, _OF_CASES)
        self.kinds.update(kinds_of(case))

    def add_build(self, other: FuzzResult) -> None:
        """What ran on another build."""
        self._count(other, ("builds", "configurations", *_OF_CASES))
        self.kinds.update(other.kinds)
        self.findings += other.findings

    def _count(self, other: CaseResult | FuzzResult, names: tuple[str, ...]) -> None:
        for name in names:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.bins.update(other.bins)

    def to_dict(self) -> dict[str, Any]:
        return {
            "seconds": round(self.seconds), **{name: getattr(self, name) for name in ("builds", "configurations", *_OF_CASES)},
            **summarise(self.bins), "kinds": dict(sorted(self.kinds.items())),
            "findings": [{"wrong": finding.wrong, "steps": len(finding.case.steps)} for finding in self.findings],
        }


#: What a result of cases has of one of them.
_OF_CASES = ("passes", "stopped", "failed", "reset", "operators", "elements", "cycles")


def kinds_of(case: Case) -> Iterator[str]:
    """Words for what a case has in it."""
    formats = case.formats or {}
    yield f"matrices {'int4' if formats else case.engine}"
    yield f"layer {case.layer.name}"
    yield f"head {case.head}"
    yield f"activation {case.shape.activation}"
    yield f"cache {formats.get('kv', 'k8v8')}"
    yield f"queries {formats.get('query', 'int8')}"
    yield f"ports {case.config.ports}"
    for name, there in (
        ("noise", case.noisy), ("groups of query heads", case.shape.heads > case.shape.kv_heads),
        ("layers not rotated", bool(case.shape.unrotated)), ("reordering", case.timing.reorder),
        ("parking", any(step.parked for step in case.steps)), ("sharing", any(step.shared for step in case.steps)),
        ("some ports alone", any(step.ports for step in case.steps)),
        ("several runs a pass", any(len(step.parts) > 1 for step in case.steps)),
        ("several wanted tokens", any(wanted > 1 for step in case.steps for _, _, wanted in step.parts)),
    ):
        if there:
            yield name
    happened = [step.interruption for step in case.steps if step.interruption is not None]
    for name, field_name in (("stops", "stop"), ("failed answers", "fault"), ("resets", "reset"), ("damaged programs", "damaged")):
        if any(getattr(what, field_name) is not None for what in happened):
            yield name


def builds(seed: int) -> Iterator[tuple[int, BuildConfig, bool]]:
    """Seed, configuration and whether it begins with noise, of one build after the other; engines in turn."""
    number = 0
    while True:
        for engine in ENGINES:
            yield seed + number, random_config(seed + number, engine), engine == "int4"
        number += 1


def run_safely(case: Case, device: VerilatorDevice) -> CaseResult:
    """:func:`run_case`; an exception is something wrong too."""
    try:
        return run_case(case, device)
    except HwgenError as error:
        return CaseResult(wrong=f"{error.kind}: {error.message}", step=len(case.steps) - 1)
    except (RuntimeError, ValueError, IndexError, AssertionError) as error:
        return CaseResult(wrong=f"{type(error).__name__}: {error}".splitlines()[0], step=len(case.steps) - 1)


def run_build(
    seed: int,
    config: BuildConfig,
    noisy: bool,
    cases: int,
    end: float,
    open_device: Callable[[Case], VerilatorDevice] = open_case,
    progress: Callable[[str], None] = lambda text: None,
) -> FuzzResult:
    """Cases of one build, one at least, up to ``end`` (of ``time.monotonic``) or to the first in which something is wrong."""
    total = FuzzResult()

    def run(case: Case) -> CaseResult:
        return run_safely(case, open_device(case))

    for i, drawn in enumerate(random_cases(seed, cases, config)):
        if i and time.monotonic() >= end:  # to start a process may have taken all the time
            break
        total.builds = 1
        progress(f"build {seed} ({config.engine}), case {i + 1} of {cases}, {total.passes} passes")
        case = replace(drawn, noisy=noisy)
        result = run(case)
        total.add(case, result)
        if result.wrong:
            progress(f"wrong: {result.wrong}; making it small")
            small, left = shrink(case, result, run)
            total.findings.append(Finding(small, left.wrong, len(case.steps)))
            break
    return total


def fuzz(
    seconds: float,
    seed: int,
    *,
    cases: int = CASES_PER_BUILD,
    jobs: int = 1,
    progress: Callable[[str], None] = lambda text: None,
    open_device: Callable[[Case], VerilatorDevice] = open_case,
    found: Callable[[Finding], None] = lambda finding: None,
) -> FuzzResult:
    """Run cases for about so long: the last one ends, and is made small where it goes wrong. A build in which something was wrong
    is left for the next one. ``found`` is told as soon as its build has ended. ``jobs`` builds run at the same time, each in a
    process of its own; one runs in this one.
    """
    begin, total = time.monotonic(), FuzzResult()

    def add(result: FuzzResult) -> None:
        total.add_build(result)
        for finding in result.findings:
            found(finding)

    drawn = builds(seed)
    if jobs == 1:
        while time.monotonic() < begin + seconds:
            add(run_build(*next(drawn), cases, begin + seconds, open_device, progress))
    else:
        with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
            def submit() -> Future[FuzzResult]:
                return pool.submit(run_build, *next(drawn), cases, begin + seconds, open_device)

            running = {submit() for _ in range(jobs)}
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    add(future.result())
                    progress(f"{total.builds} builds, {total.configurations} configurations, {total.passes} passes")
                    if time.monotonic() < begin + seconds:
                        running.add(submit())
    total.seconds = time.monotonic() - begin
    return total
