"""Passes under way that one doorbell has begun, each with the tokens that were chosen behind the one before."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Protocol

from ...registers import CHOSEN_TOKENS, STOP_TOKENS
from .block_summaries import loop_limit, pages_looked_at
from .engine import Engine
from .runs import PassResult, Run

__all__ = ["LOOP_PASSES", "RunningLoop", "loop_passes", "stops_of"]

#: Passes of a loop at most: about a second, behind which its counters are read.
LOOP_PASSES = 64


class Looping(Protocol):
    """An answer as a loop sees it."""

    stop_tokens: Sequence[int]

    @property
    def loop_passes(self) -> int:
        """Passes that it can have."""


def stops_of(generations: Sequence[Looping]) -> set[int]:
    """Tokens that end a loop of these answers."""
    return {token for generation in generations for token in generation.stop_tokens}


def loop_passes(engine: Engine, runs: Sequence[Run], generations: Sequence[Looping], most: int) -> int:
    """Passes that a loop of these answers may have, of ``most``; less than 2 where the host has to choose, or pages are few."""
    passes = min([most, CHOSEN_TOKENS // len(runs), *(loop_limit(engine.config, run, most) for run in runs if run.budget)])
    for generation in generations:
        if passes < 2:
            return 0
        passes = min(passes, generation.loop_passes)
    if passes < 2 or len(stops_of(generations)) > STOP_TOKENS or not engine.can_loop():
        return 0
    while passes > 1 and sum(_missing(engine, run, passes) for run in runs) > engine.pages.free:
        passes //= 2
    return passes


def _missing(engine: Engine, run: Run, passes: int) -> int:
    """Pages that a session has yet to get for a loop."""
    summaries = pages_looked_at(engine.config, run, passes) if run.budget else 0
    return engine.pages.missing(run.session, run.session.position + passes, None, summaries)


class RunningLoop:
    """Up to ``passes`` passes with one doorbell. ``runs`` are of the first: a token of each session, which is wanted. What its
    ``draw`` says of the candidates behind that is the session's next one, and so on until one of ``stop_tokens`` is chosen,
    `STOP_TOKENS` at most.

    Iterate over it: what was chosen behind every pass, a token a run, as it comes; sessions have the tokens before by then. Others
    may use the engine meanwhile, whose passes end the loop: what nobody has taken by then is dropped, and can be computed again.
    """

    def __init__(self, engine: Engine, runs: Sequence[Run], passes: int, stop_tokens: Collection[int]) -> None:
        self._engine, self._runs, self._count = engine, runs, len(runs)
        self._firsts = [run.session.position for run in runs]
        self._sequences = [run.session.tokens for run in runs]
        #: What was computed last, what was chosen since, and how much of this was taken.
        self._before: Sequence[int] = [run.tokens[0] for run in runs]
        self._chosen: list[int] = []
        self._taken = 0
        #: Of all passes, with the candidates of the last; None before they have ended, and where they failed.
        self.result: PassResult | None = None
        #: Whether it was ended before everything was taken.
        self.closed = False
        engine.start_loop(self, runs, passes, stop_tokens)

    @property
    def passes(self) -> int:
        """Those whose tokens were taken."""
        return self._taken // self._count

    def __iter__(self) -> RunningLoop:
        return self

    def __next__(self) -> Sequence[int]:
        at, chosen = self._taken, self._chosen
        while at == len(chosen):
            if self.result is not None or self.closed:
                raise StopIteration
            self._wait()
        for sequence, token in zip(self._sequences, self._before, strict=True):
            sequence.append(token)
        self._taken = end = at + self._count
        self._before = chosen = chosen[at:end]
        return chosen

    def let_end(self) -> None:
        """The pass that runs is the last."""
        if self.result is None:
            self._engine.let_loop_end()

    def close(self) -> PassResult | None:
        """End it, and drop what was not taken. Nothing happens where it has ended. The result, where there is one."""
        if not self.closed:
            self.closed = self.result is None or self._taken < len(self._chosen)
            self.let_end()
            while self.result is None:
                self._wait()
            del self._chosen[self._taken :]
        return self.result

    def _wait(self) -> None:
        """Until something was chosen, or to the end."""
        engine = self._engine
        try:
            if not engine.wait(self._look):
                return
            result = engine.finish(self._runs)
            self._look()
        except BaseException:
            self.closed = True
            engine.loop_ended([], [])
            raise
        done = len(self._chosen) // self._count
        engine.loop_ended([first + done for first in self._firsts], self._chosen[-self._count :])
        self.result = replace(result, passes=done, runs=tuple(replace(run, tokens=done) for run in result.runs))

    def _look(self) -> bool:
        """Read what was chosen since the last look, behind whole passes; whether there was something."""
        new = self._engine.chosen(len(self._chosen), self._count)
        self._chosen += new
        return bool(new)
