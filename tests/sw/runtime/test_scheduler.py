from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

from hwgen.errors import HwgenError
from hwgen.sw.compiler.compile import compile_model
from hwgen.sw.compiler.image import Image
from hwgen.sw.runtime.engine import Engine, PassResult, Run
from hwgen.sw.runtime.generation import GeneratedToken, Generation
from hwgen.sw.runtime.jobs import Job, QueueFull
from hwgen.sw.runtime.pages import Session
from hwgen.sw.runtime.prefix_cache import PrefixCache
from hwgen.sw.runtime.sampling import Sampling
from hwgen.sw.runtime.scheduler import Scheduler
from hwgen.weights import ModelWeights

from ..conftest import CONFIG, SHAPE
from .toy_device import toy_engine


@pytest.fixture(scope="module")
def image(weights: ModelWeights) -> Image:
    return compile_model(CONFIG, weights)


def new_engine(image: Image, cache_tokens: int = 512) -> Engine:
    return toy_engine(image, cache_tokens)


def prompt(length: int, seed: int = 0) -> list[int]:
    return [int(t) for t in np.random.default_rng(seed).integers(0, SHAPE.vocab, length)]


def generation(engine: Engine, length: int, count: int, seed: int, **options: object) -> Generation:
    sampling = Sampling(temperature=3.0, seed=seed)
    return Generation(engine, prompt(length, seed), count, sampling, **options)  # type: ignore[arg-type]  # by name


@dataclass
class Client:
    """A job and what it was told."""

    generation: Generation
    on_token: Callable[[GeneratedToken], None] = lambda item: None
    tokens: list[int] = field(default_factory=list)
    ends: list[HwgenError | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        def on_token(item: GeneratedToken) -> None:
            self.tokens.append(item.token)
            self.on_token(item)

        self.job = Job(self.generation, on_token, self.ends.append)


def alone(image: Image, length: int, count: int, seed: int) -> list[int]:
    return [item.token for item in generation(new_engine(image), length, count, seed)]


#: Prompt length, new tokens, seed of eight clients.
CLIENTS = ((20, 9, 1), (3, 12, 2), (33, 5, 3), (8, 8, 4), (1, 10, 5), (40, 3, 6), (17, 6, 7), (9, 1, 8))


@pytest.fixture(scope="module")
def expected(image: Image) -> list[list[int]]:
    return [alone(image, *c) for c in CLIENTS]


@pytest.mark.parametrize("cache_tokens", [512, 96, 64])
@pytest.mark.parametrize("reuse", [False, True])
@pytest.mark.parametrize("bound", [1.1, 1.0, 2.0])
def test_each_gets_what_it_would_get_alone(
    image: Image, expected: list[list[int]], cache_tokens: int, reuse: bool, bound: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where pages are so few that sessions must make way for each other."""
    engine = new_engine(image, cache_tokens)
    prefixes = PrefixCache(engine) if reuse else None
    parked = []
    park = engine.pages.park
    monkeypatch.setattr(engine.pages, "park", lambda session: (parked.append(session), park(session)))
    scheduler = Scheduler(engine, max_running=8, time_between_tokens=bound)
    clients = [Client(generation(engine, *c, prefixes=prefixes)) for c in CLIENTS]
    for client in clients:
        scheduler.submit(client.job)
    while scheduler.step():
        pass
    assert [c.tokens for c in clients] == expected
    assert all(c.ends == [None] for c in clients)
    assert not parked if cache_tokens == 512 else parked or cache_tokens == 96
    assert scheduler.running == scheduler.waiting == 0
    if prefixes is not None:
        prefixes.clear()
    assert engine.pages.free == engine.image.pages


def test_growing_answers_make_way(image: Image) -> None:
    """Three answers that fit at first and not in the end; what a parked one has computed is overwritten and comes back."""
    clients = [(20, 40, 1), (18, 42, 2), (22, 38, 3)]
    engine = toy_engine(image, 96)
    parked: list[int] = []
    park = engine.pages.park
    engine.pages.park = lambda session: (parked.append(session.position), park(session))[1]  # type: ignore[method-assign,func-returns-value]
    scheduler = Scheduler(engine)
    running = [Client(generation(engine, *c)) for c in clients]
    for client in running:
        scheduler.submit(client.job)
    while scheduler.step():
        pass
    assert [c.tokens for c in running] == [alone(image, *c) for c in clients]
    assert max(parked) > 22


def watch(engine: Engine) -> list[list[tuple[Session, int]]]:
    """Runs of every pass: session and tokens."""
    log: list[list[tuple[Session, int]]] = []
    run_pass = engine.run_pass

    def logged(runs: list[Run], **options: bool) -> PassResult:
        log.append([(run.session, len(run.tokens)) for run in runs])
        return run_pass(runs, **options)

    engine.run_pass = logged  # type: ignore[method-assign,assignment]
    return log


@pytest.mark.parametrize(("bound", "expected"), [(1.1, 4), (2.1, 7), (1.0, 4)])
def test_prompts_travel_beside_answers(image: Image, bound: float, expected: int) -> None:
    """Every answer gets a token in every pass, and prompts what the bound leaves: where that is nothing, the rest of a round."""
    engine = new_engine(image)
    log = watch(engine)
    scheduler = Scheduler(engine, time_between_tokens=bound)
    decoding = [Client(generation(engine, 2, 60, seed)) for seed in range(3)]
    for client in decoding:
        scheduler.submit(client.job)
    while any(not c.tokens for c in decoding):
        scheduler.step()
    begin = len(log)
    prompts = [Client(generation(engine, 21, 1, seed)) for seed in (7, 8)]
    for client in prompts:
        scheduler.submit(client.job)
    while not all(c.ends for c in prompts) and all(not c.ends for c in decoding):
        scheduler.step()
    during = log[begin:]
    assert image.chunk == 8 and engine.config.lanes == 2
    for runs in during:
        sessions = {id(session): tokens for session, tokens in runs}
        assert all(sessions[id(c.generation.session)] == 1 for c in decoding)
    assert max(sum(tokens for _, tokens in runs) for runs in during[:-1]) == expected
    three = engine.costs.cycles(3, 3) / engine.costs.cycles(1, 1)
    assert 1.1 < three < scheduler.kept_bound < 2.2 and (scheduler.kept_bound > bound) == (bound < 2)
    assert all(c.ends for c in prompts)
    while scheduler.step():
        pass
    assert [c.tokens for c in (*decoding, *prompts)] == [
        *(alone(image, 2, 60, seed) for seed in range(3)), *(alone(image, 21, 1, seed) for seed in (7, 8))
    ]


def test_no_bound_is_kept_without_prompts(image: Image) -> None:
    """Answers alone wait for nobody: a pass of three, which costs more than one of one, is no bound that could not be kept."""
    engine = new_engine(image)
    scheduler = Scheduler(engine)
    prompts = [Client(generation(engine, 2, 6, seed)) for seed in range(3)]
    for client in prompts:
        scheduler.submit(client.job)
    while any(not c.tokens for c in prompts):
        scheduler.step()
    scheduler.kept_bound = 0.0
    while scheduler.step():
        assert scheduler.kept_bound == 0.0
    assert all(len(c.tokens) == 6 for c in prompts)


def test_more_answers_than_a_pass_has_tokens_take_turns(image: Image) -> None:
    engine = new_engine(image, 1024)
    log = watch(engine)
    scheduler = Scheduler(engine, max_running=11)
    clients = [Client(generation(engine, 2, 30, seed)) for seed in range(11)]
    for client in clients:
        scheduler.submit(client.job)
    while scheduler.step():
        pass
    assert [c.tokens for c in clients] == [alone(image, 2, 30, seed) for seed in range(11)]
    full = [runs for runs in log if len(runs) == image.chunk == 8]
    assert len(full) > 20
    for client in clients:
        turns = [client.generation.session in [session for session, _ in runs] for runs in full]
        waits = [len(gap) for gap in "".join("x" if turn else "." for turn in turns).strip(".").split("x")]
        assert max(waits) <= 1  # two of three passes at least


def test_several_prompts_share_a_pass(image: Image) -> None:
    engine = new_engine(image)
    log = watch(engine)
    scheduler = Scheduler(engine)
    clients = [Client(generation(engine, 3, 1, seed)) for seed in range(3)]
    for client in clients:
        scheduler.submit(client.job)
    while scheduler.step():
        pass
    assert [[tokens for _, tokens in runs] for runs in log] == [[3, 3, 2], [1]]
    assert [c.tokens for c in clients] == [alone(image, 3, 1, seed) for seed in range(3)]


def test_slide_beside_others(image: Image) -> None:
    """A session that computes its context again is a prompt as others are."""
    engine = new_engine(image)
    scheduler = Scheduler(engine)
    wanted = [(2, 150, 1), (60, 3, 2), (40, 3, 3)]
    clients = [Client(generation(engine, *c, context_full="slide")) for c in wanted]
    for client in clients:
        scheduler.submit(client.job)
    while scheduler.step():
        pass
    expected = [[i.token for i in generation(new_engine(image), *c, context_full="slide")] for c in wanted]
    assert [c.tokens for c in clients] == expected


def test_observed_once_a_pass(image: Image) -> None:
    seen: list[tuple[int, bool, float]] = []
    engine = new_engine(image)
    scheduler = Scheduler(engine, observer=lambda jobs, result, prefill, seconds: seen.append((result.tokens, prefill, seconds)))
    for client in (Client(generation(engine, 3, 3, 1)), Client(generation(engine, 8, 1, 2))):
        scheduler.submit(client.job)
    while scheduler.step():
        pass
    assert [(tokens, prefill) for tokens, prefill, _ in seen] == [(8, True), (2, False), (2, False), (1, True)]
    assert all(seconds > 0 for _, _, seconds in seen)


def test_second_of_two_like_prompts_uses_the_first(image: Image) -> None:
    engine = new_engine(image)
    prefixes = PrefixCache(engine)
    scheduler = Scheduler(engine)
    clients = [Client(Generation(engine, prompt(40), 4, prefixes=prefixes)) for _ in range(2)]
    for client in clients:
        scheduler.submit(client.job)
    while scheduler.step():
        pass
    assert [c.generation.reused for c in clients] == [0, 32]
    assert clients[0].tokens == clients[1].tokens


def test_cancel(image: Image) -> None:
    engine = new_engine(image)
    scheduler = Scheduler(engine, max_running=2)
    clients = [Client(generation(engine, 40, 20, seed)) for seed in range(4)]
    for client in clients:
        scheduler.submit(client.job)
    scheduler.step()
    scheduler.cancel(clients[0].job)  # in the middle of its prompt
    scheduler.cancel(clients[3].job)  # still waiting
    while not clients[1].tokens:
        scheduler.step()
    assert clients[0].ends == clients[3].ends == [None] and not clients[0].tokens
    clients[1].on_token = lambda item: scheduler.cancel(clients[1].job)  # while it is answered
    while scheduler.step():
        pass
    assert len(clients[1].tokens) == 2 and len(clients[2].tokens) == 20
    assert all(c.ends == [None] for c in clients) and engine.pages.free == engine.image.pages
    scheduler.cancel(clients[1].job)
    assert not scheduler.step()


def test_limits(image: Image) -> None:
    engine = new_engine(image)
    scheduler = Scheduler(engine, max_running=1, max_waiting=2)
    clients = [Client(generation(engine, 5, 3, seed)) for seed in range(4)]
    for client in clients[:3]:
        scheduler.submit(client.job)
    with pytest.raises(QueueFull, match="3 requests are waiting"):
        scheduler.submit(clients[3].job)
    with pytest.raises(HwgenError, match="70 tokens are longer"):
        scheduler.submit(Client(generation(engine, 70, 3, 0)).job)
    with pytest.raises(HwgenError, match="no tokens"):
        scheduler.submit(Client(Generation(engine, [], 3)).job)
    while scheduler.step():
        assert scheduler.running <= 1
    scheduler.submit(clients[3].job)
    for name in ("max_running", "max_waiting", "time_between_tokens"):
        with pytest.raises(HwgenError, match=name):
            Scheduler(engine, **{name: -1})


def test_an_error_ends_its_own_job(image: Image) -> None:
    engine = new_engine(image)
    scheduler = Scheduler(engine)
    bad = Client(Generation(engine, [SHAPE.vocab], 3))
    good = Client(generation(engine, 5, 3, 1))
    for client in (bad, good):
        scheduler.submit(client.job)
    while scheduler.step():
        pass
    assert isinstance(bad.ends[0], HwgenError) and "vocabulary" in bad.ends[0].message
    assert good.ends == [None] and len(good.tokens) == 3
    assert engine.pages.free == engine.image.pages


def test_pages_held_by_others(image: Image) -> None:
    """A session outside the scheduler cannot be made to give way: an error, and no endless waiting."""
    engine = new_engine(image, 64)
    outside = Session()
    engine.prefill(outside, prompt(33))
    scheduler = Scheduler(engine)
    clients = [Client(generation(engine, length, 8, 1)) for length in (12, 12)]
    for client in clients:
        scheduler.submit(client.job)
    while scheduler.step():
        pass
    for client in clients:
        assert isinstance(client.ends[0], HwgenError) and "outside the scheduler" in client.ends[0].message
        need = engine.pages.blocks(12 + 8)
        assert f"needs {need} KV pages" in client.ends[0].message
    engine.pages.close(outside)
    again = Client(generation(engine, 40, 2, 1))
    scheduler.submit(again.job)
    while scheduler.step():
        pass
    assert again.ends == [None]


# ---- in a thread -------------------------------------------------------------------------------------------------
def test_thread(image: Image, expected: list[list[int]]) -> None:
    engine = new_engine(image, 96)
    scheduler = Scheduler(engine)
    scheduler.start()
    done = threading.Barrier(len(CLIENTS) + 1, timeout=120)
    clients = [Client(generation(engine, *c)) for c in CLIENTS]

    def ask(client: Client) -> None:
        end = threading.Event()
        client.job.on_end = lambda error: (client.ends.append(error), end.set())[0]
        scheduler.submit(client.job)
        end.wait(120)
        done.wait()

    for client in clients:
        threading.Thread(target=ask, args=(client,), daemon=True).start()
    done.wait()
    assert [c.tokens for c in clients] == expected
    scheduler.close()
    with pytest.raises(HwgenError, match="shutting down"):
        scheduler.submit(Client(generation(engine, 1, 1, 1)).job)


def test_close_ends_what_runs(image: Image) -> None:
    engine = new_engine(image)
    scheduler = Scheduler(engine)
    running = threading.Event()
    client = Client(generation(engine, 5, 60, 1), on_token=lambda item: running.set())
    other = Client(generation(engine, 5, 60, 2))
    scheduler.submit(client.job)
    scheduler.submit(other.job)
    scheduler.start()
    assert running.wait(60)
    scheduler.close()
    for c in (client, other):
        assert len(c.ends) == 1 and isinstance(c.ends[0], HwgenError) and len(c.tokens) < 60
    assert engine.pages.free == engine.image.pages
