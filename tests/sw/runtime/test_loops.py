"""Answers that the machine chooses the tokens of: the same as with a doorbell a pass, with fewer doorbells."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from hwgen.errors import HwgenError
from hwgen.registers import STOP_TOKENS, Control, register
from hwgen.sw.compiler.compile import compile_model
from hwgen.sw.compiler.image import Image
from hwgen.sw.devices.golden import GoldenDevice
from hwgen.sw.runtime.drafts import Drafter
from hwgen.sw.runtime.engine import Engine
from hwgen.sw.runtime.generation import Generation
from hwgen.sw.runtime.jobs import Job
from hwgen.sw.runtime.kv_arrays import with_cache_tokens
from hwgen.sw.runtime.sampling import Sampling
from hwgen.sw.runtime.scheduler import Scheduler
from hwgen.weights import ModelWeights

from ..conftest import CONFIG, SHAPE

MEMORY = 1 << 22


class CountingDevice(GoldenDevice):
    """Counts doorbells."""

    def __init__(self) -> None:
        super().__init__(CONFIG, memory_bytes=MEMORY)
        self.doorbells = 0
        self.control = register(CONFIG, "CONTROL").offset

    def write_register(self, offset: int, value: int) -> None:
        self.doorbells += offset == self.control and bool(value & Control.START)
        super().write_register(offset, value)


class Server:
    """A scheduler and what its answers were told."""

    def __init__(self, image: Image, loop_passes: int = 64, max_running: int = 8) -> None:
        self.device = CountingDevice()
        self.engine = Engine(self.device, image)
        self.scheduler = Scheduler(self.engine, max_running=max_running, loop_passes=loop_passes)
        self.tokens: list[list[int]] = []
        self.ends: list[list[HwgenError | None]] = []
        self.jobs: list[Job] = []
        #: Called with the number of the answer, behind every token.
        self.then: Callable[[int], None] = lambda number: None

    def ask(self, seed: int, count: int, length: int = 5, drafts: bool = False, **options: object) -> Generation:
        prompt = [int(t) for t in np.random.default_rng(seed).integers(0, SHAPE.vocab, length)]
        drafter = Drafter(self.engine.costs) if drafts else None
        generation = Generation(self.engine, prompt, count, drafter=drafter, **options)  # type: ignore[arg-type]  # by name
        number, tokens, ends = len(self.jobs), [], []

        def on_token(item: object) -> None:
            tokens.append(item.token)  # type: ignore[attr-defined]  # a token
            self.then(number)

        self.tokens.append(tokens)
        self.ends.append(ends)
        self.jobs.append(Job(generation, on_token, ends.append))
        self.scheduler.submit(self.jobs[-1])
        return generation

    def run(self) -> list[list[int]]:
        while self.scheduler.step():
            pass
        assert all(len(ends) == 1 for ends in self.ends)
        assert self.engine.pages.free == self.engine.image.pages
        return self.tokens


@pytest.fixture(scope="module")
def image(weights: ModelWeights) -> Image:
    return with_cache_tokens(compile_model(CONFIG, weights), 4 * CONFIG.max_context)


@pytest.mark.parametrize("drafts", [False, True])
def test_answers_are_the_same_with_fewer_doorbells(image: Image, drafts: bool) -> None:
    """One and several answers, of different lengths, stop tokens among theirs, at the end of the context."""
    for answers in ([(1, 12), (2, 20), (3, 7)], [(4, CONFIG.max_context)]):
        found = []
        for passes in (1, 64):
            server = Server(image, passes)
            for seed, count in answers:
                server.ask(seed, count, drafts=drafts)
            tokens = server.run()
            reasons = [job.generation.stop_reason for job in server.jobs]
            counts = [(job.generation.decode.tokens, job.generation.prefill.tokens) for job in server.jobs]
            found.append((tokens, reasons, counts, server.device.doorbells))
        assert found[0][:3] == found[1][:3]
        assert found[1][3] < found[0][3] if drafts else found[1][3] <= 2 * len(answers) + 2 < found[0][3]
        if len(answers) == 1:
            continue
        stop = found[0][0][0][len(found[0][0][0]) // 2]
        stopped = []
        for passes in (1, 64):
            server = Server(image, passes)
            for seed, count in answers:
                server.ask(seed, count, drafts=drafts, stop_tokens=[stop])
            stopped.append((server.run(), [job.generation.stop_reason for job in server.jobs]))
        assert stopped[0] == stopped[1] and "stop" in stopped[0][1]


@pytest.mark.parametrize("slides", [False, True])
def test_drawn_answers(image: Image, slides: bool) -> None:
    """By temperature and top-k beside a greedy one, also where the context slides: as each alone with a doorbell a pass."""
    ways = [Sampling(temperature=0.9, top_k=6, seed=5), Sampling(), Sampling(temperature=2.0, top_k=2, seed=6)]
    together, alone, context_full = Server(image), [], "slide" if slides else "stop"
    for sampling in [*ways, Sampling(temperature=0.9, top_k=6, seed=7)]:
        server = Server(image, 1)
        for each in (server, together):
            each.ask(1, 70, sampling=sampling, context_full=context_full)
        alone += server.run()
    assert together.run() == alone
    assert len({tuple(tokens) for tokens in alone}) == 4 and together.device.doorbells < (100 if slides else 20)
    assert {len(tokens) for tokens in alone} == {70 if slides else SHAPE.max_context - 5 + 1}


def test_what_the_machine_cannot_choose(image: Image) -> None:
    """An answer that is drawn from others than candidates gives every pass a doorbell, as do more stop tokens than registers."""
    for options in ({"sampling": Sampling(temperature=1.0, seed=3)}, {"sampling": Sampling(temperature=1.0, top_k=CONFIG.topk + 1)},
                    {"sampling": Sampling(temperature=1.0, top_k=3, top_p=0.9)}, {"sampling": Sampling(repetition_penalty=1.3)},
                    {"logprobs": 1}, {"stop_tokens": range(SHAPE.vocab - STOP_TOKENS - 1, SHAPE.vocab)}):
        server, alone = Server(image), Server(image, 1)
        for each in (server, alone):
            each.ask(1, 6)
            each.ask(2, 6, **options)
        assert server.run() == alone.run()
        both = min(map(len, server.tokens))
        assert server.device.doorbells >= both


def test_others_join_and_leave(image: Image) -> None:
    """A request that comes in the middle of a loop, a cancelled answer, and one whose client fails end it; nobody else notices."""
    three = Server(image)
    for seed in (1, 2, 3):
        three.ask(seed, 25)
    alone = three.run()
    server = Server(image)
    server.ask(1, 25)
    server.ask(2, 25)

    def then(number: int) -> None:
        if len(server.jobs) < 3 and len(server.tokens[0]) == 8:
            server.ask(3, 25)
        if number == 1 and len(server.tokens[1]) == 15:
            server.scheduler.cancel(server.jobs[1])
        if number == 2 and len(server.tokens[2]) == 10:
            raise OSError("the client has gone")

    server.then = then
    tokens = server.run()
    assert tokens[0] == alone[0] and tokens[2] == alone[2][:10]
    assert 15 <= len(tokens[1]) <= 17 and tokens[1] == alone[1][: len(tokens[1])]
    assert server.ends[0] == [None] and server.ends[1] == [None] and "the client has gone" in str(server.ends[2][0])
    assert server.jobs[2].generation.prefill.tokens, "it had joined"


def test_few_pages(weights: ModelWeights) -> None:
    """Loops are as long as there are pages, and answers make way for each other as ever."""
    image = with_cache_tokens(compile_model(CONFIG, weights), CONFIG.max_context)
    found = []
    for passes in (1, 64):
        server = Server(image, passes)
        for seed in (1, 2, 3):
            server.ask(seed, CONFIG.max_context // 3)
        found.append(server.run())
    assert found[0] == found[1]
