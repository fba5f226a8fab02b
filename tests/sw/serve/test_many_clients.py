"""Thirty-two clients of one machine."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from hwgen.boards import load_board
from hwgen.published import published_model
from hwgen.sw.analysis.estimate import planned_image
from hwgen.sw.compiler.pass_costs import PassCosts, pass_costs
from hwgen.sw.runtime.engine import PassResult
from hwgen.sw.runtime.jobs import Job
from hwgen.sw.runtime.llm import LLM
from hwgen.sw.serve.service import Limits, Service

from ..conftest import CONFIG
from .conftest import Running, serving

#: The lanes of kv260, and as many tokens of a pass as a block of keys has.
WIDE = replace(CONFIG, lanes=6, chunk=16)


@dataclass(frozen=True)
class Asked:
    """What one client asks, when it does, and after how many pieces of the answer it goes away."""

    prompt: str
    tokens: int
    temperature: float
    seed: int
    delay: float
    patience: int | None


def asked() -> list[Asked]:
    random = np.random.default_rng(8)
    words = ["the", "cat", "sat", "upon", "a", "time", "once", "dog"]
    return [
        Asked(
            " ".join(random.choice(words, int(random.integers(1, 5)))), int(random.integers(6, 21)), (0.0, 0.9)[i % 2], i,
            float(random.random()) * 0.2, int(random.integers(1, 5)) if i % 5 == 4 else None,
        )
        for i in range(32)
    ]


def answer(running: Running, client: Asked, together: threading.Barrier) -> str:
    together.wait()
    time.sleep(client.delay)
    stream = running.client.completions.create(
        model="chatty", prompt=client.prompt, max_tokens=client.tokens, temperature=client.temperature, seed=client.seed,
        stream=True,
    )
    text = ""
    for number, chunk in enumerate(stream, 1):
        text += chunk.choices[0].text
        if number == client.patience:
            stream.response.close()
            break
    return text


@pytest.fixture(scope="module")
def costs() -> PassCosts:
    """Of BitNet b1.58 2B4T on kv260."""
    published = published_model("bitnet-2b4t")
    return pass_costs(planned_image(load_board("kv260").config, published.shape, published.engine, "shortlist"))


def test_each_gets_what_it_gets_alone(chat_directory: Path, costs: PassCosts) -> None:
    """With random lengths, arrivals and cancellations, and drafts in the room that is left. The passes that they share would take a
    quarter of the time of one answer behind the other at the sizes of a published model (estimated), prompts included.
    """
    clients = asked()
    alone = LLM(chat_directory, "golden", WIDE, reuse=False, draft="none")
    expected = [
        alone.generate(c.prompt, max_new_tokens=c.tokens, temperature=c.temperature, seed=c.seed).text for c in clients
    ]
    limits = Limits(sessions=20, waiting=32, time_between_tokens=8)
    service = Service(LLM(chat_directory, "golden", WIDE, cache_tokens=1024), limits=limits)
    passes: list[tuple[int, int]] = []
    prompts: list[int] = []
    observe = service.scheduler._observe

    def noted(jobs: Sequence[Job], result: PassResult, prefill: bool, seconds: float) -> None:
        passes.append((result.tokens, sum(run.words.shape[0] for run in result.runs)))
        prompts.append(sum(r.tokens for job, r in zip(jobs, result.runs, strict=True) if job.generation.prefilling))
        observe(jobs, result, prefill, seconds)

    service.scheduler._observe = noted
    with serving(service) as running:
        together = threading.Barrier(len(clients))
        with ThreadPoolExecutor(len(clients)) as pool:
            found = list(pool.map(lambda client: answer(running, client, together), clients))
        running.wait_idle()
        for client, text, whole in zip(clients, found, expected, strict=True):
            assert text == whole if client.patience is None else whole.startswith(text)
    tokens = sum(wanted for _, wanted in passes)
    cycles = sum(costs.cycles(count, wanted) for count, wanted in passes)
    single = sum(costs.cycles(1, 1) for _ in range(tokens)) + sum(costs.cycles(count, 0) for count in prompts if count)
    assert max(wanted for _, wanted in passes) >= 8 and tokens > 250
    assert single / cycles > 4
