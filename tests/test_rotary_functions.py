"""Sines, cosines, powers and logarithms: the nearest numbers, whatever processor made them."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest

import hwgen.rotary
from hwgen.formats import rotary_rows
from hwgen.rotary import cos_and_sin, logarithm, plain_frequencies
from hwgen.shape import ModelShape

#: pi with 60 digits (OEIS A000796).
PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494")


def exact(angle: float) -> tuple[Decimal, Decimal]:
    """Cosine and sine of a double, from their series with 60 digits."""
    with localcontext() as context:
        context.prec = 60
        x = Decimal(angle) % (2 * PI)
        values = []
        for first in (0, 1):
            term = sum_ = Decimal(1) if first == 0 else x
            for n in range(first + 1, 100, 2):
                term *= -x * x / (n * (n + 1))
                sum_ += term
            values.append(sum_)
        return values[0], values[1]


ANGLES = [
    0.0, -0.0, 1e-300, 1e-9, 0.5, -0.5, 1.0, 16383.0, -16384.0, 131071.5, 1.6e6, *(k * math.pi / 4 for k in range(-9, 10)),
    *(math.nextafter(k * math.pi / 4, way) for k in range(1, 9) for way in (-math.inf, math.inf)),
    *(np.arange(1, 16384, 97) * 0.7498942093324559), *np.random.default_rng(3).uniform(-20000, 20000, 200),
]


def test_cosines_and_sines() -> None:
    """Float32 is the nearest to what is exact; the double behind it within 3e-16."""
    cos, sin = cos_and_sin(ANGLES)
    for angle, c, s in zip(ANGLES, cos.tolist(), sin.tolist(), strict=True):
        for found, wanted in zip((c, s), exact(angle), strict=True):
            assert abs(Decimal(found) - wanted) < Decimal("3e-16"), angle
            if abs(wanted) > Decimal("1e-10"):  # elsewhere the double's own error, which is absolute, is all of it
                assert np.float32(found) == np.float32(float(wanted)), angle


def test_far_angles_are_refused() -> None:
    assert cos_and_sin((2**20 - 1) * math.pi / 2)[0] < 1e-9
    for angle in (2**20 * math.pi / 2, -1e9, math.nan, math.inf):
        with pytest.raises(ValueError, match="within 1048576 quarter turns"):
            cos_and_sin([0.0, angle])
    assert [values.size for values in cos_and_sin([])] == [0, 0]


@pytest.mark.parametrize("theta", [100.0, 1e4, 5e5, 1e6, 123.456])
@pytest.mark.parametrize("head_dim", [4, 16, 64, 96, 128])
def test_frequencies(theta: float, head_dim: int) -> None:
    """To the power of ``head_dim`` / 2 they are whole powers of theta: nothing lies between a frequency and its neighbours."""
    with localcontext() as context:
        context.prec = 60
        for j, found in enumerate(plain_frequencies(theta, head_dim).tolist()):
            wanted = 1 / Decimal(theta) ** j
            low, high = ((Decimal(found) + Decimal(math.nextafter(found, way))) / 2 for way in (0.0, math.inf))
            assert low ** (head_dim // 2) <= wanted <= high ** (head_dim // 2)


def test_logarithms() -> None:
    """Between the points at which another double would be nearer."""
    with localcontext() as context:
        context.prec = 60
        for value in (0.25, 1.0, 2.0, math.e, 8.0, 40.0, 8192.0, 1e6):
            found = logarithm(value)
            low, high = ((Decimal(found) + Decimal(math.nextafter(found, way))) / 2 for way in (-math.inf, math.inf))
            assert low.exp() <= Decimal(value) <= high.exp()


def test_nothing_else_makes_rotary_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Functions that differ from processor to processor take no part."""
    shape = ModelShape(hidden=8, layers=1, heads=1, kv_heads=1, head_dim=16, ffn=8, vocab=9, rope_theta=777.0)
    rows = rotary_rows(shape, np.arange(50))
    for name in ("cos", "sin", "power", "exp", "log"):
        monkeypatch.setattr(np, name, None)
    for name in ("cos", "sin", "pow", "exp", "log"):
        monkeypatch.setattr(math, name, None)
    hwgen.rotary._frequencies.cache_clear()
    assert np.array_equal(rotary_rows(shape, np.arange(50)), rows)


#: Three parts of half of pi, and two divided by pi.
PARTS = [float.fromhex(text) for text in ("0x1.921fb544p0", "0x0.42d18469p-32", "0x0.898cc51701b839p-64")]
TURNS = float.fromhex("0x0.a2f9836e4e4415p0")


def series(r: float, first: int, last: int) -> float:
    """Taylor's of a cosine (``first`` 0) or of a sine divided by ``r`` (1), up to the power ``last`` of ``r``."""
    total = (-1.0) ** (last // 2) / float(math.factorial(last))
    for power in range(last - 2, first - 1, -2):
        total = total * (r * r) + (-1.0) ** (power // 2) / float(math.factorial(power))
    return total


def plain(angle: float) -> tuple[float, float]:
    turns = float(round(angle * TURNS))
    rest = angle
    for part in PARTS:
        rest = rest - turns * part
    cos, sin = series(rest, 0, 18), rest * series(rest, 1, 17)
    return {0: (cos, sin), 1: (-sin, cos), 2: (-cos, -sin), 3: (sin, -cos)}[int(turns) % 4]


def test_every_bit() -> None:
    """Those that Python's own floats make, in the order that the contract gives sums and products."""
    rng = np.random.default_rng(1)
    angles = np.concatenate((rng.uniform(-1, 1, 3000), rng.uniform(-20000, 20000, 3000), rng.uniform(-1.6e6, 1.6e6, 3000)))
    cos, sin = cos_and_sin(angles)
    expected = np.array([plain(float(angle)) for angle in angles])
    assert np.array_equal(cos, expected[:, 0]) and np.array_equal(sin, expected[:, 1])


def test_parts_of_half_of_pi() -> None:
    """Of the first two products with numbers up to 2^20 nothing is lost; together the parts are pi / 2 to 2^-116."""
    assert all(Fraction(part) * 2**64 % 1 == 0 and float(Fraction(part) * (2**20 - 1)) == Fraction(part) * (2**20 - 1)
               for part in PARTS[:2])
    pi = Fraction(PI)
    assert abs(sum(map(Fraction, PARTS)) - pi / 2) < Fraction(1, 2**116) and abs(Fraction(TURNS) * pi / 2 - 1) < Fraction(1, 2**52)
