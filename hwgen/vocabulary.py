"""Rows of the LM head as the linear engines take them: integers in digits that an engine has as weights."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .config import DIGITS_LARGEST, TRITS_PER_BYTE, BuildConfig
from .layout import vectors_of
from .rounding import align, ceil_div

__all__ = [
    "HEAD_LARGEST", "SECTION_MIDPOINTS", "SECTION_SCALES", "digit_rows", "logits_bytes", "nibble_columns", "panel_vectors_of",
    "section_inputs",
]

Rows = npt.NDArray[np.int8]

#: Largest integer of a row, by engine: five digits in base 3; two codes of 4 bits.
HEAD_LARGEST = {"ternary": DIGITS_LARGEST, "grouped": DIGITS_LARGEST, "int4": 127}

#: Scale and midpoint codes of the two sections of an INT4 row: 16 times the upper codes, and the lower ones plus 8.
SECTION_SCALES, SECTION_MIDPOINTS = (16, 1), (0, 1)


def logits_bytes(config: BuildConfig, vocab: int) -> int:
    """Bytes from the logits of one token in memory to those of the next: float32, whole beats."""
    return align(4 * vocab, config.beat_bytes)


def panel_vectors_of(config: BuildConfig, engine: str, vocab: int, most: int) -> tuple[int, int]:
    """Vectors of logits of the head, and of one of its panels: whole beats, as many of equal size as fit the accumulators and are
    ``most`` at most; 0 where not even a beat does.
    """
    step = config.beat_vectors
    total = align(vectors_of(config, vocab), step)
    fit = min(config.panel_vectors // (TRITS_PER_BYTE if engine == "ternary" else 1), most) // step * step
    return total, fit and align(ceil_div(total, ceil_div(total, fit)), step)


def digit_rows(config: BuildConfig, rows: Rows) -> Rows:
    """Integers ``[count, inputs]`` up to `DIGITS_LARGEST` -> trits ``[5 * count up to whole vectors, inputs]``: of every vector of
    rows the vector of their highest digits, then that of the next ones.
    """
    count, inputs = rows.shape
    full = np.full((align(count, config.width), inputs), DIGITS_LARGEST, np.uint8)
    full[:count] = (rows.astype(np.int16) + DIGITS_LARGEST).astype(np.uint8)
    powers = [np.uint8(3**j) for j in reversed(range(TRITS_PER_BYTE))]
    vectors = full.reshape(-1, config.width, inputs)
    digits = np.stack([vectors // power % np.uint8(3) for power in powers], axis=1)
    trits: Rows = digits.reshape(-1, inputs).astype(np.int8) - np.int8(1)
    return trits


def section_inputs(config: BuildConfig, inputs: int) -> int:
    """Inputs of a section of an INT4 row: whole slices, whose activations are whole vectors."""
    return align(inputs, max(config.width, config.int4_slice_inputs))


def nibble_columns(config: BuildConfig, rows: Rows) -> Rows:
    """int8 ``[count, inputs]`` -> codes -8..7 ``[count, 2 * section]``: the upper ones of all inputs, then the lower ones. With the
    activations of the inputs twice, and `SECTION_SCALES` and `SECTION_MIDPOINTS`, the product is that of the integers.
    """
    count, inputs = rows.shape
    section = section_inputs(config, inputs)
    codes = np.zeros((count, 2, section), np.int8)
    codes[:, 0, :inputs] = rows >> 4
    codes[:, 1, :inputs] = (rows & 15) - 8
    return codes.reshape(count, -1)
