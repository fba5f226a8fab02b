"""Answers with a budget of cached blocks on the golden device: exact within it, and the same however passes are made beyond it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hwgen.block_choice import candidates, first_position
from hwgen.errors import HwgenError
from hwgen.registers import RUN_BUDGET, RUN_PAGES, RUN_TOKENS
from hwgen.sw.compiler.image import Image
from hwgen.sw.runtime.drafts import Drafter
from hwgen.sw.runtime.engine import Engine
from hwgen.sw.runtime.generation import Generation
from hwgen.sw.runtime.jobs import Job
from hwgen.sw.runtime.kv_arrays import with_cache_tokens
from hwgen.sw.runtime.pages import Session
from hwgen.sw.runtime.prefix_cache import PrefixCache
from hwgen.sw.runtime.running_loop import RunningLoop
from hwgen.sw.runtime.runs import Run
from hwgen.sw.runtime.sampling import Sampling
from hwgen.sw.runtime.scheduler import Scheduler
from hwgen.sw.runtime.session_file import load_session, save_session

from .budget_model import BLOCK, BUDGET, CONFIG, Counted, budget_image, oracle, prompt

#: A prompt that ends before its answer begins to choose, and one of which summaries need two pages.
SHORT, LONG, COUNT = first_position(CONFIG, BUDGET) - 12, 10 * BLOCK + 5, 40
#: Budgets of answers that share passes.
TOGETHER = [BUDGET, 0, 2]


@pytest.fixture(scope="module")
def image() -> Image:
    return budget_image()


@pytest.fixture
def device(image: Image) -> Counted:
    return Counted(image)


@pytest.fixture
def engine(device: Counted, image: Image) -> Engine:
    return Engine(device, image)


@pytest.fixture(scope="module")
def expected(image: Image) -> dict[tuple[int, int], list[int]]:
    """Answers by the length of the prompt and the budget."""
    return {(length, n): oracle(image, prompt(length), COUNT, n) for length in (SHORT, LONG) for n in (0, 2, BUDGET)}


@pytest.fixture(scope="module")
def expected_together(image: Image) -> list[list[int]]:
    """Answers to three prompts with the budgets `TOGETHER`, each for itself."""
    return [oracle(image, prompt(LONG - 9 * i, i), COUNT, budget) for i, budget in enumerate(TOGETHER)]


def answer(engine: Engine, length: int, budget: int, passes: int = 1, **options: object) -> Generation:
    return Generation(engine, prompt(length), COUNT, doorbell_passes=passes, kv_budget=budget, **options)  # type: ignore[arg-type]  # by name


def tokens_of(generation: Generation) -> list[int]:
    return [item.token for item in generation]


@pytest.mark.parametrize("passes", [1, 64])
def test_within_its_budget_an_answer_is_exact(engine: Engine, device: Counted, passes: int) -> None:
    found = []
    for budget in (0, BUDGET):
        generation = Generation(engine, prompt(SHORT), 13, doorbell_passes=passes, kv_budget=budget)
        found.append((tokens_of(generation), engine.pages.read(generation.session.pages).tobytes()))
        assert generation.session.exact and not generation.session.summaries.pages
        generation.release()
    assert found[0] == found[1] and not any(chooses for _, chooses in device.rung)
    assert engine.pages.free == engine.image.pages


@pytest.mark.parametrize("passes", [1, 64])
@pytest.mark.parametrize(("length", "budget"), [(SHORT, BUDGET), (LONG, 2), (LONG, BUDGET)])
def test_beyond_it_tokens_are_those_of_single_passes(
    engine: Engine, device: Counted, expected: dict[tuple[int, int], list[int]], length: int, budget: int, passes: int
) -> None:
    generation = answer(engine, length, budget, passes)
    assert tokens_of(generation) == expected[length, budget] != expected[length, 0]
    session = generation.session
    assert not session.exact and len(session.summaries.blocks) <= session.position // BLOCK - 1
    chooses = [chooses for _, chooses in device.rung]
    assert chooses == sorted(chooses) and chooses[-1], "from some pass on"
    if passes > 1:
        assert len(device.rung) < len(range(0, length, engine.image.chunk)) + COUNT // 4
    else:
        assert sum(chooses) == length + COUNT - 1 - max(length, first_position(CONFIG, budget))
    generation.release()
    assert engine.pages.free == engine.image.pages


@pytest.mark.parametrize("kv", ["k8v4", "k4v4"])
def test_keys_and_values_of_four_bits(kv: str) -> None:
    image, count = budget_image(kv), 2 * BLOCK + 2  # two blocks are filled while the answer goes on
    for budget in (BUDGET, 0):
        device = Counted(image)
        found = tokens_of(Generation(Engine(device, image), prompt(LONG), count, doorbell_passes=64, kv_budget=budget))
        assert found == oracle(image, prompt(LONG), count, budget) and device.rung[-1][1] is bool(budget)


def test_what_the_machine_is_told(engine: Engine, device: Counted) -> None:
    """The budget of the run, whether the pass chooses, and pages of summaries in front of its pages."""
    sessions = [Session() for _ in range(3)]
    for number, session in enumerate(sessions):
        engine.prefill(session, prompt(LONG, number))
    runs = [Run(session, (5,), 1, budget=budget) for session, budget in zip(sessions, (BUDGET, 0, 2), strict=True)]
    engine.run_pass(runs)
    held = engine._state.held
    words = [held[engine._runs + 8 * r + 4] for r in range(3)]
    assert [RUN_BUDGET.extract(word) for word in words] == [BUDGET, 0, 2] and {RUN_TOKENS.extract(word) for word in words} == {1}
    assert device.rung[-1] == (0, True)
    for session, word in zip(sessions, words, strict=True):
        first, pages = RUN_PAGES.extract(word), session.summaries.pages
        assert len(pages) == (0 if session is sessions[1] else 3)
        assert [device.entries[first - 1 - j] for j in range(len(pages))] == [engine.pages.frame(page) for page in pages]
        assert [device.entries[first + b] for b in range(len(session.pages))] == [engine.pages.frame(p) for p in session.pages]
    assert [session.exact for session in sessions] == [False, True, False]
    engine.run_pass([Run(sessions[0], (5, 6), 1, budget=BUDGET), Run(sessions[2], (7,), 1)])
    assert not RUN_BUDGET.extract(held[engine._runs + 4]) and device.rung[-1] == (0, False), "several tokens attend to all"


def test_budgets_in_one_pass_are_each_for_itself(image: Image, engine: Engine) -> None:
    budgets, steps = (2, BUDGET, 0, 3), 12

    def words(engine: Engine, numbers: list[int]) -> list[list[bytes]]:
        sessions = {number: Session() for number in numbers}
        for number, session in sessions.items():
            engine.prefill(session, prompt(LONG - 7 * number, number))
        found = []
        for step in range(steps):
            runs = [Run(session, (3 * step + number,), 1, budget=budgets[number]) for number, session in sessions.items()]
            found.append([run.words.tobytes() for run in engine.run_pass(runs).runs])
        return found

    together = words(engine, [0, 1, 2, 3])
    for number in range(4):
        alone = words(Engine(Counted(image), image), [number])
        assert [step[number] for step in together] == [step[0] for step in alone]


def test_a_loop_may_not_go_beyond_its_summaries(engine: Engine) -> None:
    session = Session()
    engine.prefill(session, prompt(LONG))
    with pytest.raises(ValueError, match="begins to choose, or lacks a summary"):
        RunningLoop(engine, [Run(session, (1,), 1, budget=BUDGET)], 2 * BLOCK, ())
    short = Session()
    engine.prefill(short, prompt(SHORT))
    with pytest.raises(ValueError, match="begins to choose, or lacks a summary"):
        RunningLoop(engine, [Run(short, (1,), 1, budget=BUDGET)], 13, ())
    assert RunningLoop(engine, [Run(short, (1,), 1, budget=BUDGET)], 12, ()).close() is not None


def test_summaries_follow_tokens_that_change(image: Image, engine: Engine) -> None:
    """A text that is taken back and goes on otherwise has the words of one that never was another."""
    session, other = Session(), Session()
    engine.prefill(session, prompt(LONG))
    engine.run_pass([Run(session, (1,), 1, budget=BUDGET)])
    kept = 4 * BLOCK + 3
    del session.tokens[kept:]
    changed = [*session.tokens, *prompt(LONG - kept, 9)]
    engine.prefill(session, changed[kept:])
    engine.prefill(other, changed)
    first, second = engine.run_pass([Run(s, (2,), 1, budget=BUDGET) for s in (session, other)]).runs
    assert first.words.tobytes() == second.words.tobytes()
    again = Run(session, session.tokens[20:23], at=20)
    engine.run_pass([again])
    assert len(session.summaries.blocks) == 20 // BLOCK


def served(engine: Engine, budgets: list[int], loop_passes: int, **options: object) -> list[list[int]]:
    """Answers of a scheduler, in the order in which they were asked for."""
    scheduler = Scheduler(engine, loop_passes=loop_passes)
    answers: list[list[int]] = [[] for _ in budgets]
    errors: list[HwgenError | None] = []
    for number, budget in enumerate(budgets):
        generation = Generation(engine, prompt(LONG - 9 * number, number), COUNT, kv_budget=budget, **options)  # type: ignore[arg-type]  # by name
        scheduler.submit(Job(generation, lambda item, n=number: answers[n].append(item.token), errors.append))  # type: ignore[misc]  # bound
    while scheduler.step():
        pass
    assert errors == [None] * len(budgets)
    return answers


@pytest.mark.parametrize(("contexts", "loop_passes"), [(1, 1), (4, 64)])
def test_answers_that_share_passes_and_park_each_other(
    image: Image, expected_together: list[list[int]], contexts: int, loop_passes: int
) -> None:
    small = with_cache_tokens(image, contexts * image.context)
    engine = Engine(Counted(image), small)
    assert served(engine, TOGETHER, loop_passes, prefixes=None) == expected_together
    assert engine.pages.free == small.pages


def test_siblings_take_the_prompt_over(engine: Engine, expected: dict[tuple[int, int], list[int]]) -> None:
    scheduler, answers = Scheduler(engine, loop_passes=64), list[list[int]]()
    first: Generation | None = None
    for _ in range(3):
        generation = answer(engine, LONG, BUDGET)
        generation.sibling, first = first, first or generation
        tokens = list[int]()
        answers.append(tokens)
        scheduler.submit(Job(generation, lambda item, tokens=tokens: tokens.append(item.token), lambda error: None))  # type: ignore[misc]  # bound
    while scheduler.step():
        pass
    assert answers == [expected[LONG, BUDGET]] * 3 and engine.pages.free == engine.image.pages


def test_nobody_takes_over_what_was_computed_with_a_choice(
    engine: Engine, expected: dict[tuple[int, int], list[int]]
) -> None:
    prefixes = PrefixCache(engine)
    generation = answer(engine, LONG, BUDGET, prefixes=prefixes)
    tokens = tokens_of(generation)
    generation.release()
    exact = answer(engine, LONG, 0, prefixes=prefixes)
    assert tokens_of(exact) == expected[LONG, 0] and exact.reused == LONG // BLOCK * BLOCK, "the prompt was exact"
    behind = Generation(engine, [*prompt(LONG), *tokens], 1, prefixes=prefixes)
    list(behind)
    assert behind.reused < LONG + COUNT // 2
    for used in (exact, behind):
        used.release()
    prefixes.clear()
    assert engine.pages.free == engine.image.pages


def test_a_session_on_disk_goes_on_with_the_same_tokens(image: Image, engine: Engine, tmp_path: Path) -> None:
    pytest.importorskip("safetensors", reason="sessions are safetensors files")
    session = Session()
    first = Generation(engine, prompt(LONG), 10, session=session, kv_budget=BUDGET)
    list(first)
    save_session(engine, session, tmp_path / "session")
    other = Engine(Counted(image), image)
    restored = load_session(other, tmp_path / "session")
    assert not restored.exact and not restored.summaries.blocks and restored.pending == session.pending
    found = [
        tokens_of(Generation(e, [7, 8], 12, session=s, kv_budget=BUDGET)) for e, s in ((engine, session), (other, restored))
    ]
    assert found[0] == found[1]


@pytest.mark.parametrize("budget", [0, BUDGET])
def test_the_context_slides(image: Image, budget: int) -> None:
    """What is kept is computed again, exactly; then the answer chooses again."""
    found = []
    for passes in (1, 64):
        engine = Engine(Counted(image), image)
        generation = Generation(
            engine, prompt(image.context - 9), 40, context_full="slide", doorbell_passes=passes, kv_budget=budget
        )
        found.append(tokens_of(generation))
        assert len(generation.tokens) == 40
        generation.release()
        assert engine.pages.free == image.pages
    assert found[0] == found[1]


def test_an_answer_with_a_budget_has_no_drafts(engine: Engine, expected: dict[tuple[int, int], list[int]]) -> None:
    generation = answer(engine, LONG, BUDGET, drafter=Drafter(engine.costs))
    assert generation.drafter is None and tokens_of(generation) == expected[LONG, BUDGET]


def test_draws_choose_too(image: Image) -> None:
    """By the machine in loops, and by the host."""
    found = []
    for passes in (1, 64):
        generation = Generation(
            Engine(Counted(image), image), prompt(LONG), COUNT, Sampling(temperature=2.0, top_k=5, seed=3),
            doorbell_passes=passes, kv_budget=2,
        )
        found.append(tokens_of(generation))
    assert found[0] == found[1]


def test_a_prompt_of_one_token_attends_to_all(engine: Engine, device: Counted) -> None:
    session = Session()
    engine.prefill(session, prompt(LONG))
    next(iter(Generation(engine, [5], 2, session=session, kv_budget=BUDGET)))
    assert device.rung[-1] == (0, False) and session.exact


def test_budgets_that_the_build_has_not_are_refused(image: Image, engine: Engine) -> None:
    with pytest.raises(HwgenError, match=f"must be 1 to {BUDGET} blocks"):
        answer(engine, SHORT, BUDGET + 1).check()
    without = budget_image(config=replace(CONFIG, kv_budget=0))
    with pytest.raises(HwgenError, match="no budget of blocks"):
        list(answer(Engine(Counted(without), without), SHORT, BUDGET))


def test_the_first_choice_is_behind_enough_blocks(engine: Engine, device: Counted) -> None:
    first = first_position(CONFIG, 2)
    session = Session()
    engine.prefill(session, prompt(first - 1))
    for position in range(first - 1, first + BLOCK + 2):
        engine.run_pass([Run(session, (1,), 1, budget=2)])
        assert device.rung[-1] == (0, position >= first)
        assert len(session.summaries.blocks) == (candidates(CONFIG, position).stop if position >= first else 0)
    assert np.array(session.summaries.blocks[0][0]).shape == (2, 2, 2, 32)
