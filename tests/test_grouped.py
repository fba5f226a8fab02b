"""Ternary matrices with scales of groups: codes, matrices, and where their bytes lie."""

from __future__ import annotations

import numpy as np
import pytest

from hwgen.config import BuildConfig, ConfigError
from hwgen.grouped import SCALES, GroupedMatrix, group_codes
from hwgen.grouped_layout import GroupedLayout
from hwgen.layout import ZERO_BYTE
from hwgen.numerics import GROUP, GROUP_SCALE_MAX


def test_scales() -> None:
    """Every code once, in ascending order; 64 steps an octave over the upper three."""
    assert len(np.unique(SCALES)) == 256 and SCALES[0] == 0 and SCALES[-1] == GROUP_SCALE_MAX and SCALES[64] == 64
    steps = np.diff(SCALES.astype(int))
    assert steps[:128].max() == 1 and set(steps[128:191]) == {2} and set(steps[192:]) == {4}


def test_codes() -> None:
    """The nearest, the smaller of two as near; the largest scale of a matrix is stored to a rounding of float32."""
    unit = np.float32(0.25)
    codes, found = group_codes(unit * np.array([[508, 64.5, 129], [0.5, 65.6, 131.1]], np.float32))
    assert found == unit and SCALES[codes].tolist() == [[508, 64, 128], [0, 66, 132]]
    scale = np.random.default_rng(1).uniform(0.125, 1, (50, 9)).astype(np.float32)
    codes, found = group_codes(scale)
    error = SCALES[codes] * np.float32(found) / scale - 1
    assert np.abs(error).max() < 1 / 124 and np.sqrt((error**2).mean()) < 0.0035
    assert group_codes(np.zeros((2, 3), np.float32)) == (pytest.approx(np.zeros((2, 3))), 0.0)


def test_weights() -> None:
    """The scale of the matrix times that of the group times the trit."""
    trits = np.tile(np.array([1, -1, 0, 1], np.int8), (2, 64))
    matrix = GroupedMatrix(trits, np.array([[1, 255], [64, 0]], np.uint8), 0.25)
    for row, scales in enumerate(((1, 508), (64, 0))):
        for group, scale in enumerate(scales):
            part = slice(GROUP * group, GROUP * group + GROUP)
            assert matrix.dense()[row, part].tolist() == [scale / 4, -scale / 4, 0, scale / 4] * 32
            assert matrix.integers()[row, part].tolist() == [scale, -scale, 0, scale] * 32
    assert matrix.dense().dtype == np.float32 and (matrix.shape, matrix.rows, matrix.inputs) == ((2, 256), 2, 256)


def test_refuses() -> None:
    trits = np.zeros((2, GROUP), np.int8)
    with pytest.raises(ValueError, match="inputs must be a multiple of 128, not 64"):
        GroupedMatrix(trits[:, :64], np.zeros((2, 1), np.uint8), 1.0)
    for shape in ((2, 2), (1, 1), (2, 0), (3, 1)):
        with pytest.raises(ValueError, match=rf"codes must be uint8 \(2, 1\), not uint8 \({shape[0]}, {shape[1]}\)"):
            GroupedMatrix(trits, np.zeros(shape, np.uint8), 1.0)
    with pytest.raises(ValueError, match=r"codes must be uint8 \(2, 1\), not int8 \(2, 1\)"):
        GroupedMatrix(trits, np.zeros((2, 1), np.int8), 1.0)  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(ValueError, match="trits must be -1, 0 or 1, not 2"):
        GroupedMatrix(trits + np.int8(2), np.zeros((2, 1), np.uint8), 1.0)
    with pytest.raises(ConfigError, match="rows must be 2 or more with scales of groups of 128 inputs, not 1"):
        BuildConfig(engine="grouped", rows=1, builders=1)


def byte(digits: np.ndarray) -> int:
    return int(sum((int(d) + 1) * 3**j for j, d in enumerate(digits)))


def test_layout() -> None:
    """Where every trit and every scale is, counted by hand for slices of 40 inputs, four row blocks of two rows a short beat."""
    config = BuildConfig(
        engine="grouped", beat_bytes=16, rows=2, groups=2, builders=7, kv_block=16, max_inputs=256, panel_rows=96, lanes=1,
    )
    rng = np.random.default_rng(3)
    rows, inputs = 27, 256
    trits = rng.integers(-1, 2, (rows, inputs)).astype(np.int8)
    codes = rng.integers(0, 256, (rows, 2)).astype(np.uint8)
    layout = GroupedLayout(config, rows, inputs)
    # 28 rows, 14 row blocks: 2 scale beats, 3 slices of 14 beats, 2 ring rows of 8 row blocks
    assert (layout.row_blocks, layout.scale_beats, layout.rest_beats, layout.group_beats) == (14, 2, 4, 48)
    beats = layout.pack(GroupedMatrix(trits, codes, 1.0).packed(), codes)
    expected = np.zeros((2, 48, 16), np.uint8)
    for group in range(2):
        full = np.zeros((32, GROUP), np.int8)
        full[:rows] = trits[:, group * GROUP : (group + 1) * GROUP]
        expected[group, :2].reshape(-1)[:rows] = codes[:, group]
        for row in range(32):
            block, r = divmod(row, 2)
            for s in range(3 if block < 14 else 0):
                for b in range(8):
                    first = 40 * s + 5 * b
                    expected[group, 2 + 14 * s + block, 8 * r + b] = byte(full[row, first : first + 5])
            ring_row, within = divmod(block, 8)
            part, beat = divmod(within, 2)
            place = slice(4 * part + 2 * r, 4 * part + 2 * r + 2)
            expected[group, 44 + 2 * ring_row + beat, place] = [byte(full[row, 120:125]), byte([*full[row, 125:], 0, 0])]
    assert byte(np.zeros(5)) == ZERO_BYTE
    np.testing.assert_array_equal(beats.reshape(2, 48, 16), expected)
    found = layout.unpack(beats)
    np.testing.assert_array_equal(found[0], trits)
    np.testing.assert_array_equal(found[1], codes)
