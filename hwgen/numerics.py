"""Constants of the numerics contract, shared by the golden model and the hardware.

Number format "binary32, flushed": finite IEEE 754 binary32 in which the only zero is +0 and no other value is smaller
in magnitude than ``2**(F32_MIN_EXPONENT - 127)``. Results round to nearest even; smaller ones become +0, larger ones
saturate.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from functools import cache
from itertools import pairwise

__all__ = [
    "E4M3_LARGEST",
    "E4M3_MAX",
    "E4M3_UNITS",
    "EXP2_ONE",
    "F32_MAX_BITS",
    "F32_MIN_EXPONENT",
    "FOUR_BIT_LEVELS",
    "FOUR_BIT_THRESHOLDS",
    "GROUP",
    "GROUP_SCALE_MAX",
    "SCORE_BITS",
    "SCORE_FRACTION",
    "SIGMOID_ONE",
    "SUM_COLUMNS",
    "exp2_table",
    "four_bit_table",
    "four_bit_values",
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

#: Magnitudes of keys and values of 4 bits, in units of their scale, where 8 bits are -127 to 127: closer to each other where
#: elements of mixed heads are dense. The largest is the largest of 8 bits: a mixed outlier, of which all elements are as large, is
#: exact. No two have the same lower three bits, nor have their negatives: these bits and the sign are the code, so that packing it
#: takes no logic.
FOUR_BIT_LEVELS = (5, 18, 30, 44, 59, 73, 96, 127)

#: From which element of 8 bits on each level but the first stands for it: multiples of 4, so that six bits decide.
FOUR_BIT_THRESHOLDS = (12, 24, 36, 52, 68, 84, 112)

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
def four_bit_table() -> tuple[int, ...]:
    """What an element of 8 bits becomes with 4 bits: of each element, as a number of 0 to 255 in two's complement, a level.

    An element k < 0 becomes the negative of what -1 - k becomes.
    """
    of_positive = [FOUR_BIT_LEVELS[bisect_right(FOUR_BIT_THRESHOLDS, k)] for k in range(128)]
    return (*of_positive, *(-level for level in reversed(of_positive)))


@cache
def four_bit_values() -> tuple[int, ...]:
    """The level of every code of 4 bits: the sign above the lower three bits of the level in two's complement."""
    values = [0] * 16
    for level in FOUR_BIT_LEVELS:
        values[level & 7], values[8 | -level & 7] = level, -level
    return tuple(values)


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
