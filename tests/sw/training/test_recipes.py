"""Rounding, scaling and recipes of the quantiser on small models."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hwgen.boards import load_board
from hwgen.decoder import LLAMA, QWEN2, QWEN3, DecoderLayer
from hwgen.errors import HwgenError
from hwgen.golden.decoder import GoldenModel
from hwgen.golden.float_llama import FloatLlama
from hwgen.int4 import round_to_nearest
from hwgen.sw.cli.main import main
from hwgen.sw.models.open import open_model
from hwgen.sw.training import RECIPES
from hwgen.sw.training.recipes import calibration_windows, quantize
from hwgen.sw.training.rounding import round_gptq
from hwgen.sw.training.scaling import InputStatistics, channel_scales, fold_inputs, rotary_factors
from hwgen.weights import LayerWeights, ModelWeights, dense, random_weights, scale_rows

from ..models.llama_files import SHAPE, write_gguf

RNG = np.random.default_rng(1)


def floats(seed: int = 1, layer: DecoderLayer = LLAMA, unrotated: tuple[int, ...] = ()) -> ModelWeights:
    """A model with float matrices, some input channels of which are large, as in trained models."""
    rng = np.random.default_rng(seed)
    weights = random_weights(replace(SHAPE, unrotated=unrotated), seed, layer, "int4")
    layers = []
    for of in weights.layers:
        matrices = {n: np.asarray(rng.normal(0, 1, m.shape), np.float32) for n, m in of.matrices.items()}
        for w in matrices.values():
            w *= (w.shape[1] ** -0.5) * np.where(rng.random(w.shape[1]) < 0.1, 6, 1)
        layers.append(of.with_matrices(matrices))
    return replace(weights, layers=tuple(layers))


WINDOWS = torch.from_numpy(RNG.integers(0, SHAPE.vocab, (3, 64)))


def test_gptq_beats_nearest_on_what_it_sees() -> None:
    """Correlated inputs: less output error; uncorrelated ones: the codes of rounding to nearest."""
    rng = np.random.default_rng(2)
    w = np.asarray(rng.normal(0, 1, (24, 160)), np.float32)
    x = torch.from_numpy(
        np.asarray(rng.normal(0, 1, (400, 20)) @ rng.normal(0, 1, (20, 160)) + 0.1 * rng.normal(0, 1, (400, 160)), np.float32)
    )

    def error(dense_weights: np.ndarray) -> float:
        return float((x @ torch.from_numpy(dense_weights - w).T).square().sum())

    for group in (32, 128):
        gptq, nearest = round_gptq(w, x.T @ x, group), round_to_nearest(w, group)
        assert error(gptq.dense()) < 0.7 * error(nearest.dense())
    same = round_gptq(w, torch.eye(160), 32)
    assert np.abs(same.dense() - round_to_nearest(w, 32).dense()).max() < 0.6
    dead = x.clone()
    dead[:, 5] = 0
    assert (round_gptq(w, dead.T @ dead, 32).codes[:, 5] == 0).all()


def test_folding_keeps_the_function() -> None:
    weights = floats()
    first = weights.layers[0]
    layer = {name: w.copy() for name, w in (*first.matrices.items(), *first.norms.items())}
    rng = np.random.default_rng(3)
    for names, source in ((("q", "k", "v"), "input_layernorm"), (("gate", "up"), "post_attention_layernorm"), (("down",), "up")):
        scales = np.asarray(rng.uniform(0.3, 3, layer[names[0]].shape[1]), np.float32)
        fold_inputs(layer, names, source, scales, SHAPE)
    head = rng.uniform(0.3, 3, (SHAPE.kv_heads, 1, SHAPE.head_dim))
    scales = np.broadcast_to(head, (SHAPE.kv_heads, SHAPE.group, SHAPE.head_dim)).reshape(-1).astype(np.float32)
    fold_inputs(layer, ("o",), "v", scales, SHAPE)
    key = rng.uniform(0.3, 3, (SHAPE.kv_heads, SHAPE.head_dim // 2))
    keys = torch.from_numpy(rng.normal(0, 1, (2, SHAPE.kv_heads, 30, SHAPE.head_dim)) * np.concatenate((key, key), 1)[:, None])
    k, q = rotary_factors(keys, SHAPE)
    layer["k"], layer["q"] = scale_rows(layer["k"], k), scale_rows(layer["q"], q)  # type: ignore[assignment]
    assert k.reshape(SHAPE.kv_heads, 2, -1).std(axis=1).max() == 0 and k.std() > 0.1
    folded = LayerWeights(matrices={n: layer[n] for n in first.matrices}, norms={n: layer[n] for n in first.norms})
    changed = replace(weights, layers=(folded, weights.layers[1]))
    torch.testing.assert_close(FloatLlama(changed)(WINDOWS), FloatLlama(weights)(WINDOWS), rtol=2e-3, atol=2e-3)


def test_rotary_factors_level_the_keys() -> None:
    spread_of = np.linspace(0.1, 20, SHAPE.head_dim // 2)
    keys = torch.from_numpy(RNG.normal(0, 1, (2, SHAPE.kv_heads, 200, SHAPE.head_dim)) * np.tile(spread_of, 2)).float()
    k, _ = rotary_factors(keys, SHAPE)
    largest = (keys * torch.from_numpy(k).reshape(SHAPE.kv_heads, 1, -1)).abs().amax(dim=(0, 2))
    assert largest.max() / largest.min() < 2 and keys.abs().amax(dim=(0, 2)).max() > 50


def test_channel_scales_help_and_share_heads() -> None:
    weights = floats(4)
    w = weights.layers[0].matrices["o"]
    assert isinstance(w, np.ndarray)
    x = torch.from_numpy(RNG.normal(0, 1, (1, 300, w.shape[1])) * RNG.choice([0.1, 1, 10], w.shape[1])).float()
    statistics = InputStatistics.of(x)
    scales = channel_scales([w], statistics, 32, SHAPE.group, SHAPE.head_dim)
    heads = scales.reshape(SHAPE.kv_heads, SHAPE.group, SHAPE.head_dim)
    assert (heads == heads[:, :1]).all()
    free = channel_scales([w], statistics, 32)

    def error(s: np.ndarray) -> float:
        rounded = round_to_nearest(np.asarray(w * s, np.float32), 32).dense() / s
        return float((x @ torch.from_numpy(np.asarray(rounded - w, np.float32)).T).square().sum())

    assert error(free) < 0.8 * error(np.ones_like(free))


@pytest.mark.parametrize("recipe", ["rtn", "fireq", "gptq", "fireq-gptq"])
def test_recipes(recipe: str) -> None:
    weights = floats(6)
    done = quantize(weights, recipe, 32, None if recipe == "rtn" else WINDOWS)
    assert done.weights.is_quantized and len(done.errors) == SHAPE.layers and set(done.errors[0]) == set(weights.layers[0].matrices)
    assert all(0 < e < 0.3 for row in done.errors for e in row.values())
    reference = FloatLlama(weights)(WINDOWS)
    error = (FloatLlama(done.weights)(WINDOWS) - reference).std() / reference.std()
    plain = (FloatLlama(quantize(weights, "rtn", 32).weights)(WINDOWS) - reference).std() / reference.std()
    assert error == plain if recipe == "rtn" else error < 0.95 * plain


@pytest.mark.parametrize(
    ("layer", "unrotated"), [(QWEN2, ()), (QWEN3, ()), (LLAMA, (1,))], ids=["biases", "head norms", "unrotated"]
)
def test_scaling_of_other_layers(layer: DecoderLayer, unrotated: tuple[int, ...]) -> None:
    """What is folded into rows is folded into their biases, and nothing in front of a norm of heads."""
    weights = floats(6, layer, unrotated)
    done = quantize(weights, "fireq", 32, WINDOWS).weights
    assert done.is_quantized and done.layer is layer
    reference = FloatLlama(weights)(WINDOWS)
    error = (FloatLlama(done)(WINDOWS) - reference).std() / reference.std()
    plain = (FloatLlama(quantize(weights, "rtn", 32).weights)(WINDOWS) - reference).std() / reference.std()
    assert error < plain


def test_exact_keeps_codes_and_rotary_scaling_keeps_the_function(tmp_path: Path) -> None:
    from hwgen.sw.models.gguf import open_gguf

    write_gguf(tmp_path / "m.gguf", random_weights(SHAPE, 8, LLAMA, "int4"), "Q4_1")
    weights = open_gguf(tmp_path / "m.gguf").load().weights
    plain = quantize(weights, "exact-q4_1", 32).weights
    for a, b in zip(weights.layers, plain.layers, strict=True):
        for name, matrix in a.matrices.items():
            np.testing.assert_array_equal(matrix.codes, b.matrices[name].codes)
            assert np.abs(dense(matrix) - dense(b.matrices[name])).max() < 0.01 * np.abs(dense(matrix)).max()
    scaled = quantize(weights, "exact-q4_1", 32, WINDOWS).weights
    np.testing.assert_array_equal(scaled.layers[0].matrices["k"].codes, plain.layers[0].matrices["k"].codes)
    torch.testing.assert_close(FloatLlama(scaled)(WINDOWS), FloatLlama(plain)(WINDOWS), rtol=2e-3, atol=2e-3)
    reference, config = FloatLlama(plain)(WINDOWS), load_board("demo").config
    errors = [(GoldenModel(replace(w, kv="k4v4"), config).logits(WINDOWS) - reference).std() for w in (scaled, plain)]
    assert errors[0] < 1.1 * errors[1]
    with pytest.raises(HwgenError, match="layer 0 q must have 4-bit codes, not floats"):
        quantize(floats(), "exact-q4_1", 32)


def test_refused() -> None:
    with pytest.raises(HwgenError, match="needs a calibration text"):
        quantize(floats(), "fireq", 32)
    with pytest.raises(HwgenError, match="no recipe 'awq'"):
        quantize(floats(), "awq", 32)
    with pytest.raises(HwgenError, match="at least 64 are needed"):
        calibration_windows([1] * 30, 64, 4096)
    assert calibration_windows(list(range(300)), 64, 200).shape == (3, 64)
    odd = random_weights(replace(SHAPE, ffn=172), 1, LLAMA)
    with pytest.raises(HwgenError, match="matrix down cannot be made 4-bit: it has 172 inputs, no multiple of 16"):
        quantize(odd, "rtn", 32)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Table, checkpoint, and the checkpoint loaded again."""
    write_gguf(tmp_path / "m.gguf", random_weights(SHAPE, 9, LLAMA, "int4"), "Q4_1")
    text = tmp_path / "text.txt"
    text.write_text("The cat sat upon a time. Once there was a cat, and the cat sat. " * 12)
    out = tmp_path / "out"
    code = main(["quantize", str(tmp_path / "m.gguf"), "--recipe", "fireq", "--group", "64", "--kv", "k4v4", "--text", str(text),
                 "--tokens", "60", "--out", str(out), "--json"])
    result = json.loads(capsys.readouterr().out)
    assert code == 0 and result["recipe"] == "fireq" and result["calibration_is_text"]
    assert [(row["recipe"], row["group"], row["kv"]) for row in result["rows"]] == [
        ("float", 0, "float"), ("fireq, float arithmetic", 64, "float"),
        ("fireq", 64, "k4v4"), ("fireq", 64, "k8v8"), ("fireq", 64, "k8v4"),
    ]
    assert all(row["perplexity"] > 1 and row["bytes"] > 0 for row in result["rows"]) and len(result["layers"]) == 2
    model = open_model(out)
    assert model.weights.kv == "k4v4" and model.weights.layers[0].matrices["q"].group == 64
    assert model.tokenizer.has_chat_template and model.stop_tokens == (0, SHAPE.vocab - 1)
    assert main(["quantize", str(tmp_path / "m.gguf"), "--out", str(out), "--recipe", "rtn", "--json"]) == 2
    assert "exists and is not empty" in capsys.readouterr().out
    assert main(["perplexity", str(out), str(text), "--tokens", "60", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["bit_exact"]["perplexity"] == pytest.approx(result["rows"][2]["perplexity"], rel=1e-6)
    assert set(RECIPES) == {"exact-q4_1", "rtn", "fireq", "gptq", "fireq-gptq"}
