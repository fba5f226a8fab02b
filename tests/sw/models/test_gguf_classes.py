"""GGUF files of the architectures whose layers are a llama's, written by the library that defines the format."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwgen.decoder import LLAMA, QWEN2, QWEN3, DecoderLayer
from hwgen.errors import HwgenError
from hwgen.shape import ModelShape
from hwgen.sw.models.multipliers import Multipliers, fold_multipliers
from hwgen.sw.models.open import open_model
from hwgen.sw.models.rotary_scaling import yarn_attention, yarn_factors
from hwgen.weights import ModelWeights, dense, random_weights

from .llama_files import SHAPE, write_gguf

pytest.importorskip("gguf")

FOUR = replace(SHAPE, layers=4)


def assert_same(found: ModelWeights, wanted: ModelWeights) -> None:
    """Equal, within the rounding of Q8_0 where matrices are."""
    assert found.shape == wanted.shape and found.layer is wanted.layer
    np.testing.assert_array_equal(found.norm, wanted.norm)
    for a, b in zip(found.layers, wanted.layers, strict=True):
        for part in ("norms", "biases"):
            assert getattr(a, part).keys() == getattr(b, part).keys()
            for name, values in getattr(b, part).items():
                np.testing.assert_array_equal(getattr(a, part)[name], values)
        for name, matrix in b.matrices.items():
            np.testing.assert_allclose(dense(a.matrices[name]), dense(matrix), rtol=2e-7, atol=1e-9)


@pytest.mark.parametrize(("arch", "layer", "interleaved", "changes"), [
    ("qwen2", QWEN2, False, {}), ("qwen3", QWEN3, False, {}), ("smollm3", LLAMA, True, {"unrotated": (3,)}),
])
def test_architectures(arch: str, layer: DecoderLayer, interleaved: bool, changes: dict[str, Any], tmp_path: Path) -> None:
    weights = random_weights(replace(FOUR, **changes), 3, layer, "int4")
    write_gguf(tmp_path / "m.gguf", weights, "F32", arch=arch, interleaved=interleaved)
    assert_same(open_model(tmp_path / "m.gguf").weights, weights)


def test_granite(tmp_path: Path) -> None:
    weights = random_weights(SHAPE, 3, LLAMA, "int4")
    scales = {"embedding_scale": 12.0, "residual_scale": 0.25, "attention__scale": 0.125, "logit_scale": 8.0}
    write_gguf(tmp_path / "m.gguf", weights, "F32", arch="granite", **{f"granite__{n}": v for n, v in scales.items()})
    layers, norm = fold_multipliers(Multipliers(12.0, 0.25, 0.125, 8.0), SHAPE, list(weights.layers), weights.norm)
    shape = replace(SHAPE, rms_eps=open_model(tmp_path / "m.gguf").weights.shape.rms_eps)
    assert shape.rms_eps == pytest.approx(SHAPE.rms_eps / 144, rel=1e-6)
    assert_same(open_model(tmp_path / "m.gguf").weights, replace(weights, shape=shape, layers=tuple(layers), norm=norm))
    write_gguf(tmp_path / "bad.gguf", weights, "F32", arch="granite", granite__logit_scale=0.0)
    with pytest.raises(HwgenError, match="granite.logit_scale is 0.0, a positive number is wanted"):
        open_model(tmp_path / "bad.gguf")


def test_yarn_of_a_context_that_is_not_longer() -> None:
    assert yarn_attention(1.0) == yarn_attention(0.5) == 1.0 and yarn_attention(1.5, 2.0) == 1 + 0.2 * np.log(1.5)


def test_yarn(tmp_path: Path) -> None:
    fields = {"type": "yarn", "factor": 4.0, "original_context_length": 32, "attn_factor": 1.5}
    path = tmp_path / "m.gguf"
    write_gguf(
        path, random_weights(SHAPE, 3, LLAMA, "int4"), "F32", **{f"llama__rope__scaling__{n}": v for n, v in fields.items()}
    )
    shape = open_model(path).weights.shape
    wanted = yarn_factors(factor=4.0, fast=32.0, slow=1.0, original=32.0, theta=SHAPE.rope_theta, head_dim=SHAPE.head_dim)
    assert shape.rope_factors == wanted and shape.rope_scale == pytest.approx(1.5 * yarn_attention(4.0))


def test_phi3(tmp_path: Path) -> None:
    """Two tensors hold five matrices; positions up to the original context, by the short factors."""
    weights = random_weights(SHAPE, 3, LLAMA, "int4")
    fused: dict[str, np.ndarray] = {}
    for i, layer in enumerate(weights.layers):
        for place, names in (("attn_qkv", "qkv"), ("ffn_up", ("gate", "up"))):
            fused[f"blk.{i}.{place}.weight"] = np.concatenate([dense(layer.matrices[name]) for name in names])
    short = np.linspace(1, 3, SHAPE.head_dim // 2).astype(np.float32)
    factors = {"rope_factors_short.weight": short, "rope_factors_long.weight": 4 * short}
    fields = {"phi3__rope__scaling__original_context_length": 64, "phi3__rope__scaling__attn_factor": 1.25}
    path = tmp_path / "m.gguf"
    write_gguf(
        path, weights, "F32", tensors=fused | factors, leave=("attn_q", "attn_k", "attn_v", "ffn_gate", "ffn_up"), arch="phi3",
        interleaved=False, **fields,
    )
    model = open_model(path)
    assert model.shape.max_context == 64 and model.shape.rope_scale == 1.25
    np.testing.assert_array_equal(model.shape.rope_factors, short)
    for layer, wanted in zip(model.weights.layers, weights.layers, strict=True):
        for name, matrix in layer.matrices.items():
            np.testing.assert_array_equal(matrix, dense(wanted.matrices[name]))


def test_ternary_types_decide_the_row(tmp_path: Path) -> None:
    """The same architecture, with matrices of one scale."""
    shape = ModelShape(
        hidden=256, layers=1, heads=4, kv_heads=1, head_dim=64, ffn=256, vocab=263, activation="silu", max_context=128,
        rope_theta=500.0,
    )
    weights = random_weights(shape, 3, LLAMA)
    layer = weights.layers[0]
    half = {name: replace(m, scale=float(np.float32(np.float16(m.scale)))) for name, m in layer.matrices.items()}
    weights = replace(weights, layers=(layer.with_matrices(half),))
    write_gguf(tmp_path / "m.gguf", weights, "TQ2_0")
    model = open_model(tmp_path / "m.gguf")
    assert model.family.module == "ternary_llama" and model.weights.engine == "ternary"
    assert_same(model.weights, weights)
