"""Keys moved to other positions, against the golden model's rotation and quantisation of the same keys there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from hwgen.descriptors import Format
from hwgen.formats import pack_bf16, rotary_rows, widen_bf16
from hwgen.golden.float32 import fadd
from hwgen.golden.rotary import mix, quantize_kv, rotate
from hwgen.layout import KV_FORMATS, key_mixing_strides, mixing_strides
from hwgen.sw.compiler.compile import compile_model
from hwgen.sw.compiler.image import Image
from hwgen.sw.runtime.key_rotation import moved
from hwgen.sw.runtime.kv_arrays import KvArrays
from hwgen.weights import random_weights

from ..conftest import CONFIG, SHAPE

#: Heads of two vectors and more, so that keys of 4 bits are mixed.
SHAPE_OF_HEADS = replace(SHAPE, heads=2, kv_heads=2, head_dim=32, unrotated=(1,), layers=3)
TOKENS = 12


def image_of(kv: str, centered: bool = True) -> Image:
    config = replace(CONFIG, int4_kv=True, max_head_dim=32)
    weights = random_weights(SHAPE_OF_HEADS, seed=2, kv=kv)
    image = compile_model(config, weights if centered else replace(weights, key_centers=None))
    assert (image.key_rows is not None) is (centered and kv == "k4v4")
    return image


def arrays_at(image: Image, heads: torch.Tensor, first: int) -> KvArrays:
    """What the machine would keep of ``heads [2, layers, kv_heads, positions, head_dim]`` from position ``first`` on."""
    shape, parts = image.shape, list[list[np.ndarray]]()
    rows = torch.from_numpy(rotary_rows(shape, np.arange(first, first + TOKENS)))
    for kind, bits in enumerate((Format.INT4_KEYS, Format.INT4_VALUES)):
        four_bits = bits in KV_FORMATS[image.kv]
        strides = (key_mixing_strides, mixing_strides)[kind](image.config, shape.head_dim) if four_bits else ()
        layers = []
        for layer in range(shape.layers):
            y = heads[kind, layer]
            y = rotate(y, rows) if kind == 0 and layer not in shape.unrotated else y
            if kind == 0 and image.key_rows is not None:
                y = fadd(y, torch.from_numpy(widen_bf16(image.key_rows[layer])).reshape(shape.kv_heads, 1, -1))
            layers.append(quantize_kv(mix(y, strides), four_bits=four_bits))
        parts.append([torch.stack(x).numpy() for x in zip(*layers, strict=True)])
    elements, scales = (np.stack([part[i] for part in parts]) for i in range(2))
    return KvArrays(elements.astype(np.int8), pack_bf16(scales))


@pytest.mark.parametrize("kv", ["k8v8", "k8v4", "k4v4"])
@pytest.mark.parametrize("distance", [1, 37, -5])
def test_moved_keys_are_those_of_the_other_position(kv: str, distance: int) -> None:
    """Up to what two roundings may lose; where nothing is turned not a bit changes."""
    image = image_of(kv)
    heads = torch.from_numpy(np.random.default_rng(1).normal(0, 1, (2, 3, 2, TOKENS, 32)).astype(np.float32))
    before, expected = arrays_at(image, heads, 8), arrays_at(image, heads, 8 + distance)
    found = moved(image, before, distance)
    for same in ((1,), (0, 1)):  # values, and keys without rotation
        assert np.array_equal(found.elements[same], before.elements[same])
        assert np.array_equal(found.scales[same], before.scales[same])
    turned = [layer for layer in range(3) if layer != 1]
    mine, theirs = (a.elements[0, turned] * widen_bf16(a.scales[0, turned])[..., None] for a in (found, expected))
    step = widen_bf16(expected.scales[0, turned])[..., None] * (16 if kv == "k4v4" else 1)
    assert np.abs(mine - theirs).max() > 0, "quantised twice"
    # three roundings, two of them of these keys and one of what they are compared with, a twelfth of a squared step each
    error = ((mine - theirs) / step) ** 2
    assert error.mean() < 1.2 * 3 / 12 and np.sqrt(error.max()) < 2.5
    unmoved = arrays_at(image, heads, 8)
    wrong = unmoved.elements[0, turned] * widen_bf16(unmoved.scales[0, turned])[..., None]
    assert (((wrong - theirs) / step) ** 2).mean() > 4 * error.mean()


def test_nothing_moves_by_nothing() -> None:
    image = image_of("k4v4", centered=False)
    heads = torch.from_numpy(np.random.default_rng(1).normal(0, 1, (2, 3, 2, TOKENS, 32)).astype(np.float32))
    arrays = arrays_at(image, heads, 3)
    assert moved(image, arrays, 0) is arrays
    zero = arrays_at(image, heads * 0, 3)
    assert np.array_equal(moved(image, zero, 9).scales, zero.scales)
