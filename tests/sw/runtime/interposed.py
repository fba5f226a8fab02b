"""Two sessions on one device: a prompt in slices, and tokens of another session between them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import pytest

from hwgen.config import BuildConfig
from hwgen.shape import ModelShape
from hwgen.sw.compiler import compile as compiler
from hwgen.sw.compiler import slices
from hwgen.sw.compiler.image import Image
from hwgen.sw.compiler.layers import ModelCompiler
from hwgen.sw.compiler.programs import SlicedProgram
from hwgen.sw.compiler.slice_proof import written_vectors
from hwgen.sw.devices.golden import GoldenDevice
from hwgen.sw.runtime.engine import Engine, PassResult, SlicedPass
from hwgen.sw.runtime.kv_arrays import unpack_pages, with_cache_tokens
from hwgen.sw.runtime.pages import Session
from hwgen.weights import ModelWeights, random_weights

__all__ = ["Interposed", "compile_round_by_round", "golden_engine", "interposed", "poison", "sliced_image", "undisturbed"]

#: Passes of the prompt.
Prompt = list[list[int]]


def sliced_image(config: BuildConfig, shape: ModelShape, head: str = "exact", weights: ModelWeights | None = None) -> Image:
    image = compiler.compile_model(config, weights or random_weights(shape, seed=11), head=head)
    assert image.sliced is not None
    return with_cache_tokens(image, 2 * image.context)


def compile_round_by_round(config: BuildConfig, shape: ModelShape, head: str = "exact") -> Image:
    """As for a scratch memory that has no room for the feed-forward products of all rounds beside another token."""

    def plan(of: ModelCompiler) -> SlicedProgram | None:
        p = of.plan
        return slices._checked(of, slices.ProgramCutter(config, of.program, p).cut(p.g + 7 + p.chunk * p.g_stride), 180)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiler, "plan_slices", plan)
        return sliced_image(config, shape, head)


def golden_engine(image: Image) -> Engine:
    return Engine(GoldenDevice(image.config, memory_bytes=1 << 22), image)


def poison(engine: Engine) -> None:
    """Everything on the chip that a pass of one token may change, whether this one does or not."""
    device, sliced = engine.device, engine.image.sliced
    assert isinstance(device, GoldenDevice) and sliced is not None
    machine, rng = device.machine, np.random.default_rng(1)
    machine.scratch[written_vectors(engine.config, sliced.beside)] = np.nan
    for name in ("param", "activation_scale", "query_scale", "head_scale"):
        getattr(machine, name)[:] = np.nan
    for name in ("activation", "query", "head_query", "kv_store"):
        memory = getattr(machine, name)
        memory[:] = rng.integers(-127, 128, memory.shape)
    machine.accumulator[:] = rng.integers(-1000, 1000, machine.accumulator.shape)
    machine.kv_scale[:] = 0x7FC0
    machine.scores = np.zeros(0, np.float32)
    engine.memory.write_rows([0] * engine.image.chunk)
    machine.registers.pages = [1 << 20] * engine.config.max_pages
    engine._table = [None] * engine.config.max_pages


def cache(engine: Engine, session: Session) -> list[bytes]:
    arrays = unpack_pages(engine.image, engine.pages.read(session.pages), session.position)
    return [arrays.elements.tobytes(), arrays.scales.tobytes()]


@dataclass
class Interposed:
    """What a prompt and the session beside it computed, bit for bit."""

    prompt: list[object]
    beside: list[object]
    boundaries: int = 0


class Beside:
    """A session that decodes."""

    def __init__(self, engine: Engine, first: list[int]) -> None:
        self.engine, self.session, self.seen = engine, Session(), list[object]()
        self.token = self._take(engine.forward(self.session, first, write_logits=True))

    def _take(self, result: PassResult) -> int:
        self.seen += [result.candidates, self.engine.logits().tobytes()]
        return result.candidates[0].token

    def decode(self) -> None:
        """One more token; a new session when the context is full."""
        if self.session.position == self.engine.image.context:
            self.seen += cache(self.engine, self.session)
            self.engine.pages.close(self.session)
        self.token = self._take(self.engine.forward(self.session, [self.token], write_logits=True))

    def all(self) -> list[object]:
        return [*self.seen, *cache(self.engine, self.session)]


def _seen(engine: Engine, result: PassResult, write_logits: bool) -> list[object]:
    return [result.tokens, result.candidates, *([engine.logits().tobytes()] if write_logits else [])]


def undisturbed(engine: Engine, passes: Prompt, beside: list[int], count: int, logits: Callable[[int], bool]) -> Interposed:
    """Whole passes, one session behind the other."""
    other, session, prompt = Beside(engine, beside), Session(), list[object]()
    for number, tokens in enumerate(passes):
        wanted = logits(number)
        prompt += _seen(engine, engine.forward(session, tokens, logits=wanted, write_logits=True), wanted)
    for _ in range(count):
        other.decode()
    return Interposed([*prompt, *cache(engine, session)], other.all())


def interposed(
    engine: Engine,
    passes: Prompt,
    beside: list[int],
    at: Iterable[int] | None,
    logits: Callable[[int], bool],
    between: Callable[[Engine], None] = lambda engine: None,
) -> Interposed:
    """The prompt in slices; the other session decodes at the boundaries ``at`` (all if None)."""
    other, session, prompt = Beside(engine, beside), Session(), list[object]()
    boundary, chosen = 0, None if at is None else set(at)
    for number, tokens in enumerate(passes):
        wanted = logits(number)
        sliced: SlicedPass = engine.begin_slices(session, tokens, logits=wanted, write_logits=True)
        while (result := engine.run_slice(sliced)) is None:
            if chosen is None or boundary in chosen:
                other.decode()
                between(engine)
            boundary += 1
        prompt += _seen(engine, result, wanted)
    return Interposed([*prompt, *cache(engine, session)], other.all(), boundary)
