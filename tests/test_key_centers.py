"""Centers of keys: the first key is one that 4 bits have, the center near the mean, and nothing else is touched."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from hwgen.boards import load_board
from hwgen.config import BuildConfig
from hwgen.decoder import BITNET, LLAMA, DecoderLayer
from hwgen.formats import pack_bf16, widen_bf16
from hwgen.golden.decoder import GoldenModel
from hwgen.golden.float32 import fadd
from hwgen.golden.key_centers import measure_key_centers
from hwgen.golden.rotary import mix, quantize_kv, unmix
from hwgen.key_centers import KeyCenters, key_rows
from hwgen.layout import key_mixing_strides
from hwgen.shape import ModelShape
from hwgen.sw.verification.lock_step import truncate_layers
from hwgen.weights import random_weights

SHAPE = ModelShape(hidden=64, layers=3, heads=4, kv_heads=2, head_dim=32, ffn=96, vocab=50, activation="silu", max_context=64)
CONFIG = replace(load_board("demo").config, int4_kv=True, max_context=64)


@pytest.mark.parametrize("config", [CONFIG, replace(load_board("kv260").config, int4_kv=True)])
def test_the_first_key_is_exact(config: BuildConfig) -> None:
    """By golden's own mixing and quantising, and up to the rounding of the row to bfloat16."""
    rng = np.random.default_rng(1)
    mean, first = (rng.normal(0, size, (SHAPE.layers, SHAPE.kv_rows)).astype(np.float32) for size in (1, 8))
    weights = replace(random_weights(SHAPE, 1, LLAMA, "int4", kv="k4v4"), key_centers=KeyCenters(mean, first))
    bits = key_rows(config, weights)
    assert bits is not None and bits.shape == mean.shape and bits.dtype == np.uint16
    rows, strides = widen_bf16(bits), key_mixing_strides(config, SHAPE.head_dim)

    def error(added: np.ndarray) -> np.ndarray:
        """Of first keys by layer and head, as parts of their largest element."""
        x = fadd(torch.from_numpy(first), torch.from_numpy(added)).reshape(-1, SHAPE.head_dim)
        codes, scale = quantize_kv(mix(x, strides), four_bits=True)
        lost = unmix(codes.float() * scale[:, None], strides) - x
        return (lost.abs().amax(-1) / x.abs().amax(-1)).numpy()

    assert error(rows).max() < 0.02 < error(-mean).max()
    # no further from the mean than a step of the levels, of the largest that a mixed element may be
    apart = np.abs(rows + mean).reshape(-1, SHAPE.head_dim).max(-1)
    assert (apart < 0.3 * np.abs(first - mean).reshape(-1, SHAPE.head_dim).max(-1)).all() and apart.min() > 0


def test_keys_of_eight_bits_have_none() -> None:
    four = random_weights(SHAPE, 1, LLAMA, "int4", kv="k4v4")
    tokens = torch.arange(20)[None]
    for kv in ("k8v8", "k8v4"):
        eight = replace(four, kv=kv)
        assert key_rows(CONFIG, eight) is None
        plain = GoldenModel(replace(eight, key_centers=None), CONFIG).logits(tokens)
        assert torch.equal(GoldenModel(eight, CONFIG).logits(tokens), plain)
    assert key_rows(CONFIG, replace(four, key_centers=None)) is None
    centered, without = (GoldenModel(w, CONFIG).logits(tokens) for w in (four, replace(four, key_centers=None)))
    assert not torch.equal(centered, without)


@pytest.mark.parametrize(("layer", "engine"), [(LLAMA, "int4"), (BITNET, "ternary")])
def test_measured(layer: DecoderLayer, engine: str) -> None:
    """Means over all positions of all windows, and the keys of their first ones, of the keys that the cache holds."""
    shape = SHAPE if engine == "int4" else replace(SHAPE, activation="relu2")
    weights = random_weights(shape, 5, layer, engine, kv="k4v4")
    windows = [[3, 1, 4, 1, 5], [9, 2, 6], [5]]
    centers, share = measure_key_centers(weights, CONFIG, windows)
    model = GoldenModel(replace(weights, kv="k8v8"), CONFIG)
    keys = [torch.stack(model.rotated_keys(torch.tensor([w])))[:, 0].flatten(2).double() for w in windows]
    assert torch.equal(torch.from_numpy(centers.mean), torch.cat(keys, 1).mean(1).float())
    assert torch.equal(torch.from_numpy(centers.first), (sum(k[:, 0] for k in keys) / len(keys)).float())
    whole = torch.cat(keys, 1)
    # floats added up in another order, of a figure that people read
    assert share == pytest.approx(float(whole.mean(1).pow(2).sum() / whole.pow(2).mean(1).sum()), rel=1e-9) and 0 < share < 1
    for wrong in ([], [[1], []]):
        with pytest.raises(ValueError, match="windows must be one at least"):
            measure_key_centers(weights, CONFIG, wrong)


def test_a_common_part_costs_keys_of_four_bits_less() -> None:
    """The aim of it all: keys with a common part that is larger than what differs lose less in 4 bits, and scores change alike."""
    rng = np.random.default_rng(2)
    common = rng.normal(0, 4, SHAPE.head_dim).astype(np.float32)
    keys = torch.from_numpy(common + rng.normal(0, 1, (200, SHAPE.head_dim)).astype(np.float32))
    strides = key_mixing_strides(CONFIG, SHAPE.head_dim)

    def lost(x: torch.Tensor) -> float:
        codes, scale = quantize_kv(mix(x, strides), four_bits=True)
        return float((unmix(codes.float() * scale[:, None], strides) - x).pow(2).mean())

    row = torch.from_numpy(widen_bf16(pack_bf16(-common)))
    assert lost(fadd(keys, row)) < 0.2 * lost(keys)
    query = torch.from_numpy(rng.normal(0, 1, SHAPE.head_dim).astype(np.float32)).double()
    change = (fadd(keys, row).double() - keys.double()) @ query
    assert float(change.std()) < 1e-5 * float(change.abs().mean())


def test_centers_are_themselves() -> None:
    """Arrays are not compared one by one: other centers are others, and any may be a key."""
    rows = np.zeros((1, 2), np.float32)
    one, other = KeyCenters(rows, rows), KeyCenters(rows, rows)
    assert one != other and len({one, other, one}) == 2


def test_wrong_centers_are_refused() -> None:
    weights = random_weights(SHAPE, 1, LLAMA, "int4", kv="k4v4")
    assert weights.key_centers is not None
    good = weights.key_centers.mean
    bad = good.copy()
    bad[1, 2] = np.nan
    for mean, words in ((good[1:], "mean must be float32"), (good.astype(np.float64), "mean must be float32"), (bad, "finite")):
        with pytest.raises(ValueError, match=words):
            replace(weights, key_centers=KeyCenters(mean, good))


def test_of_the_first_layers() -> None:
    """A model that is cut down keeps the rows of its layers."""
    weights = random_weights(SHAPE, 1, LLAMA, "int4", kv="k4v4")
    rows, fewer = key_rows(CONFIG, weights), key_rows(CONFIG, truncate_layers(weights, 2))
    assert rows is not None and fewer is not None and np.array_equal(fewer, rows[:2])
    assert truncate_layers(replace(weights, key_centers=None), 2).key_centers is None
