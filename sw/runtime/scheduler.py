"""Several answers at a time on one accelerator: passes of all sessions are interleaved."""

from __future__ import annotations

import contextlib
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ...errors import HwgenError
from ..devices.device import DeviceTimeout
from .engine import Engine, PassResult, SlicedPass
from .generation import GeneratedToken, Generation, PassRequest
from .prefix_cache import PrefixCache

__all__ = ["BACK_OFF", "DeviceFailed", "Job", "Observer", "QueueFull", "Scheduler"]

#: Seconds before each attempt to open a device that failed. When the last has failed, or no pass succeeded after any of them, no
#: more jobs are taken.
BACK_OFF = (0.0, 1.0, 4.0, 15.0, 60.0)

#: Passes that fail one behind the other, of whatever jobs, before the device counts as failed.
FAILED_PASSES = 3

#: Told of every pass: its job, what it did, whether it was of prefill, the seconds it took.
Observer = Callable[["Job", PassResult, bool, float], None]


class QueueFull(HwgenError):
    """More answers are asked for than may wait."""

    def __init__(self, waiting: int) -> None:
        super().__init__("busy", f"{waiting} requests are waiting already", "try again later")


class DeviceFailed(HwgenError):
    """The device, and not one answer, is at fault."""

    def __init__(self, reason: str) -> None:
        super().__init__("device", f"the device failed: {reason}", "try again in a while")


@dataclass(eq=False)
class Job:
    """One answer in the making. The callbacks are called by the thread that runs the scheduler."""

    generation: Generation
    on_token: Callable[[GeneratedToken], None]
    #: Called once, with the error if the answer could not be completed.
    on_end: Callable[[HwgenError | None], None]
    cancelled: bool = field(default=False, init=False)
    #: The pass of prefill that made way for others, and the seconds it has taken.
    sliced: SlicedPass | None = field(default=None, init=False)
    seconds: float = field(default=0.0, init=False)


class Scheduler:
    """Runs jobs pass by pass.

    Every decoding session gets one pass a round; after each round comes a turn of the prefill that was asked for first:
    ``turn`` slices of its pass, a slice being one operator with what it needs (see `hwgen.sw.compiler.slices`), or with 0
    the whole pass. So with 1 a decoding session never waits longer for another's prompt than one operator takes. Where nobody
    decodes, and where the scratch memory has no room for slices, a turn is a whole pass. Prompts are computed one after the
    other, in order: the second of two that begin alike finds what the first has left.

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
        turn: int = 1,
        observer: Observer | None = None,
        reopen: Callable[[], tuple[Engine, PrefixCache | None]] | None = None,
        back_off: Sequence[float] = BACK_OFF,
        on_failure: Callable[[HwgenError], None] | None = None,
    ) -> None:
        for name, value, least in (("max_running", max_running, 1), ("max_waiting", max_waiting, 0), ("turn", turn, 0)):
            if value < least:
                raise HwgenError("usage", f"{name} must be {least} or more, not {value!r}", f"give {least} or more")
        self.engine = engine
        self.max_running, self.max_waiting, self.turn = max_running, max_waiting, turn
        self._observe: Observer = observer or (lambda job, result, prefill, seconds: None)
        self._reopen, self._back_off = reopen, back_off
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
        #: Jobs that have a session, oldest first, and of these the ones still to be served in this round.
        self._running: list[Job] = []
        self._round: deque[Job] = deque()
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
        """End a job before its next pass or slice; nothing happens to one that has ended."""
        with self._changed:
            job.cancelled = True
            self._changed.notify()

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
                        self._changed.wait_for(lambda: self._refusal or self._waiting or any(j.cancelled for j in self._running))
            except (DeviceTimeout, DeviceFailed) as error:
                self._recover(error)
            except Exception as error:  # between the answers: nothing is known of any of them
                traceback.print_exc()
                self._recover(DeviceFailed(f"{type(error).__name__}: {error}"))

    def _recover(self, error: HwgenError) -> None:
        """End what has a session, and go on with an engine on a device opened anew, or with none."""
        with self._changed:
            self._recovering = error
        for job in list(self._running):
            with contextlib.suppress(Exception):  # it has been told; what it held is lost with the device
                self._end(job, error)
        self._round.clear()
        for seconds in self._back_off[self._attempts :] if self._reopen is not None else ():
            self._attempts += 1
            with self._changed:
                if self._changed.wait_for(lambda: self._refusal, seconds):  # closed meanwhile
                    return
            try:
                assert self._reopen is not None
                engine, prefixes = self._reopen()
            except Exception as again:
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

    def step(self) -> bool:
        """One pass, or turn of slices, of one job; False when there is nothing to do."""
        for job in [j for j in [*self._running, *self._waiting] if j.cancelled]:
            self._end(job, None)
        self._admit()
        job_or_none = self._next()
        if job_or_none is None:
            return False
        self._advance(job_or_none)
        return True

    def _ready(self) -> list[Job]:
        """Running jobs whose session is on the device."""
        return [j for j in self._running if j.generation.session.parked is None]

    def _admit(self) -> None:
        """Bring parked sessions back, oldest first; then begin the next prompt if none is being computed."""
        for job in [j for j in self._running if j.generation.session.parked is not None]:
            session = job.generation.session
            if not self.engine.pages.unpark(session, session.position + job.generation.remaining):
                if not self._ready():  # nobody here will give pages back
                    self._end(job, self._no_room(job))
                return
        with self._changed:
            prefill = any(j.generation.prefilling for j in self._running)
            if self._waiting and len(self._running) < self.max_running and not prefill:
                job = self._waiting.popleft()
                if job.generation.engine is not self.engine:  # the device was opened anew meanwhile
                    job.generation.move(self.engine, self._prefixes)
                self._running.append(job)

    def _next(self) -> Job | None:
        ready = self._ready()
        while True:
            while self._round:
                job = self._round.popleft()
                if job in ready:
                    return job
            self._round.extend(j for j in ready if not j.generation.prefilling)
            prefill = self._next_prefill(ready)
            if prefill is not None or not self._round:
                return prefill

    def _next_prefill(self, ready: list[Job]) -> Job | None:
        """The one whose pass is under way, then the oldest."""
        waiting = [j for j in ready if j.generation.prefilling]
        under_way = [j for j in waiting if self.engine.is_suspended(j.sliced)]
        return next(iter(under_way + waiting), None)

    def _advance(self, job: Job) -> None:
        generation = job.generation
        try:
            request = generation.next_pass()
            if request is not None:
                if not self._make_room(job):
                    return
                prefill = generation.prefilling
                begin = time.monotonic()
                result = self._on_device(job, request)
                job.seconds += time.monotonic() - begin
                if result is None:
                    return
                seconds, job.seconds = job.seconds, 0.0
                self._observe(job, result, prefill, seconds)
                token = generation.accept(result, seconds)
                if token is not None:
                    job.on_token(token)
        except (DeviceTimeout, DeviceFailed):
            raise
        except HwgenError as error:
            self._end(job, error)
            return
        except Exception as error:  # of one answer: the others go on
            traceback.print_exc()
            self._end(job, HwgenError("internal", f"this answer failed: {type(error).__name__}: {error}", "report this"))
            return
        if generation.ended:
            self._end(job, None)

    def _on_device(self, job: Job, request: PassRequest) -> PassResult | None:
        """:meth:`_run_pass`; :class:`DeviceFailed` where not this answer is at fault but the device."""
        try:
            result = self._run_pass(job, request)
        except DeviceTimeout:
            raise
        except HwgenError as error:
            self._failed_passes += error.kind == "device"
            if self._failed_passes < FAILED_PASSES:
                raise
            raise DeviceFailed(f"{FAILED_PASSES} passes failed, the last with: {error.message}") from error
        except Exception as error:
            raise DeviceFailed(f"{type(error).__name__}: {error}") from error
        self._failed_passes = self._attempts = 0
        return result

    def _run_pass(self, job: Job, request: PassRequest) -> PassResult | None:
        """One pass from doorbell to completion, or a turn of one that makes way for others: None when it goes on. The only place
        where the device is occupied.
        """
        session, options = job.generation.session, {"logits": request.logits, "write_logits": request.write_logits}
        if job.sliced is None:
            decoding = any(not j.generation.prefilling for j in self._ready())
            if not (self.turn and self.engine.slices and job.generation.prefilling and decoding):
                return self.engine.forward(session, request.tokens, **options)
            job.sliced = self.engine.begin_slices(session, request.tokens, **options)
        for _ in range(max(1, self.turn)):
            result = self.engine.run_slice(job.sliced)
            if result is not None:
                job.sliced = None
                return result
            if job.cancelled:
                break
        return None

    def _make_room(self, job: Job) -> bool:
        """Pages for what the job computes next, its whole prompt included; False when the job itself had to make way."""
        session = job.generation.session
        while not self.engine.pages.reserve(session, session.position + job.generation.remaining):
            ready = self._ready()
            if ready == [job]:
                raise self._no_room(job)
            self.engine.pages.park(ready[-1].generation.session)
            if ready[-1] is job:
                return False
        return True

    def _no_room(self, job: Job) -> HwgenError:
        need = self.engine.pages.blocks(job.generation.session.position + job.generation.remaining)
        return HwgenError(
            "context",
            f"the answer needs {need} KV pages, and too many are held by sessions outside the scheduler",
            "close these sessions, or give the cache more tokens",
        )

    def _end(self, job: Job, error: HwgenError | None) -> None:
        with self._changed:
            for jobs in (self._running, self._waiting):
                if job in jobs:
                    jobs.remove(job)
        try:
            job.generation.release()
        finally:
            job.on_end(error)
