"""The weights container and what is computed from it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from hwgen.decoder import LLAMA
from hwgen.formats import flush, quantize_head, round_bf16
from hwgen.shape import ModelShape
from hwgen.ternary import TernaryMatrix, quantize_ternary
from hwgen.weights import ModelWeights, random_weights

SHAPE = ModelShape(hidden=32, layers=2, heads=4, kv_heads=2, head_dim=8, ffn=48, vocab=50)


def test_random_weights_repeat() -> None:
    a, b, c = random_weights(SHAPE, 1), random_weights(SHAPE, 1), random_weights(SHAPE, 2)
    assert np.array_equal(a.layers[1].matrices["down"].trits, b.layers[1].matrices["down"].trits)
    assert np.array_equal(a.embedding, b.embedding)
    assert not np.array_equal(a.embedding, c.embedding)
    assert a.head is None and a.head_rows is a.embedding
    assert random_weights(dataclasses.replace(SHAPE, tied=False)).head_rows.shape == (50, 32)


def test_refuses_wrong_parts() -> None:
    good = random_weights(SHAPE)
    parts = {f.name: getattr(good, f.name) for f in dataclasses.fields(ModelWeights)}
    layer = good.layers[0]
    bad_q = layer.with_matrices({"q": TernaryMatrix(np.zeros((32, 31), np.int8), 1.0)})
    mixed = layer.with_matrices({"q": layer.matrices["q"].dense()})
    bad_gain = dataclasses.replace(layer, norms=layer.norms | {"ffn_sub_norm": np.ones(47, np.float32)})
    no_gain = dataclasses.replace(layer, norms={"input_layernorm": layer.norms["input_layernorm"]})
    bias = dataclasses.replace(layer, biases={"q": np.ones(32, np.float32)})
    for change, message in (
        ({"layers": good.layers[:1]}, "layers must be 2 long, not 1"),
        ({"head": good.embedding}, "head must be None in a model with tied=True"),
        ({"layers": (bad_q, layer)}, r"layer 0 q must be \(32, 32\), not \(32, 31\)"),
        ({"layers": (layer, bad_gain)}, r"layer 1 ffn_sub_norm must be float32 \(48,\)"),
        ({"layers": (layer, mixed)}, "matrices must be all ternary or all not"),
        ({"layers": (no_gain, layer)}, "layer 0 norms must be input_layernorm, attn_sub_norm, .*, not input_layernorm"),
        ({"layers": (layer, bias)}, "layer 1 biases must be none, not q"),
        ({"layer": LLAMA}, "layer 0 norms must be input_layernorm, post_attention_layernorm, not"),
        ({"kv": "fp8"}, "kv must be one of int8, int4, not 'fp8'"),
        ({"norm": good.norm.astype(np.float64)}, "norm must be float32"),
        ({"norm": good.norm * np.float32(np.nan)}, "norm must be finite"),
        ({"embedding": good.embedding + np.float32(1e-4)}, "embedding must hold bfloat16 values"),
    ):
        with pytest.raises(ValueError, match=message):
            ModelWeights(**(parts | change))


def test_ternary_matrix_refuses() -> None:
    with pytest.raises(ValueError, match="trits must be -1, 0 or 1, not -2"):
        TernaryMatrix(np.array([[0, -2]], np.int8), 1.0)
    with pytest.raises(ValueError, match="trits must be an int8 matrix"):
        TernaryMatrix(np.zeros((2, 2), np.int32), 1.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="scale must be a finite float32 value, not 0.1"):
        TernaryMatrix(np.zeros((2, 2), np.int8), 0.1)


def test_quantize_ternary() -> None:
    matrix = quantize_ternary([[0.5, -1.5, 0.1], [4.0, -0.9, 0.4]])
    assert matrix.trits.tolist() == [[0, -1, 0], [1, -1, 0]]
    assert matrix.scale == np.float32(7.4 / 6)
    zero = quantize_ternary(np.zeros((2, 3)))
    assert not zero.trits.any() and zero.scale == np.float32(1e-5)


def test_flush_and_bf16() -> None:
    assert np.array_equal(flush([2.0**-126, -0.0, 2.0**-125, 1.5]), np.array([0, 0, 2.0**-125, 1.5], np.float32))
    assert not np.signbit(flush([-0.0, -(2.0**-130)])).any()
    assert round_bf16([1 + 2**-8, 1 + 3 * 2**-8, -(1 + 2**-8 + 2**-16)]).tolist() == [1.0, 1 + 2**-6, -(1 + 2**-7)]


def test_quantize_head() -> None:
    rows = np.array([[127.0, -63.5, 0.5, 0.0], [0, 0, 0, 0], [-2.0, 1.0, 2.0, 0.001]], np.float32)
    w8, scales = quantize_head(rows)
    assert w8.tolist() == [[127, -64, 0, 0], [0, 0, 0, 0], [-127, 64, 127, 0]]
    assert scales[:2].tolist() == [0x3F80, 0]
