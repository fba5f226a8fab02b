"""Number formats in numpy, and what is computed in them."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from hwgen import formats
from hwgen.formats import (
    SMALLEST,
    flush,
    four_bit_codes,
    four_bit_elements,
    has_bf16_values,
    is_finite,
    pack_bf16,
    quantize_head,
    round_bf16,
    ternary_head,
    to_four_bits,
    widen_bf16,
)


def test_flush_and_bf16() -> None:
    assert np.array_equal(flush([2.0**-126, -0.0, 2.0**-125, 1.5]), np.array([0, 0, 2.0**-125, 1.5], np.float32))
    assert not np.signbit(flush([-0.0, -(2.0**-130)])).any()
    assert round_bf16([1 + 2**-8, 1 + 3 * 2**-8, -(1 + 2**-8 + 2**-16)]).tolist() == [1.0, 1 + 2**-6, -(1 + 2**-7)]


def test_quantize_head() -> None:
    rows = np.array([[127.0, -63.5, 0.5, 0.0], [0, 0, 0, 0], [-2.0, 1.0, 2.0, 0.001]], np.float32)
    w8, scales = quantize_head(rows, 127)
    assert w8.tolist() == [[127, -64, 0, 0], [0, 0, 0, 0], [-127, 64, 127, 0]]
    assert scales[:2].tolist() == [0x3F80, 0]
    w8, scales = quantize_head(np.array([[121, -60.5, 61.5, -121]], np.float32), 121)
    assert w8.tolist() == [[121, -60, 62, -121]] and scales.tolist() == [0x3F80]


def test_rows_of_zeros_are_divided_by_nothing() -> None:
    zeros = np.zeros((2, 8), np.float32)
    with np.errstate(all="raise"):
        assert not quantize_head(zeros, 127)[0].any() and not ternary_head(zeros)[0].any()


def test_bf16_bits() -> None:
    assert float(SMALLEST) == 2.0**-125
    bits = np.array([0, 0x3F80, 0xBF80, 0x7F7F], np.uint16)
    np.testing.assert_array_equal(pack_bf16(widen_bf16(bits)), bits)
    assert widen_bf16(bits)[:3].tolist() == [0.0, 1.0, -1.0]


def test_large_arrays_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table that is worked on piece by piece has the same bits as one that is not."""
    rng = np.random.default_rng(2)
    rows = (rng.normal(0, 1, (37, 24)) * 10.0 ** rng.integers(-40, 3, (37, 24))).astype(np.float32)
    rows[5] = 0
    work = flush, pack_bf16, round_bf16, partial(quantize_head, largest=121), ternary_head
    whole = [function(rows) for function in work]
    monkeypatch.setattr("hwgen.formats._PIECE", 100)  # four rows
    for function, expected in zip(work, whole, strict=True):
        np.testing.assert_equal(function(rows), expected)
    assert is_finite(rows) and has_bf16_values(whole[2]) and not has_bf16_values(rows)
    rows[36, 23] = np.inf
    assert not is_finite(rows)


def test_no_piece_is_larger_than_it_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """A large array is worked on in rows that have so many elements together, at most, or one by one."""
    assert formats._PIECE == 4 << 20, "a choice"
    monkeypatch.setattr(formats, "_PIECE", 100)
    for shape, pieces in (
        ((37, 24), [4] * 9 + [1]), ((5, 24), [4, 1]), ((4, 24), [4]), ((3, 300), [1, 1, 1]), ((250,), [100, 100, 50]),
        ((3, 5, 10), [2, 1]),
    ):
        values, seen = np.arange(np.prod(shape), dtype=np.float32).reshape(shape), list[np.ndarray]()
        done = formats._by_pieces(lambda part, seen=seen: (seen.append(part), -part)[1], values, np.float32)  # type: ignore[misc]  # a list beside the result
        assert [len(part) for part in seen] == pieces and np.array_equal(done, -values)


def test_four_bits() -> None:
    """Levels keep the order of elements, are as near as their thresholds say, and come back from their codes."""
    elements = np.arange(-128, 128).astype(np.int8)
    levels = to_four_bits(elements)
    assert np.all(np.diff(levels.astype(int)) >= 0) and np.array_equal(levels[:128], -levels[:127:-1])
    assert len(np.unique(levels)) == 16 and np.array_equal(to_four_bits(levels), levels)
    nearest = np.abs(levels[:, None].astype(int) - elements).min(axis=0)
    assert np.all(np.abs(levels.astype(int) - elements) <= nearest + 4)  # thresholds are multiples of 4
    codes = four_bit_codes(levels)
    assert sorted(set(codes.tolist())) == list(range(16)) and np.array_equal(four_bit_elements(codes), levels)
