"""Rows of the head in digits: their products are those of the integers."""

from __future__ import annotations

import numpy as np
import pytest

from hwgen.config import BuildConfig
from hwgen.vocabulary import (
    HEAD_LARGEST,
    SECTION_MIDPOINTS,
    SECTION_SCALES,
    digit_rows,
    logits_bytes,
    nibble_columns,
    panel_vectors_of,
    section_inputs,
)

CONFIG = BuildConfig(name="vocabulary")


@pytest.mark.parametrize("inputs", [1, 45, 256])
def test_nibbles(inputs: int) -> None:
    rng = np.random.default_rng(inputs)
    rows = rng.integers(-127, 128, (7, inputs)).astype(np.int8)
    rows[0, 0], rows[1, 0] = HEAD_LARGEST["int4"], -HEAD_LARGEST["int4"]
    section = section_inputs(CONFIG, inputs)
    codes = nibble_columns(CONFIG, rows)
    assert codes.min() >= -8 and codes.max() <= 7 and codes.shape == (7, 2 * section)
    assert section % CONFIG.width == 0 and section % CONFIG.int4_slice_inputs == 0
    x = rng.integers(-128, 128, inputs)
    twice = np.zeros(2 * section, np.int64)
    twice[:inputs] = twice[section : section + inputs] = x
    products = (codes * twice).reshape(7, 2, section).sum(axis=2)
    # a midpoint code is in steps of 8 codes: what the lower ones lack
    assert np.array_equal(products @ SECTION_SCALES + 8 * np.array(SECTION_MIDPOINTS).sum() * x.sum(), rows.astype(np.int64) @ x)


def test_digits() -> None:
    rows = np.random.default_rng(1).integers(-121, 122, (CONFIG.width + 3, 9)).astype(np.int8)
    rows[0, :2] = 121, -121
    digits = digit_rows(CONFIG, rows).reshape(2, 5, CONFIG.width, 9)
    assert set(np.unique(digits)) <= {-1, 0, 1}
    whole = np.einsum("j,vjwi->vwi", [81, 27, 9, 3, 1], digits).reshape(-1, 9)
    assert np.array_equal(whole[: len(rows)], rows) and not whole[len(rows) :].any()


def test_sizes() -> None:
    beat = CONFIG.beat_bytes
    assert [logits_bytes(CONFIG, vocab) for vocab in (1, beat // 4, beat // 4 + 1)] == [beat, beat, 2 * beat]
    step, width = CONFIG.beat_vectors, CONFIG.width
    total, panel = panel_vectors_of(CONFIG, "int4", 3 * step * width + 1, 2 * step)
    assert (total, panel) == (4 * step, 2 * step)
    assert panel_vectors_of(CONFIG, "int4", 10 * step * width, 3 * step - 1)[1] == 2 * step
    assert panel_vectors_of(CONFIG, "int4", width, step - 1)[1] == 0
