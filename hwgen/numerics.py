"""Constants of the numerics contract, shared by the golden model and the hardware.

Number format "binary32, flushed": finite IEEE 754 binary32 in which the only zero is +0 and no other value is smaller
in magnitude than ``2**(F32_MIN_EXPONENT - 127)``. Results round to nearest even; smaller ones become +0, larger ones
saturate.
"""

from __future__ import annotations

import math
from functools import cache
from itertools import pairwise

__all__ = [
    "E4M3_LARGEST",
    "E4M3_MAX",
    "E4M3_UNITS",
    "EXP2_ONE",
    "F32_MAX_BITS",
    "F32_MIN_EXPONENT",
    "GROUP",
    "GROUP_SCALE_MAX",
    "SCORE_BITS",
    "SCORE_FRACTION",
    "SIGMOID_ONE",
    "SUM_COLUMNS",
    "exp2_table",
    "sigmoid_table",
]

#: Largest finite e4m3 value; larger ones saturate.
E4M3_MAX = 448

#: Every finite e4m3 value is a whole number of these parts of one: arithmetic with them is that of integers.
E4M3_UNITS = 512

#: Largest magnitude of an e4m3 value as such an integer.
E4M3_LARGEST = E4M3_MAX * E4M3_UNITS

#: Inputs of a ternary matrix that share a scale, in matrices that have such scales.
GROUP = 128

#: Largest scale of a group, in units of its matrix: a code of two bits of exponent and six of mantissa.
GROUP_SCALE_MAX = 127 << 2

#: Smallest exponent field of a number other than zero. One binade above IEEE's smallest normal number, so that every
#: result that survives was rounded to 24 bits by plain IEEE arithmetic too, whatever it does with subnormals.
F32_MIN_EXPONENT = 2

#: Bits of the largest finite number: where overflow saturates.
F32_MAX_BITS = 0x7F7FFFFF

#: Running sums that a reduction of any length is split into before they are added as a tree; the order of additions is
#: part of the contract and does not depend on how wide the hardware is.
SUM_COLUMNS = 128

#: Fraction bits of an attention score (a base-2 logarithm).
SCORE_FRACTION = 10

#: Bits of an attention score, signed.
SCORE_BITS = 24

#: 1.0 as a probability: what ``exp2(0)`` gives.
EXP2_ONE = 1 << 15

#: 1.0 as a result of the sigmoid, before it becomes a float.
SIGMOID_ONE = 1 << 17


def _segments(base: list[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """``(base, slope)`` of a falling function from its values at the ends of the segments."""
    return tuple(base[:-1]), tuple(a - b for a, b in pairwise(base))


@cache
def exp2_table() -> tuple[tuple[int, ...], tuple[int, ...]]:
    """``(base, slope)`` of 2^-f on 64 segments of f in [0, 1), 16 fraction bits.

    ``base[k] = round(2^16 * 2^(-k / 64))``; ``slope[k] = base[k] - base[k + 1]``, the fall over one segment (16 steps
    of f).
    """
    return _segments([math.floor(2 * EXP2_ONE * 2.0 ** (-k / 64) + 0.5) for k in range(65)])


@cache
def sigmoid_table() -> tuple[tuple[int, ...], tuple[int, ...]]:
    """``(base, slope)`` of the sigmoid of -x on 256 segments of x in [0, 16), 17 fraction bits.

    ``base[i] = round(2^17 / (1 + e^(i / 16)))``; ``slope[i] = base[i] - base[i + 1]``, the fall over one segment (64
    steps of x).
    """
    return _segments([math.floor(SIGMOID_ONE / (1.0 + math.exp(i / 16)) + 0.5) for i in range(257)])
