"""4-bit matrices: digits with scale and minimum as codes around a midpoint, and floats to the nearest codes."""

from __future__ import annotations

import numpy as np
import pytest

from hwgen.int4 import affine_blocks, round_to_nearest, spread


def test_blocks_with_negative_scales_keep_their_values() -> None:
    rng = np.random.default_rng(1)
    q = rng.integers(0, 16, (3, 64)).astype(np.uint8)
    d, m = (rng.choice([-0.5, 0.25, 1.0], (3, 2)).astype(np.float32) for _ in range(2))
    expected = q * np.repeat(d, 32, axis=1) + np.repeat(m, 32, axis=1)
    block = affine_blocks(q, d, m)
    np.testing.assert_array_equal(block.dense(), expected)
    assert block.scale.min() > 0
    assert affine_blocks(q, np.abs(d), -8 * np.abs(d)).midpoint is None


@pytest.mark.parametrize("group", [16, 32, 64, 128])
@pytest.mark.parametrize("midpoints", [False, True])
def test_nearest(group: int, midpoints: bool) -> None:
    w = np.asarray(np.random.default_rng(8).normal(0, 1, (7, 160)), np.float32)
    w[3], w[4, :16], w[5, 7] = 0, 0, 900.0  # a zero row, a zero group, a group that makes the others small
    matrix = round_to_nearest(w, group, midpoints=midpoints)
    assert matrix.symmetric != midpoints and matrix.group == group
    step = spread(np.maximum(matrix.scales, 1) * matrix.row_scale[:, None], group, 160)
    inside = np.abs(matrix.codes) < 7
    error = np.abs(matrix.dense() - w)
    assert (error <= step * 0.5001)[inside].all()
    assert (error <= step * 1.01 + 8 * matrix.row_scale[:, None])[:5].all()
    assert (matrix.dense()[3] == 0).all()
    again = round_to_nearest(matrix.dense(), group, midpoints=midpoints)
    assert np.abs(again.dense() - matrix.dense()).max() <= np.abs(matrix.dense()).max() / 7
