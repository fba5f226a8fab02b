"""What a pass of several answers has and costs, and how much of a prompt has room in it."""

from __future__ import annotations

from collections.abc import Sequence

from .engine import Engine
from .jobs import Job, Part

__all__ = ["count_of", "cycles_of", "prompt_room", "single_cycles"]


def count_of(parts: Sequence[Part]) -> tuple[int, int]:
    """Tokens of a pass, and those whose logits are wanted."""
    tokens = wanted = 0
    for _, request in parts:
        tokens += len(request.run.tokens)
        wanted += request.run.wanted
    return tokens, wanted


def _blocks(engine: Engine, job: Job) -> int:
    """Blocks of cached keys that a run of a job reads."""
    return engine.pages.blocks(job.generation.attended)


def cycles_of(engine: Engine, parts: Sequence[Part], tokens: int = 0, job: Job | None = None) -> float:
    """Estimated cycles of a pass, with so many tokens of another prompt."""
    count, wanted = count_of(parts)
    blocks = sum(_blocks(engine, part) for part, _ in parts) + (_blocks(engine, job) if job is not None else 0)
    return engine.costs.cycles(count + tokens, wanted + bool(tokens), blocks)


def single_cycles(engine: Engine, parts: Sequence[Part]) -> float:
    """Estimated cycles of a pass with one of the answers alone, behind as many keys as they have in the mean."""
    return engine.costs.cycles(1, 1, sum(_blocks(engine, job) for job, _ in parts) // max(1, len(parts)))


def prompt_room(engine: Engine, most: float, parts: Sequence[Part], answers: int, job: Job) -> int:
    """Tokens that a prompt may have in a pass with ``answers`` answers, and prompts before it, that takes ``most`` times as long as
    one of a single answer.
    """
    count, bound = count_of(parts)[0], most * single_cycles(engine, parts[:answers])
    for tokens in range(engine.image.chunk - count, 0, -1):
        if cycles_of(engine, parts, tokens, job) <= bound:
            return tokens
    if len(parts) > answers:  # a prompt travels already
        return 0
    lanes = engine.config.lanes
    return min(engine.image.chunk, lanes * (count // lanes + 1)) - count
