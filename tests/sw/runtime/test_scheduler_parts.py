"""What a scheduler takes, says of itself, and asks others, step by step."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import pytest

from hwgen.errors import HwgenError
from hwgen.sw.compiler.image import Image
from hwgen.sw.devices.device import DeviceTimeout
from hwgen.sw.runtime.engine import Engine
from hwgen.sw.runtime.generation import Generation
from hwgen.sw.runtime.jobs import DeviceFailed, QueueFull
from hwgen.sw.runtime.prefix_cache import PrefixCache
from hwgen.sw.runtime.scheduler import Scheduler

from .test_scheduler import Client
from .toy_device import tiny_image, toy_engine


@pytest.fixture(scope="module")
def image() -> Image:
    return tiny_image()


@pytest.fixture
def engine(image: Image) -> Engine:
    return toy_engine(image, 512)


def client(engine: Engine, first: int = 3, count: int = 3, length: int = 2, **options: Any) -> Client:
    return Client(Generation(engine, [first] * length, count, **options))


def submitted(scheduler: Scheduler, *clients: Client) -> None:
    for one in clients:
        scheduler.submit(one.job)


def run(scheduler: Scheduler) -> None:
    while scheduler.step():
        pass


def fail_with(error: Exception) -> Callable[..., Any]:
    def fail(*arguments: object, **options: object) -> Any:
        raise error

    return fail


@pytest.mark.parametrize(("name", "least"), [
    ("max_running", 1), ("max_waiting", 0), ("time_between_tokens", 1), ("loop_passes", 1),
])
def test_limits_to_the_last(engine: Engine, name: str, least: int) -> None:
    Scheduler(engine, **{name: least})  # type: ignore[arg-type]  # by name
    for wrong in (least - 1, math.nan):
        with pytest.raises(HwgenError, match=f"{name} must be {least} or more, not {wrong!r}") as caught:
            Scheduler(engine, **{name: wrong})  # type: ignore[arg-type]  # by name
        assert caught.value.kind == "usage"


def test_what_it_has(engine: Engine) -> None:
    """Those that run, oldest first, and those that wait; full when as many wait as may beside those that begin at once."""
    scheduler = Scheduler(engine, max_running=2, max_waiting=1)
    clients = [client(engine, number) for number in range(6)]
    assert (scheduler.running, scheduler.waiting, scheduler.full, scheduler.jobs()) == (0, 0, False, ([], []))
    submitted(scheduler, *clients[:2])
    assert (scheduler.running, scheduler.waiting, scheduler.full) == (0, 2, False)
    submitted(scheduler, clients[2])
    assert scheduler.full
    with pytest.raises(QueueFull, match="3 requests are waiting"):
        scheduler.submit(clients[3].job)
    assert scheduler.step()
    jobs = [one.job for one in clients]
    assert (scheduler.running, scheduler.waiting, scheduler.full) == (2, 1, True) and scheduler.jobs() == (jobs[:2], jobs[2:3])
    run(scheduler)
    assert (scheduler.running, scheduler.waiting, scheduler.full) == (0, 0, False)
    assert [one.ends for one in clients[:4]] == [[None]] * 3 + [[]]
    roomy = Scheduler(engine, max_running=3, max_waiting=1)
    submitted(roomy, *(client(engine) for _ in range(3)))
    assert not roomy.full
    submitted(roomy, client(engine))
    assert roomy.full
    roomy.close()
    nobody_waits = Scheduler(engine, max_running=1, max_waiting=0)
    submitted(nobody_waits, clients[4])
    with pytest.raises(QueueFull):
        nobody_waits.submit(clients[5].job)


def test_calls_between_passes(engine: Engine) -> None:
    """They run in the next step, beside nothing; none is taken once the scheduler is closed, and what waits is refused."""
    scheduler = Scheduler(engine)
    ran: list[int] = []
    future = scheduler.between_passes(lambda: ran.append(scheduler.running) or 7)
    assert not ran and not future.done() and scheduler._has_work() is True
    assert scheduler.step() is False and future.result(0) == 7 and ran == [0] and scheduler._has_work() is False
    late = scheduler.between_passes(lambda: 8)
    scheduler.close()
    with pytest.raises(HwgenError, match="shutting down"):
        late.result(0)
    with pytest.raises(HwgenError, match="shutting down") as caught:
        scheduler.between_passes(lambda: 9)
    assert caught.value is scheduler.failure and caught.value.kind == "busy"
    scheduler.close()
    assert scheduler.failure is caught.value


def test_there_is_work(engine: Engine) -> None:
    scheduler = Scheduler(engine)
    assert scheduler._has_work() is scheduler._interrupts() is False
    one, two = client(engine), client(engine)
    submitted(scheduler, one)
    assert scheduler._has_work() is scheduler._interrupts() is True, "an answer may join"
    run(scheduler)
    scheduler.cancel(one.job)
    assert scheduler._has_work() is scheduler._interrupts() is True
    run(scheduler)
    full = Scheduler(engine, max_running=1)
    submitted(full, one := client(engine, count=9), two)
    full.step()
    assert full._interrupts() is False and full.waiting == 1, "nobody can join"
    full.close()
    assert full._has_work() is full._interrupts() is True


class Turns:
    """Of a device that others have now and then."""

    def __init__(self) -> None:
        self.mine, self.asked = False, list[tuple[str, int]]()

    def begin(self, running: int) -> bool:
        self.asked.append(("begin", running))
        return self.mine

    def rest(self, waiting: int) -> None:
        self.asked.append(("rest", waiting))


def test_turns(engine: Engine) -> None:
    """Asked for before an answer begins; given back, with how many wait, where none runs."""
    turns = Turns()
    scheduler = Scheduler(engine, turn=turns)
    one, two = client(engine, count=2), client(engine, 5, count=2)
    submitted(scheduler, one, two)
    assert scheduler.step() and turns.asked == [("rest", 2), ("begin", 0)] and not one.tokens
    turns.mine = True
    turns.asked.clear()
    assert scheduler.step() and turns.asked == [("rest", 2), ("begin", 0), ("begin", 1)]
    assert len(one.tokens) == len(two.tokens) == 1
    turns.asked.clear()
    assert scheduler.step() is True, "there was a pass"
    assert not turns.asked and one.ends == two.ends == [None]
    assert scheduler.step() is False and turns.asked == [("rest", 0)]


def test_passes_that_fail_one_behind_the_other(engine: Engine) -> None:
    """An error of the device ends the answers of the pass; the third one says that the device failed, and one that succeeds
    begins the count anew. Other errors are of the answers.
    """
    scheduler = Scheduler(engine)
    sound, port = engine.run_pass, HwgenError("device", "a port", "check it")

    def answer(error: Exception | None) -> Client:
        one = client(engine, count=1)
        engine.run_pass = sound if error is None else fail_with(error)  # type: ignore[method-assign]  # it fails
        submitted(scheduler, one)
        run(scheduler)
        return one

    for error in (port, port, HwgenError("usage", "no", ""), None, port, port):
        assert answer(error).ends == [error]
    with pytest.raises(DeviceFailed, match="3 passes failed, the last with: a port"):
        answer(port)
    for error in (DeviceTimeout("it hangs"), ZeroDivisionError("a bug")):
        other = Scheduler(toy_engine(engine.image, 64))
        other.engine.run_pass = fail_with(error)  # type: ignore[method-assign]  # it fails
        submitted(other, client(other.engine))
        with pytest.raises(DeviceTimeout if isinstance(error, DeviceTimeout) else DeviceFailed):
            other.step()


def test_opened_anew_as_often_as_it_helps(image: Image, engine: Engine) -> None:
    """A pass that succeeds begins the attempts anew; when all have failed no more jobs are taken."""
    opened, told = list[Engine](), list[HwgenError]()

    def reopen() -> tuple[Engine, PrefixCache | None]:
        opened.append(toy_engine(image, 64))
        return opened[-1], PrefixCache(opened[-1])

    scheduler = Scheduler(engine, reopen=reopen, back_off=(0, 0), on_failure=told.append)
    for attempt in range(3):
        scheduler._recover(DeviceFailed("x"))
        assert scheduler.engine is opened[-1] and (scheduler.reopened, scheduler.failure) == (attempt + 1, None)
        waits = client(engine, prefixes=None, count=1)
        submitted(scheduler, waits)
        run(scheduler)
        assert waits.ends == [None] and waits.generation.engine is opened[-1] and waits.generation.prefixes is scheduler._prefixes
    scheduler._failed_passes = 2
    scheduler._recover(DeviceFailed("x"))
    opened[-1].run_pass = fail_with(HwgenError("device", "a port", ""))  # type: ignore[method-assign]  # it fails
    for _ in range(2):
        submitted(scheduler, client(engine))
        run(scheduler)
    submitted(scheduler, client(engine))
    with pytest.raises(DeviceFailed, match="3 passes failed"):
        run(scheduler)
    scheduler._recover(DeviceFailed("y"))
    assert len(opened) == 5 and not told
    last = client(engine)
    submitted(scheduler, last)
    scheduler._recover(error := DeviceFailed("z"))
    assert scheduler.failure is error and told == [error] and last.ends == [error] and len(opened) == 5
    with pytest.raises(DeviceFailed, match="failed: z"):
        scheduler.submit(client(engine).job)


def test_moved_to_another_engine(image: Image, engine: Engine) -> None:
    other = toy_engine(image, 64)
    prefixes, scheduler, one = PrefixCache(other), Scheduler(engine), client(engine, count=1)
    submitted(scheduler, one)
    scheduler.move(other, prefixes)
    run(scheduler)
    assert scheduler.engine is one.generation.engine is other and one.generation.prefixes is prefixes and one.ends == [None]


def test_a_prompt_waits_for_one_that_begins_like_it(engine: Engine) -> None:
    """Others behind it wait too, so that nobody is overtaken."""
    prefixes, scheduler = PrefixCache(engine), Scheduler(engine)
    first, second = (client(engine, 7, 1, 30, prefixes=prefixes) for _ in range(2))
    third = client(engine, 9, 1)
    submitted(scheduler, first, second, third)
    scheduler.step()
    assert (scheduler.running, scheduler.waiting) == (1, 2)
    run(scheduler)
    assert second.generation.reused == 29 and first.tokens == second.tokens


def test_an_answer_that_failed_in_a_draft(engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    """It ends alone, and has no part in the pass."""
    scheduler = Scheduler(engine)
    clients = [client(engine, number, 5) for number in (1, 2, 3)]
    submitted(scheduler, *clients)
    scheduler.step()
    clients[0].generation.with_draft = clients[2].generation.with_draft = fail_with(  # type: ignore[method-assign]  # it fails
        ZeroDivisionError("a bug")
    )
    scheduler.step()
    assert [len(one.tokens) for one in clients] == [1, 2, 1] and scheduler.running == 1
    for failed in (clients[0], clients[2]):
        (end,) = failed.ends
        assert end is not None and end.kind == "internal" and "ZeroDivisionError: a bug" in end.message
    assert capsys.readouterr().err.count("Traceback") == 2
    run(scheduler)
    assert clients[1].ends == [None] and len(clients[1].tokens) == 5


def test_drafts_share_the_room_that_is_left(engine: Engine) -> None:
    """A pass has eight tokens: the first answer's draft as many as there is room for, told what is in the pass beside it."""
    scheduler = Scheduler(engine)
    clients = [client(engine, number, 9) for number in (1, 2, 3)]
    submitted(scheduler, *clients)
    scheduler.step()
    asked: list[tuple[int, int, int]] = []

    def watch(generation: Generation, length: int) -> None:
        def with_draft(request: Any, most: int, tokens: int, wanted: int) -> Any:
            asked.append((most, tokens, wanted))
            run = request.run
            generation._draft = draft = [39] * length
            if not length:
                return request
            return request._replace(run=run._replace(tokens=[*run.tokens, *draft], wanted=run.wanted + length))

        generation.with_draft = with_draft  # type: ignore[method-assign,assignment]  # watched

    for one, length in zip(clients, (2, 0, 3), strict=True):
        watch(one.generation, length)
    scheduler.step()
    assert asked == [(5, 2, 2), (3, 4, 4), (3, 4, 4)]
    asked.clear()
    watch(clients[0].generation, 5)
    scheduler.step()
    assert asked == [(5, 2, 2)], "no room is left for others"


def test_the_thread_ends_with_the_program(engine: Engine) -> None:
    scheduler = Scheduler(engine)
    scheduler.start()
    thread = scheduler._thread
    assert thread is not None and thread.daemon is True and thread.is_alive()
    assert scheduler.between_passes(lambda: threading.current_thread() is thread).result(60) is True
    scheduler.close()
    assert not thread.is_alive()


def test_what_is_lost_is_not_waited_for(engine: Engine) -> None:
    """A device that failed ends the answers that had a session, whatever ending them raises; the others wait."""
    scheduler = Scheduler(engine, max_running=2, reopen=lambda: (engine, None), back_off=(0,))
    clients = [client(engine, number, 9) for number in (1, 2, 3)]
    submitted(scheduler, *clients)
    scheduler.step()
    clients[0].generation.release = fail_with(OSError("gone"))  # type: ignore[method-assign]  # it fails
    scheduler._recover(error := DeviceFailed("x"))
    assert [one.ends for one in clients] == [[error], [error], []] and (scheduler.running, scheduler.waiting) == (0, 1)
    run(scheduler)
    assert clients[2].ends == [None] and len(clients[2].tokens) == 9


def test_a_prompt_waits_where_a_pass_is_full(engine: Engine) -> None:
    """Of answers: it gets no session yet."""
    scheduler = Scheduler(engine, max_running=9)
    clients = [client(engine, number, 9, 1) for number in range(8)]
    submitted(scheduler, *clients)
    scheduler.step()
    assert all(len(one.tokens) == 1 for one in clients) and engine.image.chunk == 8
    submitted(scheduler, late := client(engine, 9, 1))
    scheduler.step()
    assert (scheduler.running, scheduler.waiting) == (8, 1)
    run(scheduler)
    assert late.ends == [None]


def test_loops_are_made_ready_where_they_are_wanted(engine: Engine) -> None:
    """The table of a loop takes memory."""
    asked: list[int] = []
    engine.can_loop = lambda: asked.append(1) is None  # type: ignore[method-assign,func-returns-value]  # watched
    assert Scheduler(engine).loop_passes == Scheduler(engine, loop_passes=1).loop_passes == 1 and not asked
    assert Scheduler(engine, loop_passes=2).loop_passes == 2 and asked == [1]


def test_no_more_prompts_where_one_has_no_room(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first that has none is the last that gets a session; where nobody decodes, a pass has the whole chunk."""
    rooms, asked = iter((2, 0)), list[int]()

    def room(engine: Engine, most: float, parts: list[Any], answers: int, job: Any) -> int:
        asked.append(answers)
        return next(rooms)

    monkeypatch.setattr("hwgen.sw.runtime.scheduler.prompt_room", room)
    scheduler = Scheduler(engine)
    first = client(engine, 1, 5, 8)
    submitted(scheduler, first)
    scheduler.step()
    assert len(first.tokens) == 1 and not asked
    prompts = [client(engine, number, 1, 5) for number in (2, 3, 4)]
    submitted(scheduler, *prompts)
    scheduler.step()
    assert asked == [1, 1] and (scheduler.running, scheduler.waiting) == (3, 1)
    assert [one.generation.session.position for one in prompts] == [2, 0, 0] and len(first.tokens) == 2
    scheduler.close()
