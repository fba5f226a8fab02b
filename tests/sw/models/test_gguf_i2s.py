"""Digits of I2_S, weight by weight as its three writers place them, and how a file is told to be of one of them."""

from __future__ import annotations

import numpy as np
import pytest

from hwgen.sw.models import gguf_i2s
from hwgen.sw.models.gguf_i2s import LAYOUTS, find_layout, read


def place(layout: str, row: int, column: int, inputs: int) -> tuple[int, int]:
    """Byte of a weight and the shift of its two bits, by the table of the format."""
    if layout == "rows":
        return row // 4 * inputs + column, 6 - 2 * (row % 4)
    run = 32 if layout == "x86" else 16
    index = row * inputs + column
    block, within = divmod(index, 4 * run)
    return block * run + within % run, 6 - 2 * (within // run)


def packed(trits: np.ndarray, layout: str, scale: float) -> np.ndarray:
    rows, inputs = trits.shape
    data = np.zeros(rows * inputs // 4, np.uint8)
    for row in range(rows):
        for column in range(inputs):
            byte, shift = place(layout, row, column, inputs)
            data[byte] |= int(trits[row, column] + 1) << shift
    return np.concatenate((data, np.array([scale], np.float32).view(np.uint8), np.zeros(28, np.uint8)))


@pytest.mark.parametrize(("rows", "inputs"), [(4, 128), (8, 64), (4, 32)])
@pytest.mark.parametrize("layout", ["x86", "arm", "rows"])
def test_weights_are_where_their_writer_put_them(layout: str, rows: int, inputs: int) -> None:
    trits = np.random.default_rng(rows).integers(-1, 2, (rows, inputs)).astype(np.int8)
    found, scale = read(packed(trits, layout, 0.75), rows, inputs, layout)
    assert np.array_equal(found, trits) and found.dtype == np.int8 and scale == np.float32(0.75)


@pytest.mark.parametrize(("layout", "rows", "inputs", "fits"), [
    ("x86", 1, 128, True), ("x86", 1, 64, False), ("x86", 2, 64, True), ("arm", 1, 64, True), ("arm", 1, 32, False),
    ("arm", 2, 32, True), ("rows", 4, 8, True), ("rows", 6, 128, False),
])
def test_sizes_that_a_layout_can_have(layout: str, rows: int, inputs: int, fits: bool) -> None:
    data = packed(np.zeros((8, 128), np.int8), "x86", 1.0) if not fits else packed(np.zeros((rows, inputs), np.int8), layout, 1.0)
    if fits:
        assert not read(data, rows, inputs, layout)[0].any()
        return
    with pytest.raises(ValueError, match=f"has {rows} rows of {inputs} inputs"):
        read(data, rows, inputs, layout)


@pytest.mark.parametrize(("digit", "scale", "message"), [
    (3, 1.0, "holds the digit 3"), (1, 0.0, "has the scale 0.0"), (1, -1.0, "has the scale -1.0"), (1, np.inf, "has the scale inf"),
    (1, np.nan, "has the scale nan"), (2, 1e-30, ""),
])
def test_digits_and_scales(digit: int, scale: float, message: str) -> None:
    data = packed(np.zeros((4, 128), np.int8), "x86", scale)
    data[0] = digit
    if not message:
        assert read(data, 4, 128, "x86")[0][0, 96] == 1
        return
    with pytest.raises(ValueError, match=message):
        read(data, 4, 128, "x86")


def told(layout: str, rows: int, inputs: int, strength: float, seed: int = 1) -> tuple[np.ndarray, int, int, np.ndarray]:
    """A matrix whose columns of large gains have more zeros, by ``strength``."""
    rng = np.random.default_rng(seed)
    gains = rng.uniform(0.5, 1.5, inputs).astype(np.float32)
    zero = rng.random((rows, inputs)) < 0.33 + strength * (gains - 1)
    trits = np.where(zero, 0, rng.choice([-1, 1], (rows, inputs))).astype(np.int8)
    return packed(trits, layout, 1.0), rows, inputs, gains * rng.choice([-1, 1], inputs).astype(np.float32)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_writer_is_found_by_gains_and_zeros(layout: str) -> None:
    """By enough of them; where there is nothing to see, nobody is."""
    assert find_layout([told(layout, 64, 128, 0.5, seed) for seed in range(2)]) == layout
    assert find_layout([told(layout, 64, 128, 0.0)]) is None


def test_few_layouts_fit() -> None:
    """One that alone has the sizes needs no proof; where none has them, nobody is found."""
    matrix, _, _, gains = told("rows", 4, 32, 0.0)
    assert find_layout([(matrix, 4, 8, gains[:8])]) == "rows"
    assert find_layout([(matrix, 1, 32, gains)]) is None
    assert find_layout([(matrix, 4, 8, gains[:8]), (matrix, 1, 64, np.ones(64, np.float32))]) is None
    assert find_layout([]) is None


def zeros_of_columns(counts: np.ndarray, rows: int) -> np.ndarray:
    """Digits with so many zero trits (digit 1) in the columns."""
    return np.where(np.arange(rows)[:, None] < counts, 1, 2).astype(np.uint8)


@pytest.mark.parametrize(("inputs", "turned", "matrices", "found"), [
    (30, 8, 1, None), (31, 8, 1, "arm"), (16, 4, 2, "arm"), (15, 4, 2, None), (64, 6, 1, "arm"), (64, 5, 1, None),
])
def test_how_clear_a_layout_must_be(
    inputs: int, turned: int, matrices: int, found: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than 30 in all, and more than four times the next, n r^2 each: of ranks of which two neighbours are exchanged r is
    1 - 12 / (n^3 - n), of ranks that are turned by k it is 1 - 6 k (n - k) / (n^2 - 1).
    """
    near, far = np.arange(inputs), np.roll(np.arange(inputs), turned)
    near[[3, 4]] = 4, 3
    layouts = {"x86": lambda *sizes: zeros_of_columns(far, 128), "arm": lambda *sizes: zeros_of_columns(near, 128)}
    monkeypatch.setattr(gguf_i2s, "LAYOUTS", layouts)
    matrix = np.zeros(32 * inputs, np.uint8), 128, inputs, np.linspace(1.0, 2.0, inputs, dtype=np.float32)
    assert find_layout([matrix] * matrices) == found
