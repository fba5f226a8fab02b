"""The INT4 x FP8 operators against rational arithmetic, exhaustive searches and torch's own e4m3."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch

from hwgen.formats import score_constant
from hwgen.golden.int4 import (
    dequantize_rows,
    e4m3_codes,
    e4m3_integers,
    e4m3_values,
    int4_matmul,
    norm_e4m3,
    quantize_e4m3,
    quantize_query_e4m3,
)
from hwgen.int4 import BlockMatrix, Int4Matrix, pack_nibbles, to_machine, unpack_nibbles
from hwgen.rounding import ceil_div

from . import rational
from .bits import assert_same_bits, fractions, random_floats

CODES = [c for c in range(256) if c & 0x7F != 0x7F]


def value_of(code: int) -> Fraction:
    """An e4m3 code by the definition of the format."""
    field, mantissa = code >> 3 & 15, code & 7
    magnitude = Fraction(8 + mantissa, 8) * Fraction(2) ** (field - 7) if field else Fraction(mantissa, 8) * Fraction(2) ** -6
    return -magnitude if code & 128 else magnitude


def nearest(x: Fraction) -> Fraction:
    """The nearest e4m3 value by search; of two the one with the even code."""
    positive = range(0x7F)
    best = min(positive, key=lambda c: (abs(value_of(c) - abs(x)), c & 1))
    return value_of(best) if x >= 0 else -value_of(best)


def test_every_code() -> None:
    values = e4m3_values(torch.tensor(CODES, dtype=torch.uint8))
    assert [Fraction(v, 512) for v in values.tolist()] == [value_of(c) for c in CODES]
    assert int(values.max()) == 229376
    assert e4m3_codes(values).tolist() == [0 if c == 0x80 else c for c in CODES]  # -0 is never made
    with pytest.raises(ValueError, match="codes must be finite"):
        e4m3_values(torch.tensor([0x7F], dtype=torch.uint8))


def test_rounding_at_every_boundary() -> None:
    """Every value, every middle of two neighbours, and the float32 just beside them."""
    values = [value_of(c) for c in range(0x7F)]
    points = values + [(a + b) / 2 for a, b in itertools.pairwise(values)]
    x = torch.tensor([float(p) for p in points], dtype=torch.float32)
    x = torch.cat((x, torch.nextafter(x, torch.tensor(torch.inf)), torch.nextafter(x, torch.tensor(0.0))))
    x = torch.cat((x, -x))
    assert [Fraction(i, 512) for i in e4m3_integers(x).tolist()] == [nearest(f) for f in fractions(x)]


def test_saturation_and_torch() -> None:
    assert e4m3_integers(torch.tensor([1e30, -3e38, 448.1, 464.0, -480.0])).tolist() == [229376, -229376, 229376, 229376, -229376]
    g = torch.Generator().manual_seed(1)
    x = random_floats(g, 20000, low=-14, high=9).clamp(-448, 448)
    assert (e4m3_integers(x).float() / 512 == x.to(torch.float8_e4m3fn).float()).all()


@pytest.mark.parametrize("scale", [1, 255])
def test_every_product(scale: int) -> None:
    """254 finite activations x 16 codes, and again with every midpoint."""
    integers = e4m3_values(torch.tensor(CODES, dtype=torch.uint8))
    codes = np.arange(-8, 8, dtype=np.int8)
    w = torch.from_numpy(codes.astype(np.int64) * scale)
    # one product a column: the other 15 inputs of the row are zero
    acc = int4_matmul(torch.eye(16)[:, None] * integers[None, :, None], torch.diag(w).double())
    for i, j in itertools.product(range(16), range(len(CODES))):
        assert Fraction(int(acc[i, j, i]), 512) == value_of(CODES[j]) * int(codes[i]) * scale


@pytest.mark.parametrize("group", [16, 32, 64, 128])
@pytest.mark.parametrize("symmetric", [False, True])
def test_linear_and_drain_equal_rational_model(group: int, symmetric: bool) -> None:
    rng, g = np.random.default_rng(group), torch.Generator().manual_seed(group)
    rows, inputs = 5, 208  # the last group of 128, and of 64, is short
    groups = ceil_div(inputs, group)
    matrix = Int4Matrix(
        rng.integers(-8, 8, (rows, inputs), dtype=np.int8), group, rng.integers(0, 256, (rows, groups)).astype(np.uint8),
        None if symmetric else rng.integers(-127, 128, (rows, groups)).astype(np.int8),
        rng.uniform(1e-6, 1e-3, rows).astype(np.float32),
    )
    q, scale = quantize_e4m3(random_floats(g, inputs))
    row_scale = torch.from_numpy(matrix.row_scale)
    acc = int4_matmul(q, torch.from_numpy(matrix.integers()).double())
    y = dequantize_rows(acc, scale, row_scale)
    for r in range(rows):
        total = 0
        for k in range(groups):  # group sums, as the hardware forms them
            part = slice(k * group, (k + 1) * group)
            s = sum(int(a) * int(b) for a, b in zip(matrix.codes[r, part], q[part].tolist(), strict=True))
            total += int(matrix.scales[r, k]) * s
            if matrix.midpoints is not None:
                total += 8 * int(matrix.midpoints[r, k]) * sum(q[part].tolist())
        assert int(acc[r]) == total
        exact = rational.mul(rational.mul(rational.f32(total), fractions(row_scale)[r]), fractions(scale[None])[0])
        assert fractions(y[r : r + 1]) == [exact]


def test_exact_at_the_largest_sums() -> None:
    inputs = 16384
    codes = np.full((2, inputs), -8, np.int8)
    matrix = Int4Matrix(codes, 128, np.full((2, 128), 255, np.uint8), np.full((2, 128), -127, np.int8), np.ones(2, np.float32))
    acc = int4_matmul(torch.full((inputs,), 229376, dtype=torch.int32), torch.from_numpy(matrix.integers()).double())
    assert acc.tolist() == [-229376 * 3056 * inputs] * 2
    assert 229376 * 3056 * 131072 < 1 << 47


def rational_e4m3(y: list[Fraction]) -> tuple[list[Fraction], Fraction]:
    a = max(abs(v) for v in y)
    inverse = rational.div(Fraction(448), a)
    return [nearest(rational.mul(v, inverse)) * 512 for v in y], a


@pytest.mark.parametrize("n", [1, 40, 129])
@pytest.mark.parametrize("spread", [2.0, 20.0])
def test_norm_and_quantize_equal_rational_model(n: int, spread: float) -> None:
    g = torch.Generator().manual_seed(n)
    x, gain = random_floats(g, n, low=-spread, high=spread), random_floats(g, n, low=-3, high=3)
    constant, (inverse_n, eps) = rational.f32(Fraction(1, 229376)), fractions(torch.tensor([1.0 / n, 1e-5]))

    q, scale = quantize_e4m3(x)
    slow, a = rational_e4m3(fractions(x))
    assert q.tolist() == slow and fractions(scale[None]) == [rational.mul(a, constant)]

    q, scale = norm_e4m3(x, gain, float(inverse_n), float(eps))
    xs = fractions(x)
    slow, a = rational_e4m3([rational.mul(v, w) for v, w in zip(xs, fractions(gain), strict=True)])
    mean = rational.mul(rational.column_sum([rational.mul(v, v) for v in xs]), inverse_n)
    rms = rational.sqrt(rational.add(mean, eps))
    assert q.tolist() == slow and fractions(scale[None]) == [rational.div(rational.mul(a, constant), rms)]


def test_zero_rows_and_largest_element() -> None:
    x = torch.zeros(3, 32)
    x[1], x[2, 3] = 3e38, -1e-30
    q, scale = quantize_e4m3(x)
    assert (q[0] == 0).all() and scale[0] == 0
    assert (q[1] == 229376).all() and q[2, 3] == -229376
    g = torch.Generator().manual_seed(3)
    q, _ = quantize_e4m3(random_floats(g, 500, 48))
    assert (q.abs().amax(-1) == 229376).all()  # 448 / a rounds, its product with a still becomes 448


def test_query() -> None:
    g = torch.Generator().manual_seed(4)
    y = random_floats(g, 50, 64, low=-3, high=3)
    q, scale = quantize_query_e4m3(y, score_constant(64, fp8_query=True))
    assert_same_bits(q, quantize_e4m3(y)[0])
    close = q.double() * scale.double()[:, None] * 8 / np.log2(np.e)
    assert ((close - y.double()).abs() <= y.abs() / 16 + y.abs().amax(-1, keepdim=True) * 2.0**-18).all()


def test_nibbles() -> None:
    codes = np.arange(-8, 8, dtype=np.int8).reshape(2, 8)
    packed = pack_nibbles(codes)
    assert packed[0, 0] == 0x98 and packed.shape == (2, 4)
    np.testing.assert_array_equal(unpack_nibbles(packed), codes)


def test_blocks_to_machine() -> None:
    rng = np.random.default_rng(6)
    codes = rng.integers(-8, 8, (4, 96), dtype=np.int8)
    scale = rng.uniform(0.5, 1, (4, 3)).astype(np.float32)
    midpoint = rng.uniform(-2, 2, (4, 3)).astype(np.float32)
    scale[3], midpoint[3] = 0, 0
    block = BlockMatrix(codes, 32, scale, midpoint)
    machine = to_machine(block)
    np.testing.assert_array_equal(machine.codes, codes)
    # d within half a unit times 8 codes, m within 4 units
    assert (np.abs(machine.dense() - block.dense()) <= machine.row_scale[:, None] * 8.01).all()
    assert machine.row_scale[3] == 0 and (machine.integers()[3] == 0).all()
    again = to_machine(BlockMatrix(codes, 32, machine.scales * machine.row_scale[:, None], None))
    assert again.symmetric and (again.scales == 0)[3].all()
    for change, words in (
        ({"group": 48}, "group must be"),
        ({"scale": scale[:, :2]}, "scale must be"),
        ({"scale": -scale}, "scale must be 0"),
    ):
        with pytest.raises(ValueError, match=words):
            BlockMatrix(**{"codes": codes, "group": 32, "scale": scale} | change)
