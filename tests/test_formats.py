"""Number formats in numpy, and what is computed in them."""

from __future__ import annotations

import numpy as np

from hwgen.formats import SMALLEST, flush, pack_bf16, quantize_head, round_bf16, widen_bf16


def test_flush_and_bf16() -> None:
    assert np.array_equal(flush([2.0**-126, -0.0, 2.0**-125, 1.5]), np.array([0, 0, 2.0**-125, 1.5], np.float32))
    assert not np.signbit(flush([-0.0, -(2.0**-130)])).any()
    assert round_bf16([1 + 2**-8, 1 + 3 * 2**-8, -(1 + 2**-8 + 2**-16)]).tolist() == [1.0, 1 + 2**-6, -(1 + 2**-7)]


def test_quantize_head() -> None:
    rows = np.array([[127.0, -63.5, 0.5, 0.0], [0, 0, 0, 0], [-2.0, 1.0, 2.0, 0.001]], np.float32)
    w8, scales = quantize_head(rows)
    assert w8.tolist() == [[127, -64, 0, 0], [0, 0, 0, 0], [-127, 64, 127, 0]]
    assert scales[:2].tolist() == [0x3F80, 0]


def test_bf16_bits() -> None:
    assert float(SMALLEST) == 2.0**-125
    bits = np.array([0, 0x3F80, 0xBF80, 0x7F7F], np.uint16)
    np.testing.assert_array_equal(pack_bf16(widen_bf16(bits)), bits)
    assert widen_bf16(bits)[:3].tolist() == [0.0, 1.0, -1.0]
