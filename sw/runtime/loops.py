"""Answers whose tokens the machine chooses, many passes a doorbell."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ...registers import CHOSEN_TOKENS, STOP_TOKENS
from ..devices.device import DeviceTimeout
from .engine import Engine, PassResult
from .jobs import DeviceFailed, Job, Part

__all__ = ["LOOP_PASSES", "Loop"]

#: Passes of a loop at most: about a second, behind which its counters are read.
LOOP_PASSES = 64


class Loop:
    """The next passes of the jobs of ``parts``, run by ``engine`` until ``interrupts`` says that there is something else to do, an
    answer ends, or one has a draft. Answers end behind the loop: until then it writes in their pages.
    """

    def __init__(self, engine: Engine, parts: Sequence[Part], interrupts: Callable[[], bool]) -> None:
        self._engine, self._interrupts = engine, interrupts
        self._runs, self._jobs = [request.run for _, request in parts], [job for job, _ in parts]
        self._stops = {token for job in self._jobs for token in job.generation.stop_tokens}
        #: Tokens that each job has taken, and errors of answers alone.
        self._taken = [0] * len(parts)
        self._failed: dict[Job, Exception] = {}

    def passes(self, most: int) -> int:
        """Passes that the loop may have, ``most`` of them; less than 2 where the host has to choose, or pages are few."""
        if len(self._stops) > STOP_TOKENS or not self._engine.can_loop():
            return 0
        passes = min(most, CHOSEN_TOKENS // len(self._jobs), *(job.generation.loop_passes for job in self._jobs))
        pages = self._engine.pages
        while passes > 1 and sum(pages.missing(run.session, run.session.position + passes) for run in self._runs) > pages.free:
            passes //= 2
        return passes

    def run(self, passes: int) -> PassResult:
        """From the doorbell to the end; jobs are told of their tokens meanwhile."""
        return self._engine.run_loop(self._runs, passes, self._stops, self._on_pass)

    def _on_pass(self, chosen: Sequence[int]) -> bool:
        goes_on = True
        for number, (job, token) in enumerate(zip(self._jobs, chosen, strict=True)):
            generation = job.generation
            if job in self._failed or generation.ended:
                continue
            self._taken[number] += 1
            try:
                job.on_token(generation.take(token))
            except (DeviceTimeout, DeviceFailed):
                raise
            except Exception as error:  # of this answer alone: the others go on
                self._failed[job] = error
            goes_on &= not (job in self._failed or generation.ended or generation.has_draft(len(self._jobs) - 1))
        return goes_on and not self._interrupts()

    def settle(self, number: int, result: PassResult, seconds: float) -> None:
        """What a job knows behind the loop; its error, where it failed."""
        job = self._jobs[number]
        job.generation.decode.add(result, self._taken[number], seconds)
        if job in self._failed:
            raise self._failed[job]
