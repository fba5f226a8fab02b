"""Ternary matrices."""

from __future__ import annotations

import numpy as np
import pytest

from hwgen.ternary import TernaryMatrix, quantize_ternary


def test_ternary_matrix_refuses() -> None:
    with pytest.raises(ValueError, match="trits must be -1, 0 or 1, not -2"):
        TernaryMatrix(np.array([[0, -2]], np.int8), 1.0)
    with pytest.raises(ValueError, match="trits must be an int8 matrix"):
        TernaryMatrix(np.zeros((2, 2), np.int32), 1.0)  # type: ignore[arg-type]
    for shape in ((), (4,), (1, 2, 2)):
        with pytest.raises(ValueError, match="trits must be an int8 matrix"):
            TernaryMatrix(np.zeros(shape, np.int8), 1.0)
    for scale in (0.1, 0.3, 0.7, 0.9):  # float32 is above the first two and below the others
        with pytest.raises(ValueError, match=f"scale must be a finite float32 value, not {scale}"):
            TernaryMatrix(np.zeros((2, 2), np.int8), scale)


def test_quantize_ternary() -> None:
    matrix = quantize_ternary([[0.5, -1.5, 0.1], [4.0, -0.9, 0.4]])
    assert matrix.trits.tolist() == [[0, -1, 0], [1, -1, 0]]
    assert matrix.scale == np.float32(7.4 / 6)
    zero = quantize_ternary(np.zeros((2, 3)))
    assert not zero.trits.any() and zero.scale == np.float32(1e-5)
