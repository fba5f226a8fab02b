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

from ...errors import HwgenError
from ...packages import needs
from ..compiler.image import Image
from ..runtime.engine import Candidate, Engine, PassResult, SlicedPass
from ..runtime.generation import GeneratedToken, Generation
from ..runtime.pages import PagePool, Session
from ..runtime.scheduler import Job, Scheduler

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
    """How the scheduler of a board is set: answers at a time, and slices of a prompt between two rounds of decoding (0: whole
    passes).
    """

    sessions: int
    turn: int


def policies(sessions: int, turn: int) -> dict[str, Policy]:
    """What can be compared today, by name."""
    return {
        "one-by-one": Policy(1, 0),
        "interleaved": Policy(sessions, turn),
        "whole prompts": Policy(sessions, 0),
    }


#: Names of :func:`policies`.
POLICIES = tuple(policies(1, 1))


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
    """Seconds of passes and slices, from functions that take milliseconds each: they are asked at every `STEP` positions, and what
    lies between is interpolated. ``whole(tokens, position, logits)`` is a pass, ``slices`` the slices of one.
    """

    STEP = 256

    def __init__(
        self, whole: Callable[[int, int, bool], float], slices: Callable[[int, int, bool], Sequence[float]] | None, host: float
    ) -> None:
        #: Seconds of the host around every pass or slice.
        self.host = host
        self._whole = lru_cache(maxsize=None)(whole)
        self._slices = None if slices is None else lru_cache(maxsize=None)(slices)

    def _between(self, position: int) -> tuple[int, int, float]:
        low = position - position % self.STEP
        return low, low + self.STEP, (position - low) / self.STEP

    def whole(self, tokens: int, position: int, logits: bool) -> float:
        """A pass from doorbell to end, and the host's part."""
        low, high, share = self._between(position)
        a = self._whole(tokens, low, logits)
        return self.host + (a if share == 0 else a + share * (self._whole(tokens, high, logits) - a))

    def slices(self, tokens: int, position: int, logits: bool) -> list[float]:
        """The same for every slice of it; none where the build has no room for slices."""
        if self._slices is None:
            return []
        low, high, share = self._between(position)
        first, second = self._slices(tokens, low, logits), self._slices(tokens, high, logits)
        return [self.host + a + share * (b - a) for a, b in zip(first, second, strict=True)]


class NoMemory:
    """In place of a device: pages have no content."""

    def read(self, address: int, size: int) -> Any:
        import numpy as np

        return np.zeros(size, np.uint8)

    def write(self, address: int, data: object) -> None:
        return


class PlannedEngine(Engine):
    """An engine that computes nothing: every pass gives token 0, and its seconds are added to `seconds`."""

    def __init__(self, image: Image, costs: Costs) -> None:
        self.image, self.costs = image, costs
        self.seconds = 0.0
        self.pages = PagePool(NoMemory(), image, [0] * image.pages)  # type: ignore[arg-type]  # reads and writes are all it asks
        self._suspended = None
        #: The pass that was sliced last, and the seconds of its slices.
        self._times: tuple[SlicedPass | None, list[float]] = (None, [])
        self._slice_count = len(costs.slices(image.chunk, 0, True))

    @property
    def slices(self) -> int:
        return self._slice_count

    def _result(self, tokens: int, logits: bool) -> PassResult:
        return PassResult(
            tokens=tokens, candidates=(Candidate(0, 0.0),) if logits else (), counters={"cycles": 0, "stream_beats": 0},
            opcode_cycles={},
        )

    def forward(self, session: Session, tokens: Sequence[int], *, logits: bool = True, write_logits: bool = False) -> PassResult:
        self._reserve(session, len(tokens))
        if len(tokens) > 1:
            self._suspended = None
        self.seconds += self.costs.whole(len(tokens), session.position, logits)
        session.tokens.extend(tokens)
        return self._result(len(tokens), logits)

    def begin_slices(
        self, session: Session, tokens: Sequence[int], *, logits: bool = True, write_logits: bool = False
    ) -> SlicedPass:
        self._check_pass(session, tokens)
        return SlicedPass(session, list(tokens), logits, write_logits, session.position)

    def run_slice(self, sliced: SlicedPass) -> PassResult | None:
        if self._times[0] is not sliced:
            self._times = sliced, self.costs.slices(len(sliced.tokens), sliced.position, sliced.logits)
        times = self._times[1]
        if self._suspended is not sliced:
            sliced.next = 0
        self._suspended = None
        self._reserve(sliced.session, len(sliced.tokens))
        self.seconds += times[sliced.next]
        sliced.next += 1
        if sliced.next < len(times):
            self._suspended = sliced
            return None
        sliced.session.tokens.extend(sliced.tokens)
        return self._result(len(sliced.tokens), sliced.logits)

    def _reserve(self, session: Session, tokens: int) -> None:
        if not self.pages.reserve(session, session.position + tokens):
            raise HwgenError("context", "too few KV pages are free", "give the cache more tokens")


class PlannedBoard:
    """One board in the simulation: a scheduler, and a process that lets the time of its passes go by."""

    def __init__(self, env: Environment, number: int, engine: PlannedEngine, policy: Policy, waiting: int) -> None:
        self.env, self.number, self.engine = env, number, engine
        self.scheduler = Scheduler(
            engine, max_running=policy.sessions, max_waiting=waiting, turn=policy.turn, observer=self._observe
        )
        self._came = env.event()
        #: Passes in their order: request (by its number on this board), tokens, whether of a prompt.
        self.passes: list[tuple[int, int, bool]] = []
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

    def _observe(self, job: Job, result: PassResult, prefill: bool, seconds: float) -> None:
        self.passes.append((self._jobs[job], result.tokens, prefill))

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
