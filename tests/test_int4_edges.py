"""Matrices in every format at the edges of their ranges, against the formulas of the contract in plain numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hwgen import formats
from hwgen.config import BuildConfig
from hwgen.decoder import LLAMA, QWEN2
from hwgen.formats import (
    flush,
    four_bit_codes,
    four_bit_elements,
    has_bf16_values,
    identity_row,
    is_finite,
    pack_bf16,
    quantize_head,
    round_bf16,
    ternary_head,
    to_four_bits,
    widen_bf16,
)
from hwgen.grouped import SCALES, GroupedMatrix
from hwgen.int4 import (
    BlockMatrix,
    Int4Matrix,
    affine_blocks,
    pack_nibbles,
    round_to_nearest,
    row_scales,
    spread,
    symmetric_scales,
    to_machine,
    unpack_nibbles,
)
from hwgen.shape import ModelShape
from hwgen.ternary import TernaryMatrix, check_trits, quantize_ternary
from hwgen.vocabulary import digit_rows, logits_bytes, nibble_columns, panel_vectors_of, section_inputs
from hwgen.weights import ModelWeights, dense, engine_of, random_weights, scale_rows

RNG = np.random.default_rng(7)
SHAPE = ModelShape(hidden=128, layers=1, heads=8, kv_heads=4, head_dim=16, ffn=256, vocab=400)


def test_nibbles() -> None:
    codes = RNG.integers(-8, 8, (3, 16)).astype(np.int8)
    packed = pack_nibbles(codes)
    for row, pair in np.ndindex(packed.shape):
        assert packed[row, pair] == (codes[row, 2 * pair] & 15) + 16 * (codes[row, 2 * pair + 1] & 15)
    assert np.array_equal(unpack_nibbles(packed), codes) and unpack_nibbles(packed).dtype == np.int8
    assert spread(np.array([[1, 2]]), 3, 5).tolist() == [[1, 1, 1, 2, 2]]


@pytest.mark.parametrize("midpoint", [True, False])
def test_scales_that_are_stored(midpoint: bool) -> None:
    """u = max(max d / 255, max |m| / 1016); D = round(d / u), M = round(m / 8u)."""
    scale = np.abs(RNG.normal(0, 1, (6, 4))).astype(np.float32)
    middle = (RNG.normal(0, 3, (6, 4)) * np.array([[1], [0.01], [9], [1], [0], [0]])).astype(np.float32) if midpoint else None
    scale[4], scale[5, :2] = 0, 0
    matrix = to_machine(BlockMatrix(RNG.integers(-8, 8, (6, 64)).astype(np.int8), 16, scale, middle))
    for r in range(6):
        m = np.zeros(4) if middle is None else middle[r]
        unit = max(float(scale[r].max()) / 255, float(np.abs(m).max()) / 1016)
        assert matrix.row_scale[r] == pytest.approx(unit, rel=1e-6)
        assert np.abs(matrix.scales[r] - scale[r] / (unit or 1)).max() <= 0.501
        if matrix.midpoints is not None:
            assert np.abs(matrix.midpoints[r] - m / (8 * (unit or 1))).max() <= 0.501
    assert matrix.symmetric is not midpoint and not matrix.scales[4].any()
    assert matrix.stored_bytes == 6 * 64 // 2 + 24 * (2 if midpoint else 1) + 24
    integers = matrix.integers()
    for r, i in ((0, 0), (1, 20), (5, 63)):
        m = 0 if matrix.midpoints is None else int(matrix.midpoints[r, i // 16])
        assert integers[r, i] == int(matrix.scales[r, i // 16]) * int(matrix.codes[r, i]) + 8 * m
        assert matrix.dense()[r, i] == np.float32(integers[r, i]) * matrix.row_scale[r]
    assert np.array_equal(row_scales(scale, None), flush(scale.max(axis=1) / np.float32(255)))


def test_blocks_of_files() -> None:
    """w = d q + m, also where d is negative."""
    q, d = RNG.integers(0, 16, (2, 64)).astype(np.uint8), np.array([[0.5, -0.25], [0, 1]], np.float32)
    m = np.array([[1, 2], [3, -8]], np.float32)
    block = affine_blocks(q, d, m)
    expected = np.repeat(d, 32, axis=1) * q + np.repeat(m, 32, axis=1)
    assert np.allclose(block.dense(), expected) and block.scale.tolist() == [[0.5, 0.25], [0, 1]] and block.group == 32
    assert affine_blocks(q, np.abs(d), -8 * np.abs(d)).midpoint is None


def test_nearest_codes() -> None:
    """Symmetric: absmax / 7, codes -8 to 7, scales of at least one unit; around midpoints: range / 15."""
    w = RNG.normal(0, 1, (4, 48)).astype(np.float32)
    w[1, :16] = 1e-6
    w[2] = 0
    plain = round_to_nearest(w, 16)
    scales, unit = symmetric_scales(w, 16)
    for r in range(4):
        absmax = np.abs(w[r].reshape(3, 16)).max(axis=1) / 7
        assert unit[r] == pytest.approx(absmax.max() / 255, rel=1e-6) and scales[r].min() >= 1 and scales[r].max() <= 255
        assert np.abs(scales[r] - np.maximum(absmax / (unit[r] or 1), 1)).max() <= 0.51
    assert plain.midpoints is None and plain.codes.min() >= -8 and plain.codes.max() <= 7 and scales[1, 0] == 1
    assert np.array_equal(plain.scales, scales.astype(np.uint8))
    assert symmetric_scales(w, 16, 2.0)[1].tolist() == (2 * unit).tolist()
    middle = round_to_nearest(w, 16, midpoints=True)
    assert middle.midpoints is not None and middle.scales.min() == 1 and not middle.dense()[2].any()
    assert np.abs(middle.dense() - w)[0].max() < np.abs(plain.dense() - w)[0].max() * 1.2


@pytest.mark.parametrize("make", [
    lambda: Int4Matrix(np.full((1, 16), 8, np.int8), 16, np.ones((1, 1), np.uint8), None, np.ones(1, np.float32)),
    lambda: Int4Matrix(np.full((1, 16), -9, np.int8), 16, np.ones((1, 1), np.uint8), None, np.ones(1, np.float32)),
    lambda: Int4Matrix(np.zeros((1, 24), np.int8), 16, np.ones((1, 2), np.uint8), None, np.ones(1, np.float32)),
    lambda: Int4Matrix(np.zeros((1, 16), np.int8), 8, np.ones((1, 2), np.uint8), None, np.ones(1, np.float32)),
    lambda: Int4Matrix(np.zeros((1, 32), np.int8), 16, np.ones((1, 1), np.uint8), None, np.ones(1, np.float32)),
    lambda: Int4Matrix(np.zeros((1, 16), np.int8), 16, np.ones((1, 1), np.int16), None, np.ones(1, np.float32)),
    lambda: Int4Matrix(
        np.zeros((1, 16), np.int8), 16, np.ones((1, 1), np.uint8), np.full((1, 1), -128, np.int8), np.ones(1, np.float32),
    ),
    lambda: Int4Matrix(np.zeros((1, 16), np.int8), 16, np.ones((1, 1), np.uint8), None, np.ones(2, np.float32)),
    lambda: Int4Matrix(np.zeros((1, 16), np.int8), 16, np.ones((1, 1), np.uint8), None, np.full(1, np.inf, np.float32)),
    lambda: BlockMatrix(np.zeros((1, 16), np.int8), 16, np.full((1, 1), -1, np.float32)),
    lambda: BlockMatrix(np.zeros((1, 16), np.int8), 16, np.full((1, 1), np.nan, np.float32)),
    lambda: BlockMatrix(np.zeros(16, np.int8), 16, np.ones((1, 1), np.float32)),
    lambda: TernaryMatrix(np.full((1, 2), 2, np.int8), 1.0), lambda: TernaryMatrix(np.zeros((1, 2), np.int8), 0.1),
    lambda: TernaryMatrix(np.zeros((1, 2), np.int16), 1.0), lambda: check_trits(np.zeros(2, np.int8), 1.0),
])
def test_what_is_no_matrix(make: Any) -> None:
    with pytest.raises(ValueError, match="must be"):
        make()


def test_edges_that_are_matrices() -> None:
    ones = np.ones((1, 1), np.uint8)
    matrix = Int4Matrix(np.array([[-8, 7] * 16], np.int8), 32, ones, np.array([[-127]], np.int8), np.ones(1, np.float32))
    cut = matrix.regrouped(16)
    assert (cut.group, cut.scales.shape) == (16, (1, 2)) and np.array_equal(cut.dense(), matrix.dense())
    assert matrix.regrouped(32) is matrix
    with pytest.raises(ValueError, match="group must divide 32"):
        matrix.regrouped(64)
    assert TernaryMatrix(np.zeros((0, 4), np.int8), 0.5).shape == (0, 4)
    made = quantize_ternary([[1.0, -0.4, 0.6, -2.0]])
    assert made.scale == 1 and made.trits.tolist() == [[1, 0, 1, -1]] and quantize_ternary([[0.0]]).scale == np.float32(1e-5)


@pytest.mark.parametrize("at_a_time", [1 << 22, 6])
def test_floats(at_a_time: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flushed below 2^-125, rounded to eight bits of mantissa, ties to even; a large array piece by piece."""
    monkeypatch.setattr(formats, "_PIECE", at_a_time)
    tiny, least = np.float32(2.0**-126), np.float32(2.0**-125)
    values = np.array([[tiny, -tiny, least, -least], [1.00390625, 1.01171875, 1.0078125, 3e38]], np.float32)
    assert flush(values)[0].tolist() == [0, 0, least, -least] and not np.signbit(flush(values)[0, 1])
    assert round_bf16(values)[1, :3].tolist() == [1.0, 1.015625, 1.0078125] and pack_bf16(1.0) == 0x3F80
    assert np.array_equal(widen_bf16(pack_bf16(values)), round_bf16(values)) and has_bf16_values(round_bf16(values))
    assert not has_bf16_values(values) and is_finite(values) and not is_finite(np.array([[1.0], [np.inf]]))
    levels = to_four_bits(np.arange(-128, 128).astype(np.int8))
    assert np.array_equal(four_bit_elements(four_bit_codes(levels)), levels) and four_bit_codes(levels).max() == 15
    assert identity_row(6).tolist() == [1, 1, 1, 0, 0, 0]


@pytest.mark.parametrize("at_a_time", [1 << 22, 20])
def test_heads(at_a_time: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """rowscale = bf16(max |w| / largest), integers rounded to even; ternary: bf16(mean |w|)."""
    monkeypatch.setattr(formats, "_PIECE", at_a_time)
    rows = RNG.normal(0, 1, (7, 10)).astype(np.float32)
    rows[3], rows[5] = 0, 1e-38
    for largest in (121, 127):
        integers, bits = quantize_head(rows, largest)
        scale = round_bf16(np.abs(flush(rows)).max(axis=1) / np.float32(largest))
        assert np.array_equal(widen_bf16(bits), scale) and not integers[[3, 5]].any() and np.abs(integers).max() <= largest
        for r in (0, 1, 6):
            assert integers[r].tolist() == np.clip(np.rint(rows[r] / scale[r]), -largest, largest).tolist()
    trits, bits = ternary_head(rows)
    assert np.allclose(widen_bf16(bits), np.abs(rows).mean(axis=1), rtol=2**-8)
    assert set(np.unique(trits)) == {-1, 0, 1} and not trits[3].any()


def test_rows_of_a_head_in_digits() -> None:
    """Five digits of base 3, the highest first, vector by vector; two codes of four bits, sixteen times and once."""
    config = BuildConfig()
    rows = RNG.integers(-121, 122, (11, 6)).astype(np.int8)
    rows[0] = [-121, 121, 0, 1, -1, 40]
    digits = digit_rows(config, rows).reshape(2, 5, 8, 6)
    total = sum(digits[:, j].astype(int) * 3 ** (4 - j) for j in range(5)).reshape(16, 6)
    assert np.array_equal(total[:11], rows) and not total[11:].any() and np.abs(digits).max() == 1
    int4 = BuildConfig(engine="int4", builders=1)
    assert [section_inputs(int4, n) for n in (1, 16, 17)] == [16, 16, 32]
    codes = nibble_columns(int4, rows)
    assert codes.shape == (11, 32) and np.array_equal(16 * codes[:, :6].astype(int) + codes[:, 16:22] + 8, rows)
    assert not codes[:, 6:16].any() and not codes[:, 22:].any()
    assert [logits_bytes(config, n) for n in (1, 8, 9)] == [32, 32, 64]
    assert panel_vectors_of(config, "ternary", 8 * 30, 99) == (30, 10) and panel_vectors_of(config, "int4", 8 * 30, 20) == (30, 15)


def test_random_models() -> None:
    """Every code and digit, scales within their bounds, in all formats."""
    for engine in ("ternary", "grouped", "int4"):
        model = random_weights(replace(SHAPE, tied=False), 2, QWEN2, engine)
        down: Any = model.layers[0].matrices["down"]
        assert model.engine == engine and model.head is not None and model.grouped_head is None and model.is_quantized
        if engine == "int4":
            assert (down.codes.min(), down.codes.max(), down.group) == (-8, 7, 32)
            assert (down.scales.min(), down.scales.max()) == (60, 255) and not has_bf16_values(model.embedding)
            assert -80 <= down.midpoints.min() < -75 and 75 < down.midpoints.max() <= 80
            unit = down.row_scale * 160 * 4.6 * 256**0.5
            assert 0.7 <= unit.min() < 0.72 and 1.28 < unit.max() <= 1.3
        else:
            assert set(np.unique(down.trits)) == {-1, 0, 1} and abs(down.trits.mean()) < 0.02
            assert 0.7 <= down.scale / (1.5 / 256) ** 0.5 * (150 if engine == "grouped" else 1) <= 1.3
        if engine == "grouped":
            assert 64 <= down.codes.min() < 70 and down.codes.max() > 250
        assert 0.5 <= model.norm.min() < 0.55 and 1.45 < model.norm.max() <= 1.5
        assert 0.9 < model.embedding.std() < 1.1 or engine == "grouped"
        assert model.head.std() == pytest.approx(128**-0.5, rel=0.02) and 0.4 < model.layers[0].biases["q_bias"].std() < 0.6
        assert abs(model.layers[0].biases["q_bias"].mean()) < 0.1 and abs(model.head.mean()) < 0.01 and model.key_centers is None
    grouped = random_weights(SHAPE, 2, LLAMA, "grouped").grouped_head
    assert grouped is not None and set(np.unique(grouped.trits)) == {-1, 0, 1}
    scales = SCALES[grouped.codes] * np.float32(grouped.scale)
    assert 0.49 < scales.min() < 0.51 and 1.49 < scales.max() < 1.5001 and 0.95 < scales.mean() < 1.05
    centers = random_weights(replace(SHAPE, layers=20), 2, LLAMA, "int4", kv="k4v4").key_centers
    assert centers is not None and centers.mean.shape == centers.first.shape == (20, 64)
    for rows, size in ((centers.mean, 0.5), (centers.first, 1)):
        assert abs(rows.mean()) < 0.1 * size and rows.std() == pytest.approx(size, rel=0.1)  # of 1,280 draws
    assert random_weights(SHAPE, 2, LLAMA, "int4", symmetric=True).layers[0].matrices["q"].symmetric


def test_kinds_of_matrices() -> None:
    model = random_weights(SHAPE, 2, LLAMA, "int4", group=32)
    floats = RNG.normal(0, 1, (128, 128)).astype(np.float32)
    ternary, grouped = quantize_ternary(floats), GroupedMatrix.of(np.sign(floats).astype(np.int8), np.ones((128, 1), np.float32))
    kinds: Any = ([ternary], [grouped], [floats], [model.layers[0].matrices["q"], floats])
    assert [engine_of(k) for k in kinds] == ["ternary", "grouped", "int4", "int4"]
    with pytest.raises(ValueError, match="all ternary or all not"):
        engine_of([ternary, floats])
    by = np.arange(1, 129).astype(np.float32)
    ones = np.ones((128, 4), np.float32)
    block = BlockMatrix(RNG.integers(-8, 8, (128, 128)).astype(np.int8), 32, ones, ones)
    for matrix in (model.layers[0].matrices["q"], floats, block):
        assert np.allclose(dense(scale_rows(matrix, by)), dense(matrix) * by[:, None], rtol=1e-6)
    for matrix in (ternary, grouped):
        with pytest.raises(TypeError, match="one scale"):
            scale_rows(matrix, by)
    mixed = replace(model, layers=(model.layers[0].with_matrices({"q": block}),))
    stored: ModelWeights = mixed.on_machine()
    assert {m.group for m in stored.layers[0].matrices.values()} == {32} and isinstance(stored.layers[0].matrices["q"], Int4Matrix)
    with pytest.raises(ValueError, match="layer 0 q must have 4-bit codes"):
        replace(model, layers=(model.layers[0].with_matrices({"q": floats}),)).on_machine()
