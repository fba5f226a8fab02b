"""Constants and tables of the numerics contract, as docs/numerics.md and docs/numerics-int4.md have them."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from hwgen import numerics
from hwgen.draw import EXPONENT_ONE, FIXED_BITS, MULTIPLIER, ROUNDS, SCALE_BITS, SEGMENT_FRACTION, WEYL, Draw
from hwgen.formats import SMALLEST, score_constant
from hwgen.int4 import CODE_MAX, GROUPS, MIDPOINT_STEP, WEIGHT_MAX
from hwgen.layout import MIXES, ZERO_BYTE
from hwgen.numerics import exp2_table, four_bit_table, four_bit_values, sigmoid_table
from hwgen.vocabulary import HEAD_LARGEST, SECTION_MIDPOINTS, SECTION_SCALES

PAGE = (Path(__file__).parents[1] / "docs" / "numerics.md").read_text()


def test_constants() -> None:
    n = numerics
    assert (n.E4M3_MAX, n.E4M3_UNITS, n.E4M3_LARGEST) == (448, 512, 229376)
    assert (n.GROUP, n.GROUP_SCALE_MAX, n.SUM_COLUMNS) == (128, 508, 128)
    assert (n.F32_MAX_BITS, float(SMALLEST), n.F32_MIN_EXPONENT) == (0x7F7FFFFF, 2.0**-125, 2)
    assert (n.SCORE_BITS, n.SCORE_FRACTION, n.EXP2_ONE, n.SIGMOID_ONE) == (24, 10, 2**15, 2**17)
    assert (GROUPS, MIDPOINT_STEP, CODE_MAX, WEIGHT_MAX) == ((16, 32, 64, 128), 8, 7, 3056)
    assert (HEAD_LARGEST, SECTION_SCALES, SECTION_MIDPOINTS) == ({"ternary": 121, "grouped": 121, "int4": 127}, (16, 1), (0, 1))
    assert (MIXES, ZERO_BYTE) == (3, 1 + 3 + 9 + 27 + 81)
    assert (MULTIPLIER, WEYL, ROUNDS, SCALE_BITS, FIXED_BITS, SEGMENT_FRACTION) == (0xD256D193, 0x9E3779B9, 10, 26, 31, 10)
    assert EXPONENT_ONE == 127 + 10, "magnitudes from 2048 on saturate: those below have an exponent of 10 at most"
    assert Draw() == Draw(1, 0, 0)


def test_four_bits() -> None:
    """The table of the page, and codes that its levels make."""
    rows = {line[2]: [int(cell) for cell in line[6:].strip(" |").split("|")] for line in PAGE.splitlines()
            if line.strip().startswith(("| T |", "| L |")) for line in ["| " + line.strip()[2:]]}
    thresholds, levels = rows["T"], rows["L"]
    assert len(levels) == 8 and thresholds[0] == 0
    assert (list(numerics.FOUR_BIT_LEVELS), list(numerics.FOUR_BIT_THRESHOLDS)) == (levels, thresholds[1:])

    def becomes(k: int) -> int:
        return -becomes(-1 - k) if k < 0 else max(level for t, level in zip(thresholds, levels, strict=True) if t <= k)

    assert list(four_bit_table()) == [becomes(k - 256 if k > 127 else k) for k in range(256)]
    values = four_bit_values()
    assert sorted(values) == sorted([*levels, *(-level for level in levels)])
    assert all(value % 8 == code % 8 and (value < 0) == (code >= 8) for code, value in enumerate(values))


@pytest.mark.parametrize(("table", "value"), [
    (exp2_table, lambda k: 2.0**16 * 2.0 ** (-k / 64)), (sigmoid_table, lambda i: 2.0**17 / (1 + math.exp(i / 16))),
], ids=["exp2", "sigmoid"])
def test_tables(table: Callable[[], tuple[tuple[int, ...], tuple[int, ...]]], value: Callable[[int], float]) -> None:
    base, slope = table()
    ends = [Fraction(value(k)) for k in range(len(base) + 1)]
    assert len(base) == len(slope) == (64 if table is exp2_table else 256)
    assert all(abs(b - end) <= Fraction(1, 2) for b, end in zip(base, ends, strict=False))
    assert all(b - s in (math.floor(end + Fraction(1, 2)), round(end)) for b, s, end in zip(base, slope, ends[1:], strict=True))


@pytest.mark.parametrize("dim", [16, 64, 128])
def test_score_constants(dim: int) -> None:
    expected = np.float32(math.log2(math.e) / (127 * math.sqrt(dim)))
    assert score_constant(dim) == expected and score_constant(dim, mixes=3) == expected / 8
    assert score_constant(dim, True) == np.float32(math.log2(math.e) / (229376 * math.sqrt(dim)))
