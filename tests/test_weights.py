"""The weights container and what is computed from it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from hwgen.decoder import LLAMA
from hwgen.formats import quantize_head, ternary_head
from hwgen.grouped import GroupedMatrix
from hwgen.shape import ModelShape
from hwgen.ternary import TernaryMatrix
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
        ({"kv": "fp8"}, "kv must be one of k8v8, k8v4, k4v4, not 'fp8'"),
        ({"norm": good.norm.astype(np.float64)}, "norm must be float32"),
        ({"norm": good.norm * np.float32(np.nan)}, "norm must be finite"),
        ({"embedding": good.embedding + np.float32(1e-4)}, "embedding must hold bfloat16 values"),
    ):
        with pytest.raises(ValueError, match=message):
            ModelWeights(**(parts | change))


def test_rows_of_the_short_list() -> None:
    """Trits of the rows, each with its scale; that of the matrix is 1. A head that is not shared has rows of its own."""
    model = random_weights(dataclasses.replace(SHAPE, tied=False), 1)
    matrix, scales = model.short_head()
    trits, expected = ternary_head(model.head_rows)
    assert matrix.scale == 1 and np.array_equal(matrix.trits, trits) and np.array_equal(scales, expected)
    assert model.head is not None and not np.array_equal(trits, ternary_head(model.embedding)[0])
    for rows in (slice(None), slice(3, 9)):
        assert np.array_equal(model.quantized_head(rows)[0], quantize_head(model.head[rows], 121)[0])


def test_a_head_with_scales_of_groups_is_for_models_of_such_matrices() -> None:
    shape = ModelShape(hidden=128, layers=1, heads=8, kv_heads=2, head_dim=16, ffn=128, vocab=50)
    good, ternary = random_weights(shape, 1, LLAMA, "grouped"), random_weights(shape, 1, LLAMA)
    head = good.grouped_head
    assert head is not None
    short = GroupedMatrix(head.trits[:49], head.codes[:49], head.scale)
    for model, wrong in ((ternary, head), (good, short), (ternary, short)):
        with pytest.raises(ValueError, match=r"grouped_head must be \(50, 128\) in a model of such matrices, not"):
            dataclasses.replace(model, grouped_head=wrong)
    assert dataclasses.replace(good, grouped_head=None).engine == "grouped"
