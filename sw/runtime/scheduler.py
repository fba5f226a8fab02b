"""Several answers at a time on one accelerator: they share its passes."""

from __future__ import annotations

import contextlib
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TypeVar

from ...errors import HwgenError
from ..devices.device import DeviceTimeout
from .engine import Engine, PassResult
from .errands import Errands
from .jobs import DeviceFailed, Job, NoRoom, Part, QueueFull, Turn
from .loops import Loop
from .pass_room import count_of, cycles_of, prompt_room, single_cycles
from .prefix_cache import PrefixCache
from .running_loop import loop_passes

T = TypeVar("T")

__all__ = ["BACK_OFF", "TIME_BETWEEN_TOKENS", "Observer", "Scheduler"]

#: Seconds before each attempt to open a device that failed. When the last has failed, or no pass succeeded after any of them, no
#: more jobs are taken.
BACK_OFF = (0.0, 1.0, 4.0, 15.0, 60.0)

#: Passes that fail one behind the other, of whatever jobs, before the device counts as failed.
FAILED_PASSES = 3

#: Longest pass of answers where prompts wait, as a multiple of a pass of a single token.
TIME_BETWEEN_TOKENS = 1.1

#: Told of every pass: whose runs it had, what it did, whether it was of prompts alone, the seconds it took.
Observer = Callable[[Sequence[Job], PassResult, bool, float], None]


class Scheduler:
    """Runs jobs pass by pass.

    A pass takes the next token of every answer that decodes, then prompts in the order in which they came, then drafts. While some
    decode, prompts have as many tokens of a pass as keep it within ``time_between_tokens`` times one of a single token, by the
    model of a pass; where the answers alone take longer than that, the rest of the round of the machine's lanes, or one more round,
    so that no prompt waits for ever (`kept_bound` says what could be kept). Where nobody decodes, a pass has the whole chunk.
    Answers join at the next pass and leave at its end. A prompt that begins like one under way waits for it, and finds its keys in
    the cache.

    When the pages of the KV cache run out, kept prefixes are dropped first; then the youngest session is parked in memory of
    the host and continues, with the same bits, when there is room again.

    An error of any kind in one answer ends that answer alone. When the device fails, the answers that have a session end with
    the error; ``reopen`` makes an engine (and what it keeps of prompts) on a device opened anew, after the seconds of
    ``back_off``, and those that wait are answered there. Where that cannot be, `failure` says why, and ``on_failure`` is called.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        max_running: int = 8,
        max_waiting: int = 64,
        time_between_tokens: float = TIME_BETWEEN_TOKENS,
        observer: Observer | None = None,
        reopen: Callable[[], tuple[Engine, PrefixCache | None]] | None = None,
        back_off: Sequence[float] = BACK_OFF,
        on_failure: Callable[[HwgenError], None] | None = None,
        turn: Turn | None = None,
        loop_passes: int = 1,
        alone: Callable[[], bool] = lambda: False,
    ) -> None:
        limits = (("max_running", max_running, 1), ("max_waiting", max_waiting, 0), ("time_between_tokens", time_between_tokens, 1),
                  ("loop_passes", loop_passes, 1))
        for name, value, least in limits:
            if not value >= least:
                raise HwgenError("usage", f"{name} must be {least} or more, not {value!r}", f"give {least} or more")
        self.engine = engine
        self.max_running, self.max_waiting, self.time_between_tokens = max_running, max_waiting, time_between_tokens
        #: Passes that the machine runs by itself at most where nobody waits. Whether it can is found out now, not behind an answer.
        self.loop_passes = loop_passes if loop_passes > 1 and engine.can_loop() else 1
        self._alone = alone  # asked before a pass, which has a doorbell of its own then
        #: The longest pass of answers with prompts beside them so far, as a multiple of a pass of a single token; estimated.
        self.kept_bound = 0.0
        self._observe: Observer = observer or (lambda jobs, result, prefill, seconds: None)
        self._reopen, self._back_off, self._turn = reopen, back_off, turn
        #: Told, in the thread of the scheduler, that the device failed for good.
        self.on_failure = on_failure or (lambda error: None)
        self._failed_passes = 0
        #: Times that the device was opened, or could not be, since a pass last succeeded.
        self._attempts = 0
        #: With the engine of a device that was opened anew.
        self._prefixes: PrefixCache | None = None
        #: What the device failed with while it is being opened anew.
        self._recovering: HwgenError | None = None
        #: Times that the device was opened anew.
        self.reopened = 0
        #: Guards what several threads change: the waiting jobs and whether more are taken.
        self._changed = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._refusal: HwgenError | None = None
        #: Jobs to be ended, of which some may have ended by themselves.
        self._cancelled: deque[Job] = deque()
        #: Jobs that have a session, oldest first.
        self._running: list[Job] = []
        #: Decoding jobs in the order in which they had their latest token, where a pass has no room for all.
        self._turns: deque[Job] = deque()
        self._errands = Errands()
        self._thread: threading.Thread | None = None
        self._closing = threading.Lock()

    # ---- for any thread ------------------------------------------------------------------------------------------
    @property
    def running(self) -> int:
        """Jobs that have a session."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Jobs that wait for one."""
        return len(self._waiting)

    def jobs(self) -> tuple[list[Job], list[Job]]:
        """Those that have a session, oldest first, and those that wait for one, as they are now."""
        with self._changed:
            return list(self._running), list(self._waiting)

    @property
    def failure(self) -> HwgenError | None:
        """Why no more jobs are taken, or what the device failed with that is being opened anew."""
        return self._refusal or self._recovering

    @property
    def full(self) -> bool:
        """Whether :meth:`submit` would find too many waiting."""
        return len(self._waiting) >= self.max_waiting + max(0, self.max_running - len(self._running))

    def submit(self, job: Job) -> None:
        """Add a job. :class:`QueueFull` when too many wait; a prompt that cannot be answered is refused."""
        job.generation.check()
        with self._changed:
            if self._refusal is not None:
                raise self._refusal
            if self.full:
                raise QueueFull(len(self._waiting))
            self._waiting.append(job)
            self._changed.notify()

    def cancel(self, job: Job) -> None:
        """End a job before its next pass; nothing happens to one that has ended."""
        with self._changed:
            self._cancelled.append(job)
            self._changed.notify()

    def between_passes(self, call: Callable[[], T]) -> Future[T]:
        """Have ``call`` run in the thread of the scheduler, where it may use the engine: no pass runs then."""
        with self._changed:
            if self._refusal is not None:
                raise self._refusal
            self._changed.notify()
            return self._errands.add(call)

    def start(self) -> None:
        """Run jobs in a thread of its own until :meth:`close`."""
        self._thread = threading.Thread(target=self._serve, name="hwgen-scheduler", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End every job after the present pass, and take no more."""
        with self._changed:
            self._refusal = self._refusal or HwgenError("busy", "the server is shutting down", "try again later")
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()
        with self._closing:  # once, whoever closes
            self._end_all(self._refusal)

    # ---- for the thread that runs it -----------------------------------------------------------------------------
    def _serve(self) -> None:
        while self._refusal is None:
            try:
                if not self.step():
                    with self._changed:
                        self._changed.wait_for(self._has_work)
            except (DeviceTimeout, DeviceFailed) as error:
                self._recover(error)
            except Exception as error:  # between the answers: nothing is known of any of them
                traceback.print_exc()
                self._recover(DeviceFailed(f"{type(error).__name__}: {error}"))

    def _has_work(self) -> bool:
        return bool(self._refusal or self._waiting or self._errands or self._cancelled)

    def move(self, engine: Engine, prefixes: PrefixCache | None) -> None:
        """Go on with another engine; no job has a session."""
        with self._changed:
            self.engine, self._prefixes = engine, prefixes

    def _recover(self, error: HwgenError) -> None:
        """End what has a session, and go on with an engine on a device opened anew, or with none."""
        with self._changed:
            self._recovering = error
        for job in list(self._running):
            with contextlib.suppress(Exception):  # it has been told; what it held is lost with the device
                self._end(job, error)
        for seconds in self._back_off[self._attempts :] if self._reopen is not None else ():
            self._attempts += 1
            with self._changed:
                if self._changed.wait_for(lambda: self._refusal, seconds):  # closed meanwhile
                    return
            try:
                assert self._reopen is not None
                engine, prefixes = self._reopen()
            except Exception as again:  # of a driver, a library of the board, or the image
                error = again if isinstance(again, HwgenError) else DeviceFailed(f"{type(again).__name__}: {again}")
                continue
            with self._changed:
                self.engine, self._prefixes, self._recovering, self._failed_passes = engine, prefixes, None, 0
                self.reopened += 1
            return
        self._refuse(error)
        self.on_failure(error)

    def _refuse(self, error: HwgenError) -> None:
        with self._changed:
            self._refusal = error
        self._end_all(error)

    def _end_all(self, error: HwgenError | None) -> None:
        for job in [*self._running, *self._waiting]:
            self._end(job, error)
        if error is not None:
            self._errands.refuse(error)

    def step(self) -> bool:
        """One pass; False when there is nothing to do."""
        while self._cancelled:
            job = self._cancelled.popleft()
            if job in self._running or job in self._waiting:
                self._end(job, None)
        self._errands.run()
        if self._turn is not None and not self._running:
            self._turn.rest(len(self._waiting))
        self._return_parked()
        parts = self._compose()
        if parts:
            self._run(parts)
        return bool(parts or self._running or self._waiting)

    def _ready(self) -> list[Job]:
        """Running jobs whose session is on the device."""
        return [j for j in self._running if j.generation.session.parked is None]

    def _return_parked(self) -> None:
        """Bring parked sessions back, oldest first."""
        for job in [j for j in self._running if j.generation.session.parked is not None]:
            generation, session = job.generation, job.generation.session
            if not self.engine.pages.unpark(session, session.position + generation.remaining, generation.summary_pages):
                if not self._ready():  # nobody here will give pages back
                    self._end(job, NoRoom(self.engine, job))
                return

    # ---- what is in a pass ---------------------------------------------------------------------------------------
    def _compose(self) -> list[Part]:
        """Jobs of the next pass, and what it computes for each."""
        parts: list[Part] = []
        chunk = self.engine.image.chunk
        ready = self._ready()
        decoding = [j for j in ready if not j.generation.prefilling]
        if set(self._turns) != set(decoding):
            self._turns = deque([j for j in self._turns if j in decoding] + [j for j in decoding if j not in self._turns])
        for job in list(self._turns)[:chunk]:
            if job.generation.session.parked is None:  # it may have had to make way for an older one
                self._add(parts, job, 1)
        answers = len(parts)
        tried: set[int] = set()
        prompts = self._waiting or len(ready) > len(decoding)
        while prompts and count_of(parts)[0] < chunk:
            job_or_none = self._next_prompt(tried)
            if job_or_none is None:
                break
            tried.add(id(job_or_none))
            room = chunk - count_of(parts)[0]
            if decoding:
                room = prompt_room(self.engine, self.time_between_tokens, parts, answers, job_or_none)
            if room < 1:
                break
            self._add(parts, job_or_none, room)
        # One that had to make way for another has no part any more.
        parts = [(job, request) for job, request in parts if job.generation.session.parked is None]
        if decoding and tried and parts:
            self.kept_bound = max(self.kept_bound, cycles_of(self.engine, parts) / single_cycles(self.engine, parts))
        return self._with_drafts(parts)

    def _with_drafts(self, parts: list[Part]) -> list[Part]:
        """The same pass with drafts of its answers in the room that is left."""
        count, wanted = count_of(parts)
        chunk, failed = self.engine.image.chunk, list[int]()
        for i, (job, request) in enumerate(parts):
            if count >= chunk:
                break
            try:
                longer = job.generation.with_draft(request, chunk - count, count - 1, wanted - 1)
            except Exception as error:  # of this answer alone: the others go on
                self._end_with(job, error)
                failed.append(i)
                continue
            if longer is not request:
                parts[i] = job, longer
                drafted = len(longer.run.tokens) - len(request.run.tokens)
                count, wanted = count + drafted, wanted + drafted
        for i in reversed(failed):
            del parts[i]
        return parts

    def _next_prompt(self, tried: set[int]) -> Job | None:
        """The oldest prompt that goes on or begins, of those not ``tried``."""
        under_way = [j for j in self._ready() if j.generation.prefilling]
        for job in under_way:
            if id(job) not in tried:
                return job
        with self._changed:
            if not self._waiting or len(self._running) >= self.max_running:
                return None
        if self._turn is not None and not self._turn.begin(len(self._running)):
            return None
        with self._changed:
            if not self._waiting:  # the last one was refused meanwhile
                return None
            first = self._waiting[0]
            if any(first.generation.begins_like(job.generation) for job in under_way):
                return None
            self._running.append(self._waiting.popleft())
            if first.generation.engine is not self.engine:  # the device was opened anew meanwhile
                first.generation.move(self.engine, self._prefixes)
            return first

    def _add(self, parts: list[Part], job: Job, most: int) -> None:
        """The next tokens of a job, with pages for them; or its end."""
        try:
            request = job.generation.next_pass(most)
            if request is not None and self._make_room(job):
                self.engine.check_run(request.run)
                parts.append((job, request))
        except Exception as error:  # of this answer alone: the others go on
            self._end_with(job, error)

    # ---- one pass ------------------------------------------------------------------------------------------------
    def _run(self, parts: list[Part]) -> None:
        """One pass from doorbell to completion, or a loop, and what comes of it."""
        jobs, runs = [job for job, _ in parts], [request.run for _, request in parts]
        passes = 1
        may_loop = self.loop_passes > 1 and len(parts) == len(self._running) and None not in [run.draw for run in runs]
        if may_loop and not self._interrupts() and not self._alone():
            passes = loop_passes(self.engine, runs, [job.generation for job in jobs], self.loop_passes)
        loop = Loop(self.engine, jobs, runs, self._interrupts) if passes > 1 else None
        begin = time.monotonic()
        try:
            if loop is not None:
                result = self._on_device(lambda: loop.run(passes))
            else:
                write_logits = True in [request.write_logits for _, request in parts]
                result = self._on_device(lambda: self.engine.run_pass(runs, write_logits=write_logits))
        except (DeviceTimeout, DeviceFailed):
            raise
        except HwgenError as error:
            for job in jobs:
                self._end(job, error)
            return
        seconds = time.monotonic() - begin
        self._observe(jobs, result, all(job.generation.prefilling for job in jobs), seconds)
        self._take(jobs, result, seconds, loop)

    def _take(self, jobs: Sequence[Job], result: PassResult, seconds: float, loop: Loop | None) -> None:
        """Give a result to the jobs that it is of, and end those that are complete."""
        for number, (job, run) in enumerate(zip(jobs, result.runs, strict=True)):
            if job in self._turns:
                self._turns.remove(job)
                self._turns.append(job)
            try:
                if loop is not None:
                    loop.settle(number, result, seconds)
                else:
                    for token in job.generation.accept(result, run, seconds):
                        job.on_token(token)
            except (DeviceTimeout, DeviceFailed):
                raise
            except Exception as error:  # of this answer alone: the others go on
                self._end_with(job, error)
                continue
            if job.generation.ended:
                self._end(job, None)

    def _interrupts(self) -> bool:
        """Whether there is something to do between passes."""
        joins = self._waiting and len(self._running) < self.max_running
        return bool(joins or self._cancelled or self._refusal or self._errands)

    def _on_device(self, passes: Callable[[], PassResult]) -> PassResult:
        """The only place where the device is occupied; :class:`DeviceFailed` where the device is at fault and not these answers."""
        try:
            result = passes()
        except DeviceTimeout:
            raise
        except HwgenError as error:
            self._failed_passes += error.kind == "device"
            if self._failed_passes < FAILED_PASSES:
                raise
            raise DeviceFailed(f"{FAILED_PASSES} passes failed, the last with: {error.message}") from error
        except Exception as error:  # a driver raises anything: of the device nothing is known any more
            raise DeviceFailed(f"{type(error).__name__}: {error}") from error
        self._failed_passes = self._attempts = 0
        return result

    def _end_with(self, job: Job, error: Exception) -> None:
        """End an answer that failed; the others go on."""
        if not isinstance(error, HwgenError):
            traceback.print_exception(error)
            error = HwgenError("internal", f"this answer failed: {type(error).__name__}: {error}", "report this")
        self._end(job, error)

    def _make_room(self, job: Job) -> bool:
        """Pages for what the job computes next, its whole prompt included; False when the job itself had to make way."""
        generation, session = job.generation, job.generation.session
        while not self.engine.pages.reserve(session, session.position + generation.remaining, None, generation.summary_pages):
            ready = self._ready()
            if ready == [job]:
                raise NoRoom(self.engine, job)
            self.engine.pages.park(ready[-1].generation.session)
            if ready[-1] is job:
                return False
        return True

    def _end(self, job: Job, error: HwgenError | None) -> None:
        with self._changed:
            for jobs in (self._running, self._waiting):
                if job in jobs:
                    jobs.remove(job)
        try:
            job.generation.release()
        finally:
            job.on_end(error)
