"""Compiled llama programs on the golden machine against the golden model, which knows nothing of programs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwgen.boards import load_board
from hwgen.config import BuildConfig
from hwgen.decoder import BITNET, LLAMA, DecoderLayer
from hwgen.descriptors import Flag, Format, Opcode
from hwgen.errors import HwgenError
from hwgen.golden.decoder import GoldenModel, GoldenSession
from hwgen.published import PUBLISHED
from hwgen.shape import ModelShape
from hwgen.sw.compiler.compile import compile_model, plan_model
from hwgen.sw.devices.golden import GoldenDevice
from hwgen.sw.models.random_model import random_model
from hwgen.sw.runtime.engine import Engine
from hwgen.sw.runtime.pages import Session
from hwgen.sw.runtime.session_file import load_session, save_session
from hwgen.weights import ModelWeights, random_weights

CONFIG = BuildConfig(
    engine="int4", beat_bytes=32, rows=2, groups=2, lanes=2, builders=1, panel_rows=64, max_inputs=256, kv_block=16, chunk=12,
    fp8_query=True, int4_kv=True, scratch_vectors=1024, param_vectors=256, max_head_dim=64, max_context=256,
)
SHAPE = ModelShape(
    hidden=64, layers=2, heads=4, kv_heads=2, head_dim=32, ffn=160, vocab=300, activation="silu", max_context=256
)


def check(config: BuildConfig, weights: ModelWeights, lengths: list[int]) -> None:
    """Prompts of these lengths, one behind the other: logits equal after each."""
    image = compile_model(config, weights)
    engine, session = Engine(GoldenDevice(config), image), Session()
    model, reference = GoldenModel(weights, config), GoldenSession()
    tokens = np.random.default_rng(3).integers(0, weights.shape.vocab, sum(lengths)).tolist()
    for length in lengths:
        part, tokens = tokens[:length], tokens[length:]
        for start in range(0, length, image.chunk):
            chunk = part[start : start + image.chunk]
            engine.forward(session, chunk, logits=start + len(chunk) == length, write_logits=True)
        assert np.array_equal(engine.logits().view(np.uint32), model.forward(reference, part).numpy().view(np.uint32))


@pytest.mark.parametrize(
    "formats",
    [
        {}, {"group": 128, "symmetric": True}, {"kv": "k8v4"}, {"kv": "k4v4"}, {"query": "e4m3"},
        {"kv": "k4v4", "query": "e4m3", "group": 64},
    ],
    ids=["q4_1", "symmetric 128", "k8v4", "k4v4", "e4m3 queries", "all"],
)
def test_logits_equal_the_golden_models(formats: dict[str, Any]) -> None:
    check(CONFIG, random_weights(SHAPE, 1, LLAMA, "int4", **formats), [21, 1, 1, 5, 1])


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        (replace(CONFIG, chunk=1), SHAPE),
        (replace(CONFIG, lanes=1, groups=1, chunk=8), replace(SHAPE, activation="relu2", tied=False)),
        (replace(CONFIG, rows=4, panel_rows=32), SHAPE),  # slices of 16 inputs, many panels
        (replace(CONFIG, engine="both"), replace(SHAPE, heads=6, kv_heads=6, hidden=96, ffn=32)),
    ],
    ids=["one token", "one lane", "many panels", "both engines"],
)
def test_other_builds(config: BuildConfig, shape: ModelShape) -> None:
    check(config, random_weights(shape, 2, LLAMA, "int4"), [14, 1, 3])


@pytest.mark.parametrize("kv_bits", [8, 4])
def test_a_session_with_a_four_bit_cache_is_saved_exactly(kv_bits: int, tmp_path: Path) -> None:
    image = compile_model(CONFIG, random_weights(SHAPE, 1, LLAMA, "int4", kv="k4v4"))
    engine, session = Engine(GoldenDevice(CONFIG), image), Session()
    engine.prefill(session, [int(t) for t in np.arange(23) % SHAPE.vocab])
    save_session(engine, session, tmp_path / "s", kv_bits=kv_bits)
    other = Engine(GoldenDevice(CONFIG), image)
    restored = load_session(other, tmp_path / "s")
    for token in (3, 1, 4):
        logits = []
        for machine, sequence in ((engine, session), (other, restored)):
            machine.forward(sequence, [token], logits=True, write_logits=True)
            logits.append(machine.logits())
        assert np.array_equal(*logits)
    with pytest.raises(HwgenError, match="has a k4v4 cache"):
        load_session(Engine(GoldenDevice(CONFIG), compile_model(CONFIG, random_weights(SHAPE, 1, LLAMA, "int4"))), tmp_path / "s")


def test_row_scales_are_never_overwritten_before_their_last_drain() -> None:
    config = replace(CONFIG, panel_rows=32)
    image = compile_model(config, random_weights(SHAPE, 1, LLAMA, "int4"))
    places: dict[int, int] = {}
    for tokens in (1, 4, 5, 12):
        places.clear()
        for d in image.descriptors:
            if d.token_start >= tokens or (Flag.MULTI in d.flags and tokens <= 2 * d.token_count):
                continue
            if d.opcode is Opcode.PARAM:
                assert d.token_count == 1
                for vector in range(d.vectors):
                    places[d.dst + vector] = d.stream_address
            elif d.opcode is Opcode.DRAIN:
                assert Format.FP8 in d.format
                loaded = {places[d.param + vector] for vector in range(d.vectors)}
                assert len(loaded) == 1, "scales of two panels"


def test_a_ternary_model_needs_a_ternary_engine_and_the_other_way_round() -> None:
    ternary = random_weights(ModelShape(hidden=64, layers=1, heads=2, kv_heads=2, head_dim=32, ffn=64, vocab=64))
    with pytest.raises(HwgenError, match="no ternary engine"):
        compile_model(CONFIG, ternary)
    with pytest.raises(HwgenError, match="no INT4 engine"):
        compile_model(load_board("demo").config, random_weights(SHAPE, 1, LLAMA, "int4"))


@pytest.mark.parametrize(
    ("changes", "formats", "message"),
    [
        ({"int4_kv": False}, {"kv": "k4v4"}, "k4v4 cache"),
        ({"fp8_query": False}, {"query": "e4m3"}, "e4m3 queries"),
        ({}, {"group": 16}, "groups of 16 inputs.*slices of 32"),
    ],
)
def test_a_format_that_the_build_lacks_is_named(changes: dict[str, Any], formats: dict[str, Any], message: str) -> None:
    with pytest.raises(HwgenError, match=message) as caught:
        compile_model(replace(CONFIG, **changes), random_weights(SHAPE, 1, LLAMA, "int4", **formats))
    assert "group" not in formats or caught.value.fix == "build with rows=4 or more, or quantise with --group 32"


def test_inputs_that_end_in_the_middle_of_a_slice_are_refused() -> None:
    with pytest.raises(HwgenError, match="matrix of 48 inputs"):
        compile_model(CONFIG, random_weights(replace(SHAPE, ffn=48), 1, LLAMA, "int4", group=32))


def test_sub_norms_and_int4_matrices_go_together() -> None:
    """What a layer computes and the format of its matrices are two axes: a decoder of neither published family."""
    check(CONFIG, random_weights(SHAPE, 4, BITNET, "int4", query="e4m3"), [21, 1, 5])
    check(replace(CONFIG, engine="both", chunk=1), random_weights(replace(SHAPE, ffn=96), 5, BITNET, "int4", kv="k4v4"), [3, 1])


def test_ternary_matrices_take_the_formats_of_attention() -> None:
    config = replace(CONFIG, engine="both")
    check(config, replace(random_weights(SHAPE, 6), kv="k4v4", query="e4m3"), [14, 1, 3])
    with pytest.raises(HwgenError, match="k4v4 cache"):
        compile_model(replace(config, int4_kv=False), replace(random_weights(SHAPE, 6), kv="k4v4"))


def test_biases_elsewhere_are_refused_by_name() -> None:
    *others, down = LLAMA.stages
    biased = DecoderLayer("biased", (*others, replace(down, biases=("down_bias",))))
    with pytest.raises(HwgenError, match="the model has a bias down_bias; the machine adds those of queries, keys and values"):
        compile_model(CONFIG, random_weights(SHAPE, 8, biased, "int4"))


def test_the_short_list_needs_ternary_weights() -> None:
    with pytest.raises(HwgenError, match="shortlist"):
        compile_model(CONFIG, random_weights(SHAPE, 1, LLAMA, "int4"), head="shortlist")


@pytest.mark.parametrize("name", [name for name, model in PUBLISHED.items() if model.engine == "int4"])
def test_published_llamas_fit_the_kv260(name: str) -> None:
    board = load_board("kv260").for_engine("int4")
    program, chunk = plan_model(board.config, random_model(name))
    assert chunk == board.config.chunk
    assert sum(d.opcode is Opcode.ATTENTION for d in program) == PUBLISHED[name].shape.layers


def test_boards_name_the_engines_they_have() -> None:
    board = load_board("kv260")
    assert board.for_engine("ternary") is board
    assert board.for_engine("int4").config.name == "kv260-int4"
    with pytest.raises(HwgenError, match="no configuration with engine 'int4'"):
        load_board("pynq-z2").for_engine("int4")
