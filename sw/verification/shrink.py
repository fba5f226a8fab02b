"""Making a case that goes wrong small: fewer passes, then fewer layers, then fewer tokens, then the usual memory and model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from .case import Case, CaseResult, Part, Step

__all__ = ["shrink"]


def shrink(case: Case, result: CaseResult, run: Callable[[Case], CaseResult], tries: int = 60) -> tuple[Case, CaseResult]:
    """The smallest case found that still goes wrong, and what is wrong in it. ``run`` runs a case on the build of the first one,
    whose ``result`` is given; it is called at most ``tries`` times.
    """
    left = tries

    def goes_wrong(candidate: Case) -> CaseResult | None:
        nonlocal left
        left -= 1
        found = run(candidate)
        return found if found.wrong else None

    case = replace(case, steps=case.steps[: result.step + 1])
    for stage in (_fewer_steps, _plainer_steps, _fewer_layers, _fewer_tokens, _usual_options):
        smaller = True
        while smaller and left > 0:
            smaller = False
            for candidate in stage(case):
                if left <= 0:
                    break
                found = goes_wrong(candidate)
                if found is not None:
                    case, result, smaller = replace(candidate, steps=candidate.steps[: found.step + 1]), found, True
                    break
    return case, replace(result, step=len(case.steps) - 1)


def _fewer_steps(case: Case) -> Iterator[Case]:
    """Without the first half of what comes before the last pass, without a quarter, ... without each one."""
    size = (len(case.steps) - 1 + 1) // 2
    while size:
        for start in range(0, len(case.steps) - 1, size):
            yield replace(case, steps=case.steps[:start] + case.steps[min(start + size, len(case.steps) - 1) :])
        size //= 2


def _plainer_steps(case: Case) -> Iterator[Case]:
    """Without what a host does around the passes: everywhere, then one at a time."""
    plain = tuple(Step(step.parts) for step in case.steps)
    if plain != case.steps:
        yield replace(case, steps=plain)
    for i, step in enumerate(case.steps):
        for change in ({"parked": ()}, {"shared": None}, {"interruption": None}, {"ports": 0}):
            yield from _with_step(case, i, replace(step, **change))


def _fewer_layers(case: Case) -> Iterator[Case]:
    shape = case.shape
    if shape.layers > 1:
        yield replace(case, shape=replace(shape, layers=1, unrotated=tuple(i for i in shape.unrotated if not i)))
        yield replace(case, shape=replace(shape, layers=1, unrotated=()))


def _fewer_tokens(case: Case) -> Iterator[Case]:
    """Runs of one token, without a run, fewer wanted tokens, half of the tokens of a run."""
    yield from _changed(case, replace(case, steps=tuple(_runs(step, tuple((n, 1, min(w, 1)) for n, _, w in step.parts))
                                                        for step in case.steps)))
    for i, step in enumerate(case.steps):
        for j, (number, tokens, wanted) in enumerate(step.parts):
            if len(step.parts) > 1:
                yield from _with_step(case, i, _runs(step, step.parts[:j] + step.parts[j + 1 :]))
            half = (tokens + 1) // 2
            for part in ((number, 1, min(1, wanted)), (number, tokens, 0), (number, half, min(wanted, half))):
                yield from _with_step(case, i, _runs(step, (*step.parts[:j], part, *step.parts[j + 1 :])))


def _usual_options(case: Case) -> Iterator[Case]:
    """The memory that never waits, no noise, the exact head, the plain model; the build stays, since another one takes a minute."""
    from ...sim.dram import IDEAL

    shape = case.shape
    yield from _changed(case, replace(case, timing=IDEAL))
    yield from _changed(case, replace(case, head="exact"))
    for changed in (
        replace(shape, unrotated=()), replace(shape, activation="relu2"), replace(shape, tied=True), replace(shape, vocab=2),
        replace(shape, heads=shape.kv_heads), replace(shape, heads=1, kv_heads=1),
    ):
        yield from _changed(case, replace(case, shape=changed))


def _changed(case: Case, candidate: Case) -> Iterator[Case]:
    if candidate != case:
        yield candidate


def _with_step(case: Case, index: int, step: Step) -> Iterator[Case]:
    yield from _changed(case, replace(case, steps=(*case.steps[:index], step, *case.steps[index + 1 :])))


def _runs(step: Step, parts: tuple[Part, ...]) -> Step:
    return replace(step, parts=parts)
