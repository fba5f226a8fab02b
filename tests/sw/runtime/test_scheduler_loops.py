"""Loops of a tiny model on the golden machine, alone and together: doorbells are counted, and tokens stay what they are."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hwgen.errors import HwgenError
from hwgen.registers import register
from hwgen.sw.compiler.image import Image
from hwgen.sw.compiler.pass_costs import PassCosts
from hwgen.sw.devices.device import DeviceTimeout
from hwgen.sw.devices.golden import GoldenDevice
from hwgen.sw.runtime.drafts import Drafter
from hwgen.sw.runtime.engine import Engine, Run
from hwgen.sw.runtime.generation import Generation
from hwgen.sw.runtime.jobs import Job
from hwgen.sw.runtime.kv_arrays import with_cache_tokens
from hwgen.sw.runtime.loops import Loop
from hwgen.sw.runtime.pages import Session
from hwgen.sw.runtime.running_loop import RunningLoop, loop_passes, stops_of
from hwgen.sw.runtime.sampling import Sampling
from hwgen.sw.runtime.scheduler import Scheduler

from ..conftest import CONFIG
from .toy_device import tiny_image

FLAT = PassCosts(sizes=(1, 8), plain=(100.0, 100.0), wanting=(100.0, 100.0), block=0.0)


class Counted(GoldenDevice):
    """Counts doorbells, by the passes that LOOP allows."""

    def __init__(self) -> None:
        super().__init__(CONFIG, memory_bytes=1 << 22)
        self.rung: list[int] = []
        self._control, self._loop_at = (register(CONFIG, name).offset for name in ("CONTROL", "LOOP"))

    def write_register(self, offset: int, value: int) -> None:
        if offset == self._control and value & 1:
            self.rung.append(self.read_register(self._loop_at))
        super().write_register(offset, value)


@pytest.fixture(scope="module")
def image() -> Image:
    return with_cache_tokens(tiny_image(), 2048)


@pytest.fixture
def engine(image: Image) -> Engine:
    return Engine(Counted(), image)


def rung(engine: Engine) -> list[int]:
    device: Any = engine.device
    return list(device.rung)


def answer(engine: Engine, count: int, passes: int, prompt: Sequence[int] = (3, 9), **options: Any) -> Generation:
    generation = Generation(engine, list(prompt), count, doorbell_passes=passes, **options)
    assert [item.token for item in generation][: len(generation.tokens)] == generation.tokens
    return generation


def test_one_doorbell_for_many_tokens(engine: Engine) -> None:
    """The prompt has a pass of its own; LOOP says how many follow."""
    plain = answer(engine, 8, 1)
    assert rung(engine) == [0] * 8 and (plain.prefill.tokens, plain.decode.tokens) == (2, 7)
    looped = answer(engine, 8, 64)
    assert looped.tokens == plain.tokens and rung(engine)[8:] == [0, 7]
    assert (looped.prefill.tokens, looped.decode.tokens, looped.session.position) == (2, 7, plain.session.position)
    few = answer(engine, 8, 3)
    assert few.tokens == plain.tokens and rung(engine)[10:] == [0, 3, 3, 0], "a pass alone needs no loop"
    stop = plain.tokens[4]
    before = plain.tokens[: plain.tokens.index(stop)]
    stopped = answer(engine, 8, 64, stop_tokens=[stop])
    assert stopped.tokens == before and stopped.stop_reason == "stop" and stopped.session.pending == [stop]


def test_drawn_as_without_a_loop(engine: Engine) -> None:
    for sampling, loops in ((Sampling(temperature=1.5, top_k=3, seed=7), True), (Sampling(temperature=1.5, seed=7), False)):
        plain, first = answer(engine, 6, 1, sampling=sampling), len(rung(engine))
        assert answer(engine, 6, 64, sampling=sampling).tokens == plain.tokens
        assert rung(engine)[first:] == ([0, 5] if loops else [0] * 6)


def test_a_loop_that_is_left(engine: Engine) -> None:
    """Whoever stops taking tokens ends it; the next answer is right, and tokens that nobody took are computed again."""
    plain = answer(engine, 12, 1)
    generation = Generation(engine, [3, 9], 12, doorbell_passes=64)
    items = iter(generation)
    taken = [next(items).token for _ in range(4)]
    assert taken == plain.tokens[:4] and generation.decode.tokens == 0
    assert engine.forward(Session(), [3, 9]).candidates[0].token == plain.tokens[0], "another pass ends the loop"
    assert [item.token for item in items] == plain.tokens[4:] and generation.doorbell_passes == 1
    again = Generation(engine, [3, 9], 12, doorbell_passes=64)
    items = iter(again)
    next(items), next(items)
    again.interrupt()
    assert again.stop_reason == "interrupted" and again.session.tokens == [3, 9, plain.tokens[0]]
    assert again.session.pending == [plain.tokens[1]] and again.decode.tokens == 1
    again.release()
    assert engine.pages.missing(again.session, 1) == 1


def test_what_a_loop_that_was_closed_knows(engine: Engine) -> None:
    """Closed: before everything was taken. One that has ended, all of it taken, is not."""
    def looping(passes: int) -> tuple[RunningLoop, Session]:
        session = Session()
        token = engine.prefill(session, [3, 9])[-1].runs[0].best(0)
        return RunningLoop(engine, [Run(session, [token], 1)], passes, set()), session

    loop, session = looping(5)
    tokens = [token for (token,) in loop]
    assert len(tokens) == loop.passes == 5 and loop.result is not None and loop.result.passes == 5 and not loop.closed
    assert loop.close() is loop.result and not loop.closed and session.position == 7
    assert [run.tokens for run in loop.result.runs] == [5]
    early, session = looping(5)
    first = next(early)
    assert early.close() is early.result and early.closed and early.passes == 1
    assert session.position == 3 and first == [tokens[0]]
    with pytest.raises(StopIteration):
        next(early)
    untaken, _ = looping(3)
    while untaken.result is None:
        untaken._wait()
    assert untaken.close() is not None and untaken.closed and untaken.passes == 0, "it has ended, and nothing was taken"
    last, _ = looping(8)
    next(last)
    last.let_end()
    assert 1 <= len([*last]) < 7 and not last.closed


def scheduled(engine: Engine, passes: int, jobs: Sequence[tuple[Sequence[int], int, dict[str, Any]]], **options: Any) -> Any:
    """Tokens and errors of answers that a scheduler writes, and its observer's rows."""
    found: list[list[int]] = [[] for _ in jobs]
    ends: list[object] = []
    rows: list[tuple[int, bool, int]] = []
    scheduler = Scheduler(
        engine, loop_passes=passes, **options,
        observer=lambda jobs, result, prefill, seconds: rows.append((len(jobs), prefill, result.passes)),
    )
    for number, (prompt, count, of) in enumerate(jobs):
        generation = Generation(engine, list(prompt), count, **of)
        scheduler.submit(Job(generation, lambda item, n=number: found[n].append(item.token), ends.append))  # type: ignore[misc]  # n has its type from the loop
    while scheduler.step():
        pass
    assert ends == [None] * len(jobs) and (scheduler.running, scheduler.waiting) == (0, 0)
    assert engine.pages.free == engine.image.pages
    return found, rows


def test_answers_together(engine: Engine) -> None:
    """Prompts in passes of their own, then loops till an answer ends; what each gets is what it gets alone."""
    jobs: list[Any] = [([3, 9], 6, {}), ([5], 4, {}), ([7, 7, 7], 4, {"sampling": Sampling(temperature=2.0, top_k=2, seed=1)})]
    plain, rows = scheduled(engine, 1, jobs)
    assert {passes for _, _, passes in rows} == {1} and rows[0] == (3, True, 1) and len(rows) == 6
    looped, rows = scheduled(engine, 64, jobs)
    assert looped == plain and rows == [(3, True, 1), (3, False, 3), (1, False, 2)]
    short, rows = scheduled(engine, 2, jobs)
    assert short == plain and [row[2] for row in rows] == [1, 2, 1, 2]
    one, rows = scheduled(engine, 64, jobs, max_running=1)
    assert one == plain and [row[2] for row in rows] == [1, 5, 1, 3, 1, 3]
    kept, rows = scheduled(engine, 64, jobs, alone=lambda: True)
    assert kept == plain and {passes for _, _, passes in rows} == {1}, "passes with doorbells of their own are wanted"
    lone, rows = scheduled(engine, 64, [jobs[0], ([5], 4, {"sampling": Sampling(temperature=2.0)})])
    assert lone[0] == plain[0] and [row for row in rows if row[0] == 2 and row[2] > 1] == [], "the host draws for one of them"


def test_an_answer_that_fails_in_a_loop(engine: Engine) -> None:
    """It ends with its error; the other goes on."""
    told, ends = list[int](), list[HwgenError | None]()
    scheduler = Scheduler(engine, loop_passes=64)

    def refuse(item: object) -> None:
        told.append(1)
        if len(told) == 3:
            raise HwgenError("usage", "enough")

    good = Generation(engine, [5], 8)
    scheduler.submit(Job(Generation(engine, [3, 9], 8), refuse, ends.append))
    scheduler.submit(Job(good, lambda item: None, ends.append))
    while scheduler.step():
        pass
    assert len(told) == 3 and len(good.tokens) == 8
    assert ends[0] is not None and ends[0].message == "enough" and ends[1] is None


def test_who_interrupts(engine: Engine) -> None:
    """A loop ends behind the pass in which there is something else to do."""
    sessions = [Session(), Session()]
    generations = [Generation(engine, [token], 30, session=session) for token, session in zip((3, 5), sessions, strict=True)]
    jobs, runs = [Job(generation, lambda item: None, lambda error: None) for generation in generations], []
    for generation in generations:
        step = generation.next_pass(8)
        assert step is not None
        result = engine.run_pass([step.run])
        generation.accept(result, result.runs[0], 0.0)
        step = generation.next_pass(1)
        assert step is not None
        runs.append(step.run)
    asked: list[int] = []

    def stops() -> bool:
        asked.append(1)
        return len(asked) >= 3

    loop = Loop(engine, jobs, runs, stops)
    result = loop.run(20)
    assert 3 <= result.passes < 20 and len(generations[0].tokens) == len(generations[1].tokens) == result.passes + 1
    loop.settle(0, result, 1.5)
    assert (generations[0].decode.tokens, generations[0].decode.wall_s) == (result.passes, 1.5)
    assert stops_of([Generation(engine, [1], 1, stop_tokens=(4, 5)), Generation(engine, [1], 1, stop_tokens=(5, 6))]) == {4, 5, 6}


def test_drafts_are_asked_for_beside_the_others(engine: Engine) -> None:
    """What a draft costs depends on how many tokens travel beside it: one of each other answer."""
    asked = list[tuple[int, int]]()

    class Writes:
        stop_tokens: Sequence[int] = ()
        ended = False

        def __init__(self, number: int) -> None:
            self.number = number

        def take(self, token: int) -> int:
            return token

        def has_draft(self, others: int) -> bool:
            asked.append((self.number, others))
            return self.number == 2

    jobs: Any = [SimpleNamespace(generation=Writes(i), on_token=lambda item: None) for i in range(3)]
    loop = Loop(engine, jobs, [], lambda: False)
    assert loop._on_pass([1, 1, 1]) is False and asked == [(0, 2), (1, 2), (2, 2)]
    asked.clear()
    two = Loop(engine, jobs[:2], [], lambda: False)
    assert two._on_pass([1, 1]) is True and asked == [(0, 1), (1, 1)]


@pytest.mark.parametrize("way", ["ends", "fails", "is interrupted", "times out"])
def test_what_ends_a_loop(engine: Engine, way: str) -> None:
    """An answer that ends or fails, once, or something else to do; what comes for it behind that is not its own."""
    added: list[tuple[str, int, float]] = []

    class Writes:
        def __init__(self, name: str) -> None:
            self.name, self.ended, self.taken = name, False, list[int]()
            self.decode = SimpleNamespace(add=lambda result, tokens, seconds: added.append((name, tokens, seconds)))

        def take(self, token: int) -> int:
            self.taken.append(token)
            self.ended = way == "ends" and (self.name, len(self.taken)) == ("second", 2)
            return token

        def has_draft(self, others: int) -> bool:
            assert others == 2 and not self.ended
            return False

    def told(token: Any) -> None:
        if token == 22 and way == "fails":
            raise OSError("gone")
        if token == 22 and way == "times out":
            raise DeviceTimeout("it hangs")

    answers: list[Any] = [Writes(name) for name in ("first", "second", "third")]
    jobs = [Job(answer, told, lambda error: None) for answer in answers]
    interrupts: list[int] = []
    loop = Loop(engine, jobs, [], lambda: bool(interrupts))
    assert loop._on_pass([11, 21, 31]) is True
    interrupts += [1] * (way == "is interrupted")
    if way == "times out":
        with pytest.raises(DeviceTimeout):
            loop._on_pass([12, 22, 32])
        return
    assert loop._on_pass([12, 22, 32]) is False
    interrupts.clear()
    assert loop._on_pass([13, 23, 33]) is True
    alone = way == "is interrupted"
    assert [answer.taken for answer in answers] == [[11, 12, 13], [21, 22, *([23] if alone else [])], [31, 32, 33]]
    result: Any = None
    loop.settle(0, result, 0.5)
    if way == "fails":
        with pytest.raises(OSError, match="gone"):
            loop.settle(1, result, 0.25)
    else:
        loop.settle(1, result, 0.25)
    loop.settle(2, result, 0.75)
    assert added == [("first", 3, 0.5), ("second", 3 if alone else 2, 0.25), ("third", 3, 0.75)]


def test_a_draft_ends_a_loop(engine: Engine) -> None:
    """Where drafts pay, tokens come by passes with drafts: a text that repeats itself is soon found."""
    plain = answer(engine, 20, 1, prompt=[1, 2, 3])
    drafter = Drafter(FLAT)
    found = answer(engine, 20, 64, prompt=[1, 2, 3], drafter=drafter)
    assert found.tokens == plain.tokens and drafter.passes == 19 - drafter.accepted and drafter.accepted > 0
    waiting = Generation(engine, [1, 2], 5, drafter=drafter)
    assert waiting.loop_passes == 0, "the prompt was not read"
    going = Generation(engine, [1, 2], 5, drafter=Drafter(FLAT))
    next(iter(going))
    assert going.loop_passes == 4 and going.has_draft(0) is False
    going.drafter.guesser.takes_passes = True  # type: ignore[union-attr]  # as a model's
    assert going.loop_passes == 0


def test_no_loop_without_room(engine: Engine) -> None:
    class Ready:
        stop_tokens: Sequence[int] = ()
        loop_passes = 40

    run = Run(Session(), [1], 1)
    assert loop_passes(engine, [run], [Ready()], 64) == 40 and loop_passes(engine, [run], [Ready()], 2) == 2
    assert loop_passes(engine, [run], [Ready()], 1) == 0
    engine.memory.__dict__["loop_program"] = None
    assert loop_passes(engine, [run], [Ready()], 64) == 0
    assert Scheduler(engine, loop_passes=64).loop_passes == 1
    assert np.array_equal(answer(engine, 6, 64).tokens, answer(engine, 6, 1).tokens) and set(rung(engine)) == {0}
