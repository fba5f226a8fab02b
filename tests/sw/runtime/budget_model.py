"""A tiny model on builds that choose among blocks of its cache, and what tests of it share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from hwgen.config import BuildConfig
from hwgen.registers import PassFlag, register
from hwgen.shape import ModelShape
from hwgen.sw.compiler.compile import compile_model
from hwgen.sw.compiler.image import Image
from hwgen.sw.devices.golden import GoldenDevice
from hwgen.sw.runtime.engine import Engine
from hwgen.sw.runtime.kv_arrays import with_cache_tokens
from hwgen.sw.runtime.pages import Session
from hwgen.sw.runtime.runs import Run
from hwgen.weights import random_weights

__all__ = ["BLOCK", "BUDGET", "CONFIG", "ROWS", "SHAPE", "Counted", "budget_image", "oracle", "prompt"]

#: Blocks whose summaries share a page are half as many as a block has keys.
BLOCK, BUDGET, ROWS = 8, 4, 2
CONFIG = BuildConfig(
    name="budget", max_context=192, kv_block=BLOCK, kv_budget=BUDGET, summary_rows=ROWS, int4_kv=True, page_entries=128,
    max_head_dim=32,
)
#: Two key/value heads, which choose for themselves; heads of two vectors and more, so that keys of 4 bits are mixed.
SHAPE = ModelShape(hidden=32, layers=2, heads=4, kv_heads=2, head_dim=32, ffn=48, vocab=67, max_context=192, tied=False)


def budget_image(kv: str = "k8v8", config: BuildConfig = CONFIG, contexts: int = 4) -> Image:
    """The model for a build, with KV pages for so many contexts."""
    image = compile_model(config, replace(random_weights(SHAPE, seed=11), kv=kv))
    return with_cache_tokens(image, contexts * image.context)


def prompt(length: int, seed: int = 0) -> list[int]:
    return [int(t) for t in np.random.default_rng(seed).integers(0, SHAPE.vocab, length)]


class Counted(GoldenDevice):
    """Counts doorbells by the passes that LOOP allows, and whether runs may choose; what is read and written of memory, and the
    entries of the page table.
    """

    def __init__(self, image: Image) -> None:
        super().__init__(image.config, memory_bytes=image.memory_bytes())
        self.rung: list[tuple[int, bool]] = []
        self.reads: list[int] = []
        self.writes: list[int] = []
        self.entries: dict[int, int] = {}
        self._table = register(image.config, "PAGE")
        self._control, self._loop_at, self._pass_at = (register(image.config, name).offset for name in ("CONTROL", "LOOP", "PASS"))

    def write_register(self, offset: int, value: int) -> None:
        if offset == self._control and value & 1:
            chooses = bool(self.read_register(self._pass_at) & PassFlag.CHOOSE)
            self.rung.append((self.read_register(self._loop_at), chooses))
        if 0 <= offset - self._table.offset < self._table.step * self._table.count:
            self.entries[(offset - self._table.offset) // self._table.step] = value
        super().write_register(offset, value)

    def read(self, address: int, size: int) -> np.ndarray:
        self.reads.append(address)
        return super().read(address, size)

    def write(self, address: int, data: np.ndarray) -> None:
        self.writes.append(address)
        super().write(address, data)


def oracle(image: Image, tokens: Sequence[int], count: int, budget: int) -> list[int]:
    """A greedy answer, pass by pass, with a doorbell each; every summary is made anew before each of them."""
    engine, session = Engine(GoldenDevice(image.config, memory_bytes=image.memory_bytes()), image), Session()
    found = [engine.prefill(session, tokens)[-1].runs[0].best(0)]
    while len(found) < count:
        session.summaries.drop(0)
        found.append(engine.run_pass([Run(session, found[-1:], 1, budget=budget)]).runs[0].best(0))
    return found
