"""What the golden model answers to the tests of a virtual board. Where torch is missing, as on a board, the answers are those that
an environment with torch wrote before: ``python -m tests.golden_answers FILE``, and ``HWGEN_GOLDEN_ANSWERS=FILE`` for the tests.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hwgen.sw.devices.device import Device
from hwgen.sw.runtime.engine import Engine
from hwgen.sw.runtime.generation import GeneratedToken, Generation
from hwgen.sw.runtime.jobs import Job
from hwgen.sw.runtime.kv_arrays import with_cache_tokens
from hwgen.sw.runtime.pages import Session
from hwgen.sw.runtime.scheduler import Scheduler
from tests.system.small import MEMORY_BYTES, small_image
from tests.virtual_board import CONFIG, PROMPT, image

__all__ = ["NEW_TOKENS", "generate", "generate_together", "golden_answer"]

NEW_TOKENS = 3


def generate(device: Device, tokens: int = NEW_TOKENS) -> tuple[list[int], list[int]]:
    """Tokens that the model answers, and the bits of its last logits."""
    engine = Engine(device, image())
    answer = [item.token for item in Generation(engine, PROMPT, tokens)]
    engine.forward(Session(), PROMPT, write_logits=True)
    return answer, engine.logits().view(np.uint32).tolist()


def _appending(answer: list[int]) -> Callable[[GeneratedToken], None]:
    return lambda item: answer.append(item.token)


def generate_together(device: Device) -> tuple[list[list[int]], int]:
    """Tokens of two answers, one written while the prompt of the other is computed; how many runs a pass had at most."""
    engine = Engine(device, with_cache_tokens(image(), 64))
    tokens: list[list[int]] = [[], []]
    runs: list[int] = []
    scheduler = Scheduler(engine, observer=lambda jobs, result, prefill, seconds: runs.append(len(result.runs)))
    for number, (prompt, count) in enumerate((([3], 6), (PROMPT, 1))):
        answer = tokens[number]
        scheduler.submit(Job(Generation(engine, prompt, count), _appending(answer), lambda error: None))
    while scheduler.step():
        pass
    return tokens, max(runs)


def generate_two(device: Device) -> list[int]:
    """Two tokens of the whole small model."""
    return [item.token for item in Generation(Engine(device, small_image()), PROMPT, 2)]


ANSWERS: dict[str, Callable[[Device], Any]] = {
    "generate": generate, "generate_together": generate_together, "generate_two": generate_two,
}


def golden_answer(name: str) -> Any:
    """What one of :data:`ANSWERS` is on the golden device."""
    recorded = os.environ.get("HWGEN_GOLDEN_ANSWERS")
    if recorded:
        answer = json.loads(Path(recorded).read_text())[name]
        return answer if isinstance(answer[0], int) else tuple(answer)
    from hwgen.sw.devices.golden import GoldenDevice

    return ANSWERS[name](GoldenDevice(CONFIG, memory_bytes=MEMORY_BYTES))


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps({name: golden_answer(name) for name in ANSWERS}))
