"""Sines, cosines, powers and logarithms of which every processor makes the same bits.

Those of numpy and of C libraries differ in their last bit from processor to processor: numpy chooses its loops by the instructions
that it finds (NEP 38), and glibc rounds few functions correctly (its manual, "Errors in Math Functions"). What they make would be
part of a model's image. Here are only sums, products and roundings, which IEEE 754 fixes, and decimal numbers.
"""

from __future__ import annotations

from decimal import Context, Decimal
from functools import lru_cache

import numpy as np
import numpy.typing as npt

__all__ = ["cos_and_sin", "logarithm", "plain_frequencies"]

Doubles = npt.NDArray[np.float64]

_CONTEXT = Context(prec=40)

#: Half of pi = 1.921FB544 42D18469 898CC51701B839..., of which the first two parts have 33 bits at most, so that their products
#: with numbers up to `_MOST` are exact.
_HALF_PI = tuple(map(float.fromhex, ("0x1.921fb544p0", "0x0.42d18469p-32", "0x0.898cc51701b839p-64")))
#: Two divided by pi.
_TURNS = float.fromhex("0x0.a2f9836e4e4415p0")
_MOST = 1 << 20

#: Of sin(r) / r and of cos(r), the powers of r * r, highest first: what is left out is below 2e-18 up to a quarter of pi.
_FACTORIALS = np.cumprod(np.array([1, *range(1, 20)], np.float64))
_SIN = [(-1) ** k / _FACTORIALS[2 * k + 1] for k in reversed(range(9))]
_COS = [(-1) ** k / _FACTORIALS[2 * k] for k in reversed(range(10))]


@lru_cache(maxsize=64)
def _frequencies(theta: float, head_dim: int) -> tuple[float, ...]:
    base = Decimal(theta)
    exponents = (_CONTEXT.divide(Decimal(-j), Decimal(head_dim)) for j in range(0, head_dim, 2))
    return tuple(float(_CONTEXT.power(base, exponent)) for exponent in exponents)


def plain_frequencies(theta: float, head_dim: int) -> Doubles:
    """``theta^(-2j / head_dim)`` for j < ``head_dim`` / 2, each the nearest double."""
    return np.array(_frequencies(float(theta), head_dim))


def logarithm(value: float) -> float:
    """The natural logarithm, the nearest double."""
    return float(_CONTEXT.ln(Decimal(value)))


def _polynomial(coefficients: list[float], x: Doubles) -> Doubles:
    result = np.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        result = result * x + coefficient
    return result


def cos_and_sin(angle: npt.ArrayLike) -> tuple[Doubles, Doubles]:
    """Cosines and sines of angles in radians, up to 2^20 quarter turns from zero, within 3e-16. Raises ValueError beyond that.

    Reduced to an eighth of a turn by subtracting multiples of three parts of pi / 2 (Cody and Waite, Software Manual for the
    Elementary Functions, 1980, chapter 8), then the Taylor series.
    """
    angle = np.asarray(angle, np.float64)
    turns = np.rint(angle * _TURNS)
    if angle.size and not np.abs(turns).max() < _MOST:
        raise ValueError(f"angles must be within {_MOST} quarter turns")
    rest = angle
    for part in _HALF_PI:
        rest = rest - turns * part
    square = rest * rest
    cos, sin = _polynomial(_COS, square), rest * _polynomial(_SIN, square)
    quarter = turns.astype(np.int64) & 3
    odd = (quarter & 1).astype(np.bool_)
    first, second = np.where(odd, sin, cos), np.where(odd, cos, sin)
    return np.where((quarter == 1) | (quarter == 2), -first, first), np.where(quarter >= 2, -second, second)
