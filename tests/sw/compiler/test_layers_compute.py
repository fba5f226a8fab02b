"""Programs of every kind, of one layer or two, on the golden machine: logits are those of the golden model, bit for bit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hwgen.decoder import BITNET, LLAMA, QWEN2, QWEN3, DecoderLayer
from hwgen.descriptors import Descriptor, Fetch, Flag, Format, Opcode
from hwgen.errors import HwgenError
from hwgen.golden.decoder import GoldenModel, GoldenSession
from hwgen.layout import pad_beats
from hwgen.shape import ModelShape
from hwgen.sw.compiler.compile import compile_model, compiler_of
from hwgen.sw.compiler.grouped import GroupedCompiler
from hwgen.sw.compiler.head_parameters import HeadParameters
from hwgen.sw.compiler.int4 import Int4Compiler, check_groups
from hwgen.sw.compiler.mixing import Mixing
from hwgen.sw.compiler.ternary import PackedRows, TernaryCompiler
from hwgen.sw.compiler.vocabulary import head_cuts
from hwgen.sw.devices.golden import GoldenDevice
from hwgen.sw.runtime.engine import Engine
from hwgen.sw.runtime.pages import Session
from hwgen.weights import random_weights

from .test_int4 import CONFIG, check

BOTH = replace(CONFIG, engine="both", chunk=6)
ONE = ModelShape(hidden=32, layers=1, heads=2, kv_heads=1, head_dim=16, ffn=96, vocab=37, activation="silu", max_context=32)
GROUPED = replace(BOTH, engine="grouped", rows=4, builders=14, max_inputs=256)


@pytest.mark.parametrize(("layer", "engine", "changes", "formats"), [
    (BITNET, "ternary", {}, {}), (BITNET, "ternary", {"layers": 2, "activation": "relu2", "tied": False}, {}),
    (LLAMA, "ternary", {}, {"kv": "k8v4"}), (QWEN2, "ternary", {"layers": 2}, {}), (QWEN3, "ternary", {}, {}),
    (LLAMA, "int4", {}, {}), (LLAMA, "int4", {"layers": 2, "unrotated": (0,)}, {"kv": "k4v4", "query": "e4m3"}),
    (QWEN2, "int4", {}, {"kv": "k8v4"}), (QWEN3, "int4", {"layers": 2, "rope_scale": 1.5}, {}),
    (BITNET, "int4", {}, {"symmetric": True}),
], ids=lambda value: getattr(value, "name", str(value)))
def test_logits(layer: DecoderLayer, engine: str, changes: dict[str, Any], formats: dict[str, Any]) -> None:
    check(BOTH, random_weights(replace(ONE, **changes), 3, layer, engine, **formats), [7, 1])


@pytest.mark.parametrize("changes", [{"panel_rows": 40}, {"chunk": 1}, {"chunk": 12, "lanes": 1}], ids=str)
@pytest.mark.parametrize("engine", ["ternary", "int4"])
def test_other_cuts(engine: str, changes: dict[str, Any]) -> None:
    """Many panels, one token a pass, six rounds."""
    check(replace(BOTH, **changes), random_weights(ONE, 4, QWEN2, engine), [3, 1])


@pytest.mark.parametrize("tied", [True, False])
def test_scales_of_groups(tied: bool) -> None:
    shape = replace(ONE, hidden=128, heads=8, ffn=128, tied=tied)
    check(GROUPED, random_weights(shape, 5, QWEN3, "grouped"), [5, 1])


def test_drains_add_what_they_should() -> None:
    """Biases to queries, keys and values; the residual stream to outputs; nothing to what is stored."""
    program = compiler_of(BOTH, random_weights(ONE, 1, QWEN2))
    program.plan_program()
    plan, vectors = program.plan, 32 // 8
    drains = [d for d in program.program if d.opcode is Opcode.DRAIN and d.layer == 0]
    by_place: dict[str, list[Descriptor]] = {"qkv": [], "x": [], "g": []}
    for d in drains:
        at = "x" if d.dst < plan.bias else "qkv" if d.dst_stride == plan.qkv_stride else "g"
        by_place[at].append(d)
    assert all((d.flags, d.src, d.src_stride) == (Flag.ADD, plan.bias + d.dst - plan.qkv, 0) for d in by_place["qkv"])
    assert all((d.flags, d.src, d.src_stride) == (Flag.ADD, d.dst, vectors) for d in by_place["x"])
    kinds = [(d.flags, d.src == d.dst, d.src_stride) for d in by_place["g"]]
    assert set(kinds) == {(Flag.SILU, False, 0), (Flag.MULTIPLY, True, plan.g_stride)} and len(by_place["qkv"]) == 2 * 3
    loads = [d for d in program.program if d.opcode is Opcode.EMBED and d.fetch is Fetch.STREAM and d.layer == 0]
    assert [(d.dst, d.vectors, d.token_count) for d in loads] == [(plan.bias, 4 + 2 + 2, 1)]


def test_parameters_of_heads() -> None:
    """Behind the gains: a row that rotates nothing, then gains of queries and of keys."""
    shape = replace(ONE, layers=3, unrotated=(1,))
    heads = HeadParameters(BOTH, shape, QWEN3)
    assert (heads.head_vectors, heads.vectors, heads.bias_vectors, heads.first) == (2, 2 + 4, 0, 0)
    heads.first = 50
    assert [heads.rotary(layer) for layer in range(3)] == [(0, 2), (50, 0), (0, 2)]
    plain = HeadParameters(BOTH, ONE, QWEN2)
    assert (plain.vectors, plain.bias_vectors) == (0, 4 + 2 + 2) and HeadParameters(BOTH, ONE, BITNET).bias_vectors == 0
    compiler = compiler_of(BOTH, random_weights(shape, 1, QWEN3))
    (once,) = heads.load_once(compiler.memory)
    assert (once.layer, once.dst, once.vectors, once.token_count, once.flags) == (0, 50, 2, 1, Flag.NONE)
    assert not list(plain.load_once(compiler.memory))
    norms = list(heads.norms(compiler.plan, 1, 0, 3, {"token_start": 2, "token_count": 4}))
    start = compiler.plan.qkv
    assert [(d.heads, d.src, d.dst, d.param) for d in norms] == [(2, start, start, 52), (1, start + 4, start + 4, 54)]
    assert all((d.scalar0, d.scalar1) == (1 / 16, float(np.float32(1e-5))) and d.flags == Flag.STORE for d in norms)
    wide = HeadParameters(BOTH, replace(shape, head_dim=64), QWEN3)
    odd = HeadParameters(BOTH, replace(shape, head_dim=48), QWEN3)
    assert (wide.head_vectors, wide.vectors, odd.head_vectors, odd.vectors) == (8, 8 + 16, 6, 6 + 12)
    assert [d.heads for d in heads.norms(compiler.plan, 1, 1, 2, {})] == [1] and not list(heads.norms(compiler.plan, 1, 2, 3, {}))


def test_compilers_and_what_they_refuse() -> None:
    for engine, kind in (("ternary", TernaryCompiler), ("int4", Int4Compiler)):
        assert type(compiler_of(BOTH, random_weights(ONE, 1, LLAMA, engine))) is kind
    grouped = random_weights(replace(ONE, hidden=128, heads=8, ffn=128), 1, LLAMA, "grouped")
    assert type(compiler_of(GROUPED, grouped)) is GroupedCompiler
    with pytest.raises(HwgenError, match="takes one a matrix"):
        compiler_of(BOTH, grouped)
    for weights, config in ((grouped, GROUPED), (random_weights(ONE, 1, LLAMA, "int4"), BOTH)):
        with pytest.raises(HwgenError, match="the shortlist head needs"):
            compiler_of(config, weights, "shortlist")
    with pytest.raises(HwgenError, match="'odd' is not an LM head"):
        compiler_of(BOTH, random_weights(ONE, 1), "odd")
    narrow = replace(BOTH, max_inputs=64)
    compiler_of(narrow, random_weights(replace(ONE, ffn=32), 1, LLAMA, "int4"))
    with pytest.raises(HwgenError, match="the head takes the 64 inputs twice, .* max_inputs=64") as caught:
        compiler_of(narrow, random_weights(replace(ONE, hidden=64, ffn=32), 1, LLAMA, "int4"))
    assert caught.value.fix == "build with max_inputs=128 or more"
    with pytest.raises(HwgenError, match="the head takes the 64 inputs twice, .* max_inputs=96"):
        compiler_of(replace(BOTH, max_inputs=96), random_weights(replace(ONE, hidden=64, ffn=32), 1, LLAMA, "int4"))
    check_groups(BOTH, random_weights(ONE, 1, LLAMA, "int4", group=32))


def test_names_of_heads_are_compared_letter_by_letter() -> None:
    """A word of a command line is another object than one of the program."""
    exact, listed = ("".join(parts) for parts in (("ex", "act"), ("short", "list")))
    grouped = random_weights(replace(ONE, hidden=128, heads=8, ffn=128), 1, LLAMA, "grouped")
    for config, weights in ((BOTH, random_weights(ONE, 1, LLAMA, "int4")), (GROUPED, grouped), (BOTH, random_weights(ONE, 1))):
        assert compile_model(config, weights, head=exact).head == "exact"
    assert compile_model(BOTH, random_weights(ONE, 1), head=listed).head == "shortlist"


def test_cuts_of_a_head() -> None:
    """Whole beats, of equal size but the last; digits take five times the accumulators."""
    assert BOTH.panel_vectors == 8 and head_cuts(BOTH, "int4", 8 * 20, 100) == [(0, 7), (7, 7), (14, 6)]
    assert head_cuts(BOTH, "ternary", 8 * 3, 100) == [(0, 1), (1, 1), (2, 1)]
    assert head_cuts(BOTH, "int4", 64, 3) == [(0, 3), (3, 3), (6, 2)]
    with pytest.raises(HwgenError, match="the head needs panels of 40 rows"):
        head_cuts(replace(BOTH, panel_rows=32), "ternary", 64, 100)
    assert Mixing(BOTH, ONE, "k8v8").of_values == () and pad_beats(BOTH, 3) == 4


def test_rows_are_packed_once_while_they_are_asked_for() -> None:
    class Matrix:
        packed_times = 0

        def packed(self) -> np.ndarray:
            self.packed_times += 1
            return np.full(3, self.packed_times, np.uint8)

    rows, one, two = PackedRows(), Matrix(), Matrix()
    for matrix in (one, one, two, two, one):
        rows.of(matrix)
    assert (one.packed_times, two.packed_times) == (2, 1)
    image = compile_model(BOTH, random_weights(ONE, 1))
    assert image.kv == "k8v8" and image.engine == "ternary" and image.head == "exact"


@pytest.mark.parametrize("engine", ["ternary", "int4"])
def test_parameter_memory_is_full_and_no_more(engine: str) -> None:
    """A build with as many vectors as the plan says is enough, and the last of them is used."""
    shape = replace(ONE, layers=2, unrotated=(1,))
    compiler = compiler_of(BOTH, random_weights(shape, 1, QWEN3, engine))
    need = compiler.plan.chunk * compiler.head_vectors + compiler.gain_vectors
    tight = compiler_of(replace(BOTH, param_vectors=need), random_weights(shape, 1, QWEN3, engine))
    assert tight.plan.chunk == compiler.plan.chunk
    tight.plan_program()
    ends = [d.dst + d.vectors for d in tight.program if d.opcode is Opcode.PARAM]
    assert max(ends) == need
    fewer = compiler_of(replace(BOTH, param_vectors=need - 1), random_weights(shape, 1, QWEN3, engine))
    assert fewer.plan.chunk < compiler.plan.chunk


@pytest.mark.parametrize(("layer", "changes"), [
    (BITNET, {}), (BITNET, {"chunk": 1}), (LLAMA, {"panel_rows": 16}), (QWEN3, {"chunk": 12, "lanes": 1}),
], ids=["one panel", "one token", "panels", "rounds"])
def test_candidates_of_a_short_list_of_all_blocks(layer: DecoderLayer, changes: dict[str, Any]) -> None:
    """Three blocks of 16 rows, all on the list: candidates are the best of the golden model's logits."""
    config, weights = replace(BOTH, **changes), random_weights(ONE, 3, layer)
    engine, session = Engine(GoldenDevice(config), compile_model(config, weights, head="shortlist")), Session()
    model, reference = GoldenModel(weights, config), GoldenSession()
    for tokens in ([3, 1, 4, 1, 5], [9]):
        (found,) = engine.prefill(session, tokens)[-1].runs[0].words
        logits = model.forward(reference, tokens).numpy()
        best = np.argsort(-logits, kind="stable")[: config.topk]
        assert found[:, 0].tolist() == best.tolist()


def test_as_many_panels_as_needed_or_one_more() -> None:
    """One more where the first seam between matrices is then one between panels, so that the first matrix is complete early."""
    compiler = compiler_of(replace(BOTH, panel_rows=64), random_weights(ONE, 1))
    for seams, height in (([], 48), ([32], 32), ([48], 48), ([40], 48), ([64], 32), ([40, 64], 48), ([96], 48)):
        assert compiler.panel_height(96, 8, seams) == height, seams
    assert compiler.panel_height(64, 8, [32]) == 32 and compiler.panel_height(64, 8, []) == 64
    assert compiler.panel_height(72, 8, []) == 40 and compiler.panel_height(72, 16, []) == 48
    assert [compiler.cuts(vectors) for vectors in ([12], [4, 8], [9])] == [
        [(0, 48), (48, 48)], [(0, 32), (32, 32), (64, 32)], [(0, 40), (40, 32)],
    ]


def test_norms_of_other_sizes_take_the_second_place() -> None:
    """Three norms a layer do not take turns: that of the attention's output has the place of the residual stream in layer 1, where
    it must not be larger.
    """
    qkv, out, *others, down = BITNET.stages
    three = DecoderLayer("three", (qkv, out, *others, replace(down, norm=None)))
    check(BOTH, random_weights(replace(ONE, layers=2), 3, three), [5, 1])
    check(BOTH, random_weights(replace(ONE, layers=2, hidden=64), 3, three), [5, 1])
    with pytest.raises(HwgenError, match="norms of the residual stream and others do not take turns"):
        compiler_of(BOTH, random_weights(replace(ONE, layers=2, hidden=24), 3, three))


def test_keys_are_written_as_they_are_read() -> None:
    """Formats of keys and values, whatever queries have; and rows that are loaded for all tokens are loaded once."""
    program = compiler_of(BOTH, random_weights(ONE, 1, QWEN2, "int4", kv="k4v4", query="e4m3"))
    program.plan_program()
    formats = {d.opcode: d.format for d in program.program if d.opcode in (Opcode.ATTENTION, Opcode.KV_WRITE)}
    four_bits = Format.INT4_KEYS | Format.INT4_VALUES
    assert formats == {Opcode.ATTENTION: four_bits | Format.FP8_QUERY, Opcode.KV_WRITE: four_bits}
    assert {d.token_count for d in program.program if d.fetch is Fetch.STREAM and d.opcode is not Opcode.LINEAR} == {1}
