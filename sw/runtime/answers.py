"""Several answers to one prompt: they share its pages and every pass, and draw from seeds of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from ...errors import HwgenError
from ..models.tokenizer import TextStream, Tokenizer
from .generation import Generation
from .jobs import Job
from .running_loop import LOOP_PASSES
from .scheduler import Scheduler

__all__ = ["AnswerSet", "Written", "best_answers", "mean_logprob"]


@dataclass(frozen=True)
class Written:
    """One of several answers."""

    generation: Generation
    text: str
    #: Sum of the logarithms of its tokens' probabilities, where they were needed.
    logprob: float

    @property
    def score(self) -> float:
        """What ``best_of`` prefers: the mean over the tokens."""
        return mean_logprob(self.logprob, len(self.generation.tokens))


def mean_logprob(total: float, tokens: int) -> float:
    """Of an answer; one without a token is the least likely."""
    return total / tokens if tokens else float("-inf")


def best_answers(scores: Sequence[float], count: int) -> list[int]:
    """Numbers of the ``count`` best, best first; of equal ones the earlier."""
    return sorted(range(len(scores)), key=lambda i: -scores[i])[:count]


class AnswerSet:
    """Answers to the same prompt. The first one reads it; the others take its pages over, the last of them as a copy."""

    def __init__(self, tokenizer: Tokenizer, generations: Sequence[Generation]) -> None:
        self._tokenizer, self.generations = tokenizer, generations
        for generation in generations[1:]:
            generation.sibling = generations[0]
        #: Numbers of the answers in the order in which they ended.
        self.ended: list[int] = []

    def write(self, *, first_finish: bool = False) -> list[Written]:
        """All answers, in the order of their seeds; or the one that ends first, and then the others stop."""
        scheduler = Scheduler(self.generations[0].engine, max_running=len(self.generations), loop_passes=LOOP_PASSES)
        errors: list[HwgenError] = []

        def end(number: int, error: HwgenError | None) -> None:
            self.ended.append(number)
            errors.extend([] if error is None else [error])

        jobs = [Job(generation, lambda item: None, partial(end, i)) for i, generation in enumerate(self.generations)]
        for job in jobs:
            scheduler.submit(job)
        try:
            while scheduler.step() and not (first_finish and self.ended):
                pass
        finally:
            for job in jobs:
                scheduler.cancel(job)
            scheduler.step()
        if errors:
            raise errors[0]
        return [self._written(i) for i in (self.ended[:1] if first_finish else range(len(jobs)))]

    def _written(self, number: int) -> Written:
        generation = self.generations[number]
        stream = TextStream(self._tokenizer, generation.prompt)
        text = "".join(stream.add(token) for token in generation.tokens) + stream.finish()
        return Written(generation, text, sum(score.logprob for score in generation.scores))
