"""Answers whose tokens the machine chooses, many passes a doorbell."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..devices.device import DeviceTimeout
from .engine import Engine, PassResult, Run
from .jobs import DeviceFailed, Job
from .running_loop import RunningLoop, stops_of

__all__ = ["Loop"]

class Loop:
    """The next passes of ``jobs``, whose first is that of ``runs``, until ``interrupts`` says that there is something else to do,
    an answer ends, or one has a draft. Answers end behind the loop: until then it writes in their pages.
    """

    def __init__(self, engine: Engine, jobs: Sequence[Job], runs: Sequence[Run], interrupts: Callable[[], bool]) -> None:
        self._engine, self._jobs, self._runs, self._interrupts = engine, jobs, runs, interrupts
        #: Tokens that each job has taken, and errors of answers alone.
        self._taken = [0] * len(jobs)
        #: Jobs that have neither ended nor failed, by their places.
        self._going_on = dict(enumerate(jobs))
        self._failed: dict[Job, Exception] = {}

    def run(self, passes: int) -> PassResult:
        """From the doorbell to the end; jobs are told of their tokens meanwhile."""
        running = RunningLoop(self._engine, self._runs, passes, stops_of([job.generation for job in self._jobs]))
        for chosen in running:
            if not self._on_pass(chosen):
                running.let_end()
        assert running.result is not None
        return running.result

    def _on_pass(self, chosen: Sequence[int]) -> bool:
        goes_on, others = True, len(self._jobs) - 1
        for number, job in list(self._going_on.items()):
            generation = job.generation
            self._taken[number] += 1
            try:
                job.on_token(generation.take(chosen[number]))
            except (DeviceTimeout, DeviceFailed):
                raise
            except Exception as error:  # of this answer alone: the others go on
                self._failed[job] = error
            if generation.ended or self._failed and job in self._failed:
                del self._going_on[number]
                goes_on = False
            elif generation.has_draft(others):
                goes_on = False
        return goes_on and not self._interrupts()

    def settle(self, number: int, result: PassResult, seconds: float) -> None:
        """What a job knows behind the loop; its error, where it failed."""
        job = self._jobs[number]
        job.generation.decode.add(result, self._taken[number], seconds)
        if job in self._failed:
            raise self._failed[job]
