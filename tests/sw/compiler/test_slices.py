"""Passes in slices on the golden machine: whatever a token of another session leaves on the chip, the bits are the same."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from hwgen.boards import load_board
from hwgen.config import BuildConfig
from hwgen.decoder import LLAMA
from hwgen.descriptors import Fetch, Flag, Opcode
from hwgen.errors import HwgenError
from hwgen.published import PUBLISHED
from hwgen.shape import ModelShape
from hwgen.sw.compiler.compile import compile_model, compiler_of
from hwgen.sw.compiler.image import Image
from hwgen.sw.compiler.slices import plan_slices
from hwgen.sw.models.random_model import random_model as published_model
from hwgen.sw.runtime.engine import Engine
from hwgen.sw.runtime.pages import Session
from hwgen.weights import random_weights

from ...system.cases import random_config, random_model
from ...system.small import CONFIG, SHAPE
from ..runtime.interposed import compile_round_by_round, golden_engine, interposed, poison, sliced_image, undisturbed
from .test_int4 import CONFIG as INT4
from .test_int4 import SHAPE as INT4_SHAPE

#: Feed-forward larger than attention, in a scratch that holds the products of one round beside another token, not of all.
TIGHT = replace(CONFIG, name="tight", scratch_vectors=150)
BROAD = ModelShape(hidden=30, layers=2, heads=1, kv_heads=1, head_dim=8, ffn=63, vocab=41, activation="silu", max_context=32)
#: The whole scratch is taken while queries, keys and values are in it.
FULL = replace(SHAPE, hidden=64, ffn=37, activation="relu2")
#: Tokens of a pass in one round, in two.
ONE_ROUND = replace(CONFIG, name="one", lanes=6)
TWO_ROUNDS = replace(CONFIG, name="two", lanes=3)
#: The ring holds every panel for the next round; and none.
DEEP = replace(CONFIG, name="deep", ring_beats=512)
SHALLOW = replace(CONFIG, name="shallow", burst=1, ring_beats=8)

CASES: dict[str, tuple[BuildConfig, ModelShape, str]] = {
    "three rounds": (CONFIG, SHAPE, "exact"),
    "two rounds": (TWO_ROUNDS, SHAPE, "exact"),
    "one round": (ONE_ROUND, replace(SHAPE, activation="relu2"), "exact"),
    "short list": (CONFIG, SHAPE, "shortlist"),
    "replay": (DEEP, SHAPE, "exact"),
    "no replay": (SHALLOW, SHAPE, "shortlist"),
    "round by round": (TIGHT, BROAD, "exact"),
    "full": (CONFIG, FULL, "exact"),
    "groups": (replace(CONFIG, name="groups", lanes=1, groups=2, ring_beats=64), SHAPE, "exact"),
}
PASSES = [[5, 40, 0, 17, 23, 8], [31, 2, 9, 11, 4]]


@cache
def image_of(name: str) -> Image:
    return sliced_image(*CASES[name])


@pytest.mark.parametrize("name", CASES)
def test_a_token_at_every_boundary(name: str) -> None:
    """The first pass wants no logits, as those of a long prompt."""
    image = image_of(name)

    def logits(number: int) -> bool:
        return number > 0

    got = interposed(golden_engine(image), PASSES, [1, 2, 3], None, logits, poison)
    assert got.boundaries > 8
    want = undisturbed(golden_engine(image), PASSES, [1, 2, 3], got.boundaries, logits)
    assert got.prompt == want.prompt
    assert got.beside == want.beside


@pytest.mark.parametrize("tokens", [1, 4])
def test_each_boundary_by_itself(tokens: int) -> None:
    image, passes = image_of("three rounds"), [[9, 1], PASSES[0][:tokens]]
    engine = golden_engine(image)

    def logits(number: int) -> bool:
        return True

    want = undisturbed(engine, passes, [4], 1, logits)
    everywhere = interposed(golden_engine(image), passes, [4], (), logits).boundaries
    for boundary in range(everywhere):
        got = interposed(golden_engine(image), passes, [4], (boundary,), logits, poison)
        assert (got.prompt, got.beside) == (want.prompt, want.beside), boundary


def test_round_by_round_in_another_place() -> None:
    """Where the products of every round lie may differ from where a whole pass has them."""
    image = compile_round_by_round(CONFIG, BROAD)
    got = interposed(golden_engine(image), PASSES, [1], None, lambda number: True, poison)
    want = undisturbed(golden_engine(image), PASSES, [1], got.boundaries, lambda number: True)
    assert (got.prompt, got.beside) == (want.prompt, want.beside)


@pytest.mark.parametrize("seed", (100, 101, 102))
def test_random_builds_and_models(seed: int) -> None:
    config = random_config(seed)
    rng = np.random.default_rng([seed, 4])
    while True:
        shape, layer, head = random_model(config, rng)
        weights = random_weights(shape, 11, layer)
        if compile_model(config, weights, head=head).sliced is not None:
            break
    image = sliced_image(config, shape, head, weights)
    tokens = [int(t) for t in rng.integers(0, shape.vocab, min(image.chunk, image.context - 1))]
    passes = [tokens, tokens[: int(rng.integers(1, 1 + min(image.chunk, image.context - len(tokens))))]]
    got = interposed(golden_engine(image), passes, [0], None, lambda number: True, poison)
    want = undisturbed(golden_engine(image), passes, [0], got.boundaries, lambda number: True)
    assert (got.prompt, got.beside) == (want.prompt, want.beside)


def test_int4() -> None:
    """Drains find their row scales in the parameter memory, which the other token overwrites."""
    weights = random_weights(INT4_SHAPE, 1, LLAMA, "int4", kv="int4", query="e4m3", group=64)
    image = sliced_image(INT4, INT4_SHAPE, weights=weights)
    passes = [list(range(image.chunk)), [5, 8, 200, 7, 1]]
    got = interposed(golden_engine(image), passes, [0], None, lambda number: True, poison)
    want = undisturbed(golden_engine(image), passes, [0], got.boundaries, lambda number: True)
    assert (got.prompt, got.beside) == (want.prompt, want.beside)


# ---- what the cases are ------------------------------------------------------------------------------------------
def kinds(image: Image) -> list[tuple[str, ...]]:
    assert image.sliced is not None
    return [tuple(d.opcode.name for d in part if d.opcode not in (Opcode.PARAM, Opcode.NORM)) for part in image.sliced.slices]


def test_slices_are_operators() -> None:
    image = image_of("three rounds")
    slices = kinds(image)
    assert slices[0] == ("EMBED",) and slices[-1] == ("HEAD",)
    assert sum("ATTENTION" in s for s in slices) == SHAPE.layers
    panels = {d.stream_address for d in image.descriptors if d.opcode is Opcode.LINEAR}
    assert len(slices) == 2 + SHAPE.layers + len(panels)
    assert len(panels) > 7 * SHAPE.layers, "several panels a matrix"
    assert all(s.count("LINEAR") == 3 for s in slices if "LINEAR" in s)


def test_replay() -> None:
    held = {name: [d for part in image_of(name).sliced.slices for d in part if Flag.REPLAY in d.flags]  # type: ignore[union-attr]
            for name in ("replay", "no replay", "three rounds")}
    linear = [d for part in image_of("replay").sliced.slices for d in part if d.opcode is Opcode.LINEAR]  # type: ignore[union-attr]
    assert len(held["replay"]) == 2 * len(linear) // 3 and not held["no replay"] and held["three rounds"]
    assert sum(d.fetch is Fetch.STREAM for d in linear) == len(linear) // 3, "a panel is fetched once for all rounds"


def test_round_by_round_where_the_scratch_is_tight() -> None:
    rounds = [s.count("LINEAR") for s in kinds(image_of("round by round"))]
    assert set(rounds) == {0, 1, 3}


def test_boundaries_where_the_scratch_is_free() -> None:
    """Where the other token's vectors would lie on some that are needed, a slice goes on to where they do not."""
    image = image_of("full")
    slices = kinds(image)
    assert any("ATTENTION" in s and s.count("LINEAR") > 3 for s in slices)
    assert sum("ATTENTION" not in s and s.count("LINEAR") == 3 for s in slices) >= 3 * SHAPE.layers


def test_no_room_at_all() -> None:
    config = replace(CONFIG, chunk=1, scratch_vectors=33)
    image = compile_model(config, random_weights(replace(SHAPE, layers=1)))
    assert image.sliced is None and image.buffers()["programs"] == [image.program_bytes]
    engine = golden_engine(image)
    assert engine.slices == 0
    with pytest.raises(ValueError, match="slices"):
        engine.begin_slices(Session(), [1, 2])


@pytest.mark.parametrize(
    ("shape", "head"),
    [(s, h) for s, model in PUBLISHED.items() for h in ("exact", "shortlist") if h == "exact" or model.engine == "ternary"],
)
def test_published_shapes(shape: str, head: str) -> None:
    """On the build they are measured on, every panel is a slice, and no pass is shorter for it."""
    config, weights = load_board("kv260").for_engine(PUBLISHED[shape].engine).config, published_model(shape, layers=2)
    compiler = compiler_of(config, weights, head)  # type: ignore[arg-type]  # a random model has what compilers use
    compiler.plan_program()
    sliced = plan_slices(compiler)
    assert sliced is not None
    for part in sliced.slices[:-1]:
        assert len({d.stream_address for d in part if d.opcode is Opcode.LINEAR}) <= 1
        assert sum(d.opcode is Opcode.ATTENTION for d in part) <= 1


# ---- the engine --------------------------------------------------------------------------------------------------
def run(engine: Engine, session: Session, tokens: list[int]) -> list[object]:
    result = engine.forward(session, tokens, write_logits=True)
    return [result.candidates, engine.logits().tobytes()]


def finish(engine: Engine, sliced: object) -> list[object]:
    while (result := engine.run_slice(sliced)) is None:  # type: ignore[arg-type]
        pass
    return [result.candidates, engine.logits().tobytes()]


@pytest.mark.parametrize("slices", [1, 7, 18])
def test_another_prompt_makes_it_begin_anew(slices: int) -> None:
    image = image_of("three rounds")
    want = run(golden_engine(image), Session(), PASSES[0])
    engine, session = golden_engine(image), Session()
    sliced = engine.begin_slices(session, PASSES[0], write_logits=True)
    for _ in range(slices):
        assert engine.run_slice(sliced) is None
    assert session.tokens == [] and engine.is_suspended(sliced)
    engine.forward(Session(), [8, 8, 8])
    assert not engine.is_suspended(sliced)
    poison(engine)
    assert finish(engine, sliced) == want
    assert session.tokens == PASSES[0]


def test_a_suspended_pass_is_parked() -> None:
    image = image_of("three rounds")
    want = run(golden_engine(image), Session(), PASSES[0])
    engine, session, other = golden_engine(image), Session(), Session()
    sliced = engine.begin_slices(session, PASSES[0], write_logits=True)
    for _ in range(11):
        engine.run_slice(sliced)
    engine.pages.park(session)
    with pytest.raises(ValueError, match="parked"):
        engine.run_slice(sliced)
    for token in range(12):  # in the pages that were free
        engine.forward(other, [token])
    assert engine.pages.unpark(session, len(PASSES[0]))
    assert finish(engine, sliced) == want


def test_a_failed_slice() -> None:
    """Nothing is known of the machine then: the pass begins anew."""
    image = image_of("three rounds")
    want = run(golden_engine(image), Session(), PASSES[0])
    engine, session = golden_engine(image), Session()
    sliced = engine.begin_slices(session, PASSES[0], write_logits=True)
    for _ in range(5):
        engine.run_slice(sliced)
    wait, engine.device.wait = engine.device.wait, lambda timeout: (_ for _ in ()).throw(KeyboardInterrupt)  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        engine.run_slice(sliced)
    engine.device.wait = wait  # type: ignore[method-assign]
    assert not engine.is_suspended(sliced) and session.tokens == []
    poison(engine)
    assert finish(engine, sliced) == want


def test_the_session_must_wait() -> None:
    engine, session = golden_engine(image_of("three rounds")), Session()
    sliced = engine.begin_slices(session, [1, 2, 3])
    engine.run_slice(sliced)
    engine.forward(session, [7])
    with pytest.raises(ValueError, match="0 tokens, not 1"):
        engine.run_slice(sliced)
    with pytest.raises(HwgenError, match="vocabulary"):
        engine.begin_slices(Session(), [SHAPE.vocab])
    with pytest.raises(ValueError, match="1 to 6"):
        engine.begin_slices(Session(), [0] * 7)


def test_counters_are_those_of_all_slices() -> None:
    engine = golden_engine(image_of("three rounds"))
    sliced = engine.begin_slices(Session(), PASSES[0])
    while (result := engine.run_slice(sliced)) is None:
        pass
    whole = engine.forward(Session(), PASSES[0])
    assert result.tokens == whole.tokens and result.candidates == whole.candidates
    assert result.counters["operators"] > whole.counters["operators"]
    assert result.counters["write_beats"] == whole.counters["write_beats"]
