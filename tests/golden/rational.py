"""The numerics contract in exact rational arithmetic and plain loops: slow, and independent of torch and of the
golden model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

LARGEST = Fraction((1 << 24) - 1) * Fraction(2) ** 104
SMALLEST = Fraction(1, 2**125)


def f32(x: Fraction | int | float) -> Fraction:
    """Nearest binary32 (ties to even), flushed and saturated."""
    x = Fraction(x)
    if x == 0:
        return Fraction(0)
    exponent = abs(x.numerator).bit_length() - x.denominator.bit_length()
    if abs(x) < Fraction(2) ** exponent:
        exponent -= 1
    quantum = Fraction(2) ** (exponent - 23)
    value = round(x / quantum) * quantum  # Fraction rounds half to even
    if abs(value) < SMALLEST:
        return Fraction(0)
    return max(-LARGEST, min(LARGEST, value))


def add(a: Fraction, b: Fraction) -> Fraction:
    return f32(a + b)


def mul(a: Fraction, b: Fraction) -> Fraction:
    return f32(a * b)


def div(a: Fraction, b: Fraction) -> Fraction:
    return f32(a / b) if b else Fraction(0)


def sqrt(a: Fraction) -> Fraction:
    if a <= 0:
        return Fraction(0)
    shift = 200
    scaled = (a.numerator << (2 * shift)) // a.denominator
    root = math.isqrt(scaled)
    exact = Fraction(root, 1 << shift) ** 2 == a
    return f32(Fraction(2 * root + (0 if exact else 1), 2 << shift))


def bf16(x: Fraction) -> Fraction:
    """Nearest 8-bit mantissa of a contract value that is not near overflow."""
    if x == 0:
        return x
    exponent = math.floor(math.log2(abs(x)))
    if abs(x) < Fraction(2) ** exponent:
        exponent -= 1
    if abs(x) >= Fraction(2) ** (exponent + 1):
        exponent += 1
    quantum = Fraction(2) ** (exponent - 7)
    return round(x / quantum) * quantum


def to_int(x: Fraction, fraction: int, bits: int) -> int:
    top = (1 << (bits - 1)) - 1
    return max(-top, min(top, round(x * 2**fraction)))


def column_sum(x: Sequence[Fraction]) -> Fraction:
    s = [Fraction(0)] * 128
    for i, value in enumerate(x):
        s[i % 128] = add(s[i % 128], value)
    for stride in (64, 32, 16, 8, 4, 2, 1):
        for c in range(stride):
            s[c] = add(s[c], s[c + stride])
    return s[0]


def norm(
    x: Sequence[Fraction], g: Sequence[Fraction], inverse_n: Fraction, eps: Fraction
) -> tuple[list[int], Fraction]:
    y = [mul(a, b) for a, b in zip(x, g, strict=True)]
    a = max(abs(v) for v in y)
    inverse = div(Fraction(127), a)
    mean = mul(column_sum([mul(v, v) for v in x]), inverse_n)
    scale = div(mul(a, f32(Fraction(1, 127))), sqrt(add(mean, eps)))
    return [to_int(mul(v, inverse), 0, 8) for v in y], scale


def sigmoid(y: Fraction) -> Fraction:
    base = [math.floor(2**17 / (1 + math.exp(i / 16)) + 0.5) for i in range(257)]
    u = to_int(abs(y), 10, 15)
    i, low = u >> 6, u & 63
    v = base[i] - (((base[i] - base[i + 1]) * low + 32) >> 6)
    return Fraction(v if y < 0 else 2**17 - v, 2**17)


def exp2(d: int) -> int:
    base = [math.floor(65536 * 2.0 ** (-k / 64) + 0.5) for k in range(65)]
    i, f = d >> 10, d & 1023
    v = base[f >> 4] - (((base[f >> 4] - base[(f >> 4) + 1]) * (f & 15) + 8) >> 4)
    return (v + 2**i) >> (i + 1) if i <= 16 else 0


def field(x: Fraction) -> int:
    """Exponent field of a positive bf16 value, 0 of 0."""
    if x == 0:
        return 0
    exponent = 0
    while Fraction(2) ** (exponent + 1) <= x:
        exponent += 1
    while Fraction(2) ** exponent > x:
        exponent -= 1
    return exponent + 127


Head = tuple[Sequence[int], Fraction]


def attention(query: Head, blocks: Sequence[Sequence[tuple[Head, Head]]]) -> list[Fraction]:
    """One query over blocks of valid ``(key, value)`` pairs, each ``(int8 elements, scale)``."""
    q8, q_scale = query
    m: int | None = None
    total = Fraction(0)
    o = [Fraction(0)] * len(q8)
    for block in blocks:
        scores = []
        for (k8, k_scale), _ in block:
            dot = sum(a * b for a, b in zip(q8, k8, strict=True))
            scores.append(to_int(mul(mul(f32(dot), k_scale), q_scale), 10, 24))
        m_new = max(scores) if m is None else max(m, *scores)
        p = [exp2(m_new - s) for s in scores]
        e_max = max(field(v_scale) for _, (_, v_scale) in block)
        w = []
        for p_j, (_, (_, v_scale)) in zip(p, block, strict=True):
            e = field(v_scale)
            mantissa = int(v_scale / Fraction(2) ** (e - 127 - 7)) if e else 0
            h = 7 + e_max - e
            w.append(0 if h > 31 else (p_j * mantissa + (1 << (h - 1))) >> h)
        c = Fraction(0) if m is None else Fraction(exp2(m_new - m), 1 << 15)
        total = add(mul(total, c), f32(sum(p)))
        power = Fraction(2) ** (e_max - 127) if e_max else Fraction(0)
        for d in range(len(o)):
            product = sum(w_j * v8[d] for w_j, (_, (v8, _)) in zip(w, block, strict=True))
            o[d] = add(mul(o[d], c), mul(f32(product), power))
        m = m_new
    inverse = div(Fraction(1), total)
    return [mul(value, inverse) for value in o]
