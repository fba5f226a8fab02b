"""``hwgen plan``: requests on several boards, simulated by events, with the model of a pass (`pass_model`) as the cost of each.

The order of passes is that of `hwgen.sw.runtime.scheduler` because it is that scheduler: it runs on an engine that computes nothing
and says how long a pass takes. Times are estimated, and so is everything that follows from them.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ...config import BuildConfig
from ...errors import HwgenError
from ...packages import needs
from ..compiler.image import Image
from ..runtime.device_state import DeviceState
from ..runtime.engine import COUNTED, Engine, PassResult, Run, RunResult
from ..runtime.generation import GeneratedToken, Generation
from ..runtime.jobs import Job
from ..runtime.pages import PagePool
from ..runtime.scheduler import TIME_BETWEEN_TOKENS, Scheduler

if TYPE_CHECKING:
    from simpy import Environment, Event

__all__ = [
    "POLICIES", "Arrival", "Costs", "PlannedBoard", "PlannedEngine", "Policy", "Served", "arrivals_at_rate", "policies", "run_plan",
    "summary",
]


@dataclass(frozen=True)
class Arrival:
    """One request: seconds from the start, tokens of its prompt, tokens of its answer."""

    at: float
    prompt: int
    new: int


@dataclass(frozen=True)
class Policy:
    """How the scheduler of a board is set: answers at a time, and the longest pass while answers are written and prompts wait, as a
    multiple of a pass of one token.
    """

    sessions: int
    time_between_tokens: float = TIME_BETWEEN_TOKENS


def policies(sessions: int, time_between_tokens: float) -> dict[str, Policy]:
    """What can be compared, by name."""
    return {
        "one-by-one": Policy(1), "shared": Policy(sessions, time_between_tokens), "whole prompts": Policy(sessions, math.inf),
    }


#: Names of :func:`policies`.
POLICIES = tuple(policies(1, TIME_BETWEEN_TOKENS))


def arrivals_at_rate(rate: float, requests: int, prompt: int, new: int, seed: int) -> list[Arrival]:
    """Requests that come independently of each other, ``rate`` a second."""
    draw, now, out = random.Random(seed), 0.0, []
    for _ in range(requests):
        now += draw.expovariate(rate)
        out.append(Arrival(now, prompt, new))
    return out


@dataclass
class Served:
    """One request, as its client saw it: seconds of every token."""

    arrival: Arrival
    board: int
    tokens: list[float] = field(default_factory=list)
    error: str = ""

    @property
    def first(self) -> float:
        """Seconds to the first token."""
        return self.tokens[0] - self.arrival.at

    @property
    def gaps(self) -> list[float]:
        """Seconds between tokens."""
        return [b - a for a, b in zip(self.tokens, self.tokens[1:], strict=False)]


class Costs:
    """Seconds of passes, from a function that takes a while: ``cost(tokens, position, wanted)`` is a pass of runs of ``tokens``
    each, all behind ``position`` cached tokens, with logits of ``wanted``. It is asked at every `STEP` positions; what lies between
    is interpolated at the mean of the runs.
    """

    STEP = 256

    def __init__(self, cost: Callable[[tuple[int, ...], int, int], float], host: float) -> None:
        #: Seconds of the host around every pass.
        self.host = host
        self._cost = lru_cache(maxsize=None)(cost)

    def of(self, runs: Sequence[tuple[int, int]], wanted: int) -> float:
        """A pass of runs ``(position, tokens)`` from doorbell to end, and the host's part."""
        mix, position = tuple(sorted(tokens for _, tokens in runs)), sum(position for position, _ in runs) / len(runs)
        low = int(position) // self.STEP * self.STEP
        first, share = self._cost(mix, low, wanted), (position - low) / self.STEP
        return self.host + (first if share == 0 else first + share * (self._cost(mix, low + self.STEP, wanted) - first))


class NoMemory:
    """In place of a device: pages have no content."""

    def read(self, address: int, size: int) -> Any:
        return np.zeros(size, np.uint8)

    def write(self, address: int, data: object) -> None:
        return


class PlannedEngine(Engine):
    """An engine that computes nothing: every wanted token gives token 0, and the seconds of a pass are added to `seconds`."""

    def __init__(self, image: Image, costs: Costs) -> None:
        self.image, self._seconds_of, self._state = image, costs, DeviceState(image.config)
        self.seconds = 0.0
        self.pages = PagePool(NoMemory(), image, [0] * image.pages)  # type: ignore[arg-type]  # reads and writes are all it asks

    @property
    def config(self) -> BuildConfig:
        return self.image.config

    def run_pass(self, runs: Sequence[Run], *, write_logits: bool = False, layers: int | None = None) -> PassResult:
        assert layers is None, "plans have no documents"
        self._check(runs)
        self._reserve(runs)
        sizes = [(run.session.position, len(run.tokens)) for run in runs]
        self.seconds += self._seconds_of.of(sizes, sum(run.wanted for run in runs))
        for run in runs:
            run.session.tokens.extend(run.tokens)
        return PassResult(
            runs=tuple(RunResult(len(run.tokens), np.zeros((run.wanted, 1, 2), np.uint32), 0) for run in runs),
            counted=[0] * COUNTED,
        )


class PlannedBoard:
    """One board in the simulation: a scheduler, and a process that lets the time of its passes go by."""

    def __init__(self, env: Environment, number: int, engine: PlannedEngine, policy: Policy, waiting: int) -> None:
        self.env, self.number, self.engine = env, number, engine
        self.scheduler = Scheduler(
            engine, max_running=policy.sessions, max_waiting=waiting, time_between_tokens=policy.time_between_tokens,
            observer=self._observe,
        )
        self._came = env.event()
        #: Passes in their order: of every run the request (by its number on this board) and the tokens.
        self.passes: list[list[tuple[int, int]]] = []
        self._jobs: dict[Job, int] = {}
        #: Seconds in which a pass ran.
        self.busy = 0.0
        env.process(self._run())

    @property
    def load(self) -> int:
        """Requests that it has not answered."""
        return self.scheduler.running + self.scheduler.waiting

    def _run(self) -> Generator[Event, object, None]:
        while True:
            self.engine.seconds = 0.0
            if not self.scheduler.step():
                yield self._came
            else:
                self.busy += self.engine.seconds
                yield self.env.timeout(self.engine.seconds)

    def _observe(self, jobs: Sequence[Job], result: PassResult, prefill: bool, seconds: float) -> None:
        self.passes.append([(self._jobs[job], run.tokens) for job, run in zip(jobs, result.runs, strict=True)])

    def submit(self, served: Served) -> None:
        """Begin with a request; a refusal is its error."""

        def on_token(item: GeneratedToken) -> None:
            served.tokens.append(self.env.now + self.engine.seconds)

        def on_end(error: HwgenError | None) -> None:
            served.error = "" if error is None else error.message

        arrival = served.arrival
        job = Job(Generation(self.engine, [0] * arrival.prompt, arrival.new), on_token, on_end)
        try:
            self.scheduler.submit(job)
        except HwgenError as error:
            served.error = error.message
            return
        self._jobs[job] = len(self._jobs)
        self._came.succeed()
        self._came = self.env.event()


def run_plan(
    engines: Sequence[PlannedEngine], policy: Policy, arrivals: Sequence[Arrival], waiting: int = 1 << 20
) -> tuple[list[Served], list[PlannedBoard]]:
    """Every request on the board that has least to do when it comes, of equal ones the first; until all are answered."""
    with needs("hwgen plan", "hwgen[plan]"):
        import simpy
    env = simpy.Environment()
    boards = [PlannedBoard(env, number, engine, policy, waiting) for number, engine in enumerate(engines)]
    out: list[Served] = []

    def clients() -> Generator[Event, object, None]:
        for arrival in sorted(arrivals, key=lambda a: a.at):
            yield env.timeout(max(0.0, arrival.at - env.now))
            board = min(boards, key=lambda b: (b.load, b.number))
            out.append(Served(arrival, board.number))
            board.submit(out[-1])

    env.process(clients())
    env.run()
    return out, boards


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that ``share`` of them do not exceed; NaN of none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


def summary(served: Sequence[Served], boards: Sequence[PlannedBoard]) -> dict[str, Any]:
    """What one policy gave, as JSON; seconds are estimated."""
    good = [s for s in served if not s.error]
    firsts, gaps = [s.first for s in good], [gap for s in good for gap in s.gaps]
    end = max((s.tokens[-1] for s in good), default=0.0)
    tokens = sum(len(s.tokens) for s in good)

    def spread(values: Sequence[float]) -> dict[str, float | None]:
        return {f"p{share}": percentile(values, share / 100) if values else None for share in (50, 95, 99)}

    return {
        "answered": len(good),
        "refused": len(served) - len(good),
        "refusal": next((s.error for s in served if s.error), None),
        "seconds": end,
        "behind_s": end - max((s.arrival.at for s in served), default=0.0),
        "tok_s": tokens / end if end else None,
        "first_token_s": spread(firsts),
        "between_tokens_s": spread(gaps),
        "busy": sum(b.busy for b in boards) / (end * len(boards)) if end else 0.0,
        "passes": sum(len(b.passes) for b in boards),
        "first_tokens": sorted(firsts),
    }
