"""Answers that are iterated over, whose tokens the machine chooses: they come one by one, and nothing is lost between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hwgen.block_choice import first_position, summary_pages
from hwgen.errors import HwgenError
from hwgen.registers import CHOSEN_TOKENS, STOP_TOKENS, Control, register
from hwgen.sw.compiler.compile import compile_model
from hwgen.sw.compiler.image import Image
from hwgen.sw.devices.golden import GoldenDevice
from hwgen.sw.runtime.drafts import Drafter
from hwgen.sw.runtime.engine import NO_TOKEN, Engine, Run
from hwgen.sw.runtime.generation import Generation
from hwgen.sw.runtime.kv_arrays import with_cache_tokens
from hwgen.sw.runtime.pages import Session
from hwgen.sw.runtime.running_loop import RunningLoop, loop_passes
from hwgen.weights import ModelWeights

from ..conftest import CONFIG, SHAPE

PROMPT, COUNT = [5, 9, 2, 7], 24


class Machine(GoldenDevice):
    """Counts doorbells, and calls somebody whenever it is waited for."""

    def __init__(self) -> None:
        super().__init__(CONFIG, memory_bytes=1 << 22)
        self.doorbells = 0
        self.on_wait: Callable[[], None] = lambda: None

    def write_register(self, offset: int, value: int) -> None:
        self.doorbells += offset == register(CONFIG, "CONTROL").offset and bool(value & Control.START)
        super().write_register(offset, value)

    def wait(self, timeout: float, look: Callable[[], bool] | None = None) -> bool:
        self.on_wait()
        return super().wait(timeout, look)

    def passes(self) -> int:
        """Of the loop that runs."""
        return self.machine.registers.passes


@pytest.fixture(scope="module")
def image(weights: ModelWeights) -> Image:
    """A model that seldom says the same again: the head has the rows of the embedding in another order."""
    head = np.random.default_rng(1).permutation(weights.embedding)
    weights = replace(weights, shape=replace(SHAPE, tied=False), head=head)
    return with_cache_tokens(compile_model(CONFIG, weights), 4 * CONFIG.max_context)


@pytest.fixture(scope="module")
def expected(image: Image) -> list[int]:
    """With a doorbell a pass."""
    tokens = [item.token for item in Generation(Engine(Machine(), image), PROMPT, COUNT)]
    assert len(set(tokens)) > COUNT // 2
    return tokens


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def engine(machine: Machine, image: Image) -> Engine:
    return Engine(machine, image)


def looped(engine: Engine, prompt: list[int] = PROMPT, **options: object) -> Generation:
    return Generation(engine, prompt, COUNT, doorbell_passes=64, **options)  # type: ignore[arg-type]  # by name


def test_tokens_come_one_by_one(engine: Engine, machine: Machine, expected: list[int]) -> None:
    generation = looped(engine)
    for number, item in enumerate(generation):
        assert item.token == expected[number] and generation.tokens == expected[: number + 1]
        assert generation.session.position == len(PROMPT) + number
        assert machine.passes() <= max(1, number), "the machine has not gone far ahead"
    assert machine.doorbells == 2 and generation.decode.tokens == COUNT - 1
    beats, alone = generation.decode.stream_beats, Generation(Engine(Machine(), engine.image), PROMPT, COUNT)
    assert list(alone)[-1].stop_reason == "length" and alone.decode.stream_beats == beats > 0


def test_stop_tokens_and_drafts(engine: Engine, machine: Machine, expected: list[int]) -> None:
    stop = next(token for token in expected[8:] if token not in expected[:8])
    at = expected.index(stop)
    stopped = looped(engine, stop_tokens=[stop])
    assert [item.token for item in stopped] == expected[: at + 1]
    assert stopped.tokens == expected[:at] and stopped.stop_reason == "stop" and stopped.session.pending == [stop]
    assert machine.doorbells == 2
    drafted = looped(engine, drafter=Drafter(engine.costs))
    assert [item.token for item in drafted] == expected
    assert drafted.drafter is not None and drafted.drafter.passes == drafted.decode.tokens - drafted.drafter.accepted


@pytest.mark.parametrize("stops", [(), (7,), (7, 8, 9), tuple(range(STOP_TOKENS))])
def test_stop_tokens_of_an_earlier_loop_are_no_more(engine: Engine, stops: tuple[int, ...]) -> None:
    row = register(CONFIG, "STOP_TOKEN")
    for tokens in (tuple(range(40, 40 + STOP_TOKENS)), stops):
        session = Session()
        engine.prefill(session, PROMPT[:2])
        RunningLoop(engine, [Run(session, (3,), 1)], 2, tokens).close()
        engine.pages.close(session)
    held = [engine._state.held.get(row.offset + i * row.step) for i in range(STOP_TOKENS)]
    assert held == [*stops, *[NO_TOKEN] * (STOP_TOKENS - len(stops))]


@pytest.mark.parametrize("taken", [1, 2, 9])
@pytest.mark.parametrize("way", ["interrupted", "in the machine", "left"])
def test_an_answer_that_is_left(engine: Engine, machine: Machine, expected: list[int], taken: int, way: str) -> None:
    """By its reader, by Ctrl-C while a pass runs, or for another answer: what was read goes on with the same tokens."""
    session = Session()
    generation = looped(engine, session=session)
    tokens = iter(generation)
    assert [next(tokens).token for _ in range(taken)] == expected[:taken]
    if way == "in the machine":
        def interrupt() -> None:
            machine.on_wait = lambda: None
            raise KeyboardInterrupt

        machine.on_wait = interrupt
        with pytest.raises(KeyboardInterrupt):
            next(tokens)
    if way == "left":
        assert [item.token for item in looped(engine)] == expected
        assert [item.token for item in tokens] == expected[taken:]
    else:
        generation.interrupt()
        assert not list(tokens) and generation.stop_reason == "interrupted"
        assert session.position == len(PROMPT) + taken - 1 and session.pending == expected[taken - 1 : taken]
        assert [item.token for item in looped(engine, [expected[taken]], session=session)] == whole(engine.image, expected, taken)
        assert session.tokens[: len(PROMPT) + taken + 1] == [*PROMPT, *expected[: taken + 1]]
    assert generation.decode.tokens <= COUNT
    generation.release()
    if way != "left":
        assert engine.pages.free == engine.image.pages


def whole(image: Image, expected: list[int], taken: int) -> list[int]:
    """The tokens behind the prompt and ``taken + 1`` tokens of the answer, computed alone."""
    return [item.token for item in Generation(Engine(Machine(), image), [*PROMPT, *expected[: taken + 1]], COUNT)]


def test_answers_that_take_turns(engine: Engine, machine: Machine, expected: list[int]) -> None:
    others = [item.token for item in Generation(Engine(Machine(), engine.image), [3, 3], COUNT)]
    pairs = list(zip(looped(engine), looped(engine, [3, 3]), strict=True))
    assert [a.token for a, _ in pairs] == expected and [b.token for _, b in pairs] == others
    assert machine.doorbells <= 2 * COUNT + 2, "loops are given up where they are ended"


def test_a_loop_ends_before_its_pages_are_given_back(engine: Engine, machine: Machine) -> None:
    first = looped(engine)
    tokens = iter(first)
    next(tokens), next(tokens)
    first.release()
    assert engine.pages.free == engine.image.pages and machine.machine.registers.loop == 1
    assert machine.read_register(register(CONFIG, "STATUS").offset) == 0, "its end was acknowledged"


def test_a_device_that_fails(engine: Engine, machine: Machine, expected: list[int]) -> None:
    """The error comes out, and the next answer is right."""
    tokens = iter(looped(engine))
    next(tokens), next(tokens)

    def fail() -> None:
        machine.on_wait = lambda: None
        raise HwgenError("device", "it failed", "try again")

    machine.on_wait = fail
    with pytest.raises(HwgenError, match="it failed"):
        next(tokens)
    assert [item.token for item in looped(engine)] == expected


def test_a_loop_that_failed(engine: Engine, machine: Machine) -> None:
    """It has ended: nothing more comes of it, and closing it gives no result and waits for nothing."""
    session = Session()
    engine.prefill(session, PROMPT)
    loop = RunningLoop(engine, [Run(session, (3,), 1)], 9, ())
    next(loop)

    def fail() -> None:
        raise HwgenError("device", "it failed", "try again")

    machine.on_wait = fail
    with pytest.raises(HwgenError, match="it failed"):
        list(loop)
    assert loop.closed and loop.close() is None and loop.passes >= 1 and engine._state.loop is None
    with pytest.raises(StopIteration):
        next(loop)


@pytest.mark.parametrize(("taken", "closed"), [(300, False), (299, True)])
def test_a_long_loop_of_which_all_was_taken(taken: int, closed: bool) -> None:
    loop: Any = RunningLoop.__new__(RunningLoop)
    loop.closed, loop.result, loop._taken, loop._chosen = False, object(), taken, [7] * (200 + 100)
    assert loop.close() is loop.result and loop.closed is closed and len(loop._chosen) == taken


class Looped:
    """What `loop_passes` asks of an answer."""

    def __init__(self, passes: int, stop_tokens: Sequence[int]) -> None:
        self.loop_passes, self.stop_tokens = passes, stop_tokens


def test_how_many_passes_a_loop_may_have() -> None:
    """The least of all bounds; by halves where pages, here of eight tokens, are few."""
    runs = [Run(Session(), (1,))]

    def most(count: int, passes: int, free: int = 100, stops: int = 1) -> int:
        pages = SimpleNamespace(free=free, missing=lambda session, tokens, first, summaries: -(-tokens // 8))
        answers = [Looped(passes, range(i * stops, (i + 1) * stops)) for i in range(count)]
        return loop_passes(SimpleNamespace(can_loop=lambda: True, pages=pages), runs * count, answers, 40)  # type: ignore[arg-type]  # a stand-in

    assert [most(1, 50), most(1, 39), most(2, 2), most(2, 1)] == [40, 39, 2, 0]
    assert most(CHOSEN_TOKENS // 5, 50, free=10**6, stops=0) == 5 and most(CHOSEN_TOKENS // 2 + 1, 50, free=10**6, stops=0) == 0
    assert [most(1, 30, free=1), most(2, 40, free=4), most(2, 17, free=4)] == [7, 10, 8]
    assert [most(2, 9, stops=STOP_TOKENS // 2), most(3, 9, stops=STOP_TOKENS // 2)] == [9, 0]


def test_pages_of_summaries_are_counted_too() -> None:
    """A run that chooses among blocks looks at their summaries, and no loop goes beyond those that are whole before it."""
    config = replace(CONFIG, kv_block=8, kv_budget=4, summary_rows=2)
    first, asked = first_position(config, 4), list[tuple[Any, ...]]()
    pages = SimpleNamespace(free=1, missing=lambda session, *needed: (asked.append(needed), 2 if needed[0] > first + 4 else 1)[1])
    engine: Any = SimpleNamespace(config=config, can_loop=lambda: True, pages=pages)
    session = Session()
    session.tokens = [0] * first
    assert loop_passes(engine, [Run(session, (1,), 1, budget=4)], [Looped(50, ())], 40) == 4
    assert asked == [(first + passes, None, summary_pages(config, first + passes - 1)) for passes in (16, 8, 4)]
    asked.clear()
    assert loop_passes(engine, [Run(session, (1,), 1)], [Looped(50, ())], 40) == 2
    assert asked == [(first + passes, None, 0) for passes in (40, 20, 10, 5, 2)]


def test_few_pages_and_the_end_of_the_context(image: Image) -> None:
    image = with_cache_tokens(image, image.context)
    prompt = [int(t) for t in np.random.default_rng(3).integers(0, SHAPE.vocab, image.context - 12)]
    found = []
    for passes in (1, 64):
        generation = Generation(Engine(Machine(), image), prompt, 40, doorbell_passes=passes)
        found.append(([item.token for item in generation], generation.stop_reason, generation.session.position))
    assert found[0] == found[1] and found[0][1] == "context" and len(found[0][0]) == 13
