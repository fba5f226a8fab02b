"""Products of panels against exact products of integers by numpy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from hwgen.golden.int4 import E4M3_CODES, e4m3_values
from hwgen.golden.panels import E4m3Panel, IntegerPanel, Panel, TernaryPanel
from hwgen.int4 import WEIGHT_MAX
from hwgen.numerics import GROUP_SCALE_MAX

FINITE = [code for code in range(E4M3_CODES) if code & 0x7F != 0x7F]


def codes(values: list[list[int]] | np.ndarray) -> np.ndarray:
    return np.asarray(values, np.uint8).view(np.int8)


def values_of(q: np.ndarray) -> np.ndarray:
    return e4m3_values(torch.from_numpy(q).view(torch.uint8)).numpy().astype(np.int64)


@pytest.mark.parametrize("inputs", [2, 32, 576, 1600])
def test_e4m3_products_are_exact(inputs: int) -> None:
    rng = np.random.default_rng(inputs)
    weights = rng.integers(-WEIGHT_MAX, WEIGHT_MAX + 1, (24, inputs)).astype(np.int16)
    q = codes(rng.choice(FINITE, (3, inputs)))
    assert E4m3Panel(weights).products(q).tolist() == (values_of(q) @ weights.astype(np.int64).T).tolist()


@pytest.mark.parametrize("sign", [1, -1])
def test_e4m3_products_of_the_largest(sign: int) -> None:
    """Every code against weights at their bound, all of one sign: the sums that are hardest to hold."""
    n = 16384
    panel = E4m3Panel(np.full((2, n), sign * WEIGHT_MAX, np.int16))
    for first in range(0, len(FINITE), 50):
        of = FINITE[first : first + 50]
        q = codes(np.repeat(np.array(of)[:, None], n, axis=1))
        assert panel.products(q).tolist() == [[value * n * sign * WEIGHT_MAX] * 2 for value in values_of(q)[:, 0].tolist()]


def test_codes_of_nothing_are_refused() -> None:
    panel = E4m3Panel(np.ones((4, 8), np.int16))
    for code in (0x7F, 0xFF):
        with pytest.raises(ValueError, match="codes must be finite, not 0x7f or 0xff"):
            panel.products(codes([[0, 1, code, 3, 4, 5, 6, 7]]))


@pytest.mark.parametrize("tokens", [1, 2, 4, 8, 16, 24])
@pytest.mark.parametrize(("panel", "magnitude"), [(TernaryPanel, 1), (IntegerPanel, 1 << 12), (E4m3Panel, WEIGHT_MAX)])
def test_largest_products_of_any_number_of_tokens(panel: Callable[[np.ndarray], Panel], magnitude: int, tokens: int) -> None:
    """More weights than are made floats at a time, and most of either the largest: sums that grow in one direction."""
    rng = np.random.default_rng(tokens)
    w = (rng.choice([-1, 1, 1], (300, 1)) * rng.choice([0, magnitude, magnitude, magnitude - 1], (300, 1600))).astype(np.int16)
    largest = codes([[0x7E, 1], [0xFE, 0x81]]) if panel is E4m3Panel else np.array([[127, 1], [-128, -1]], np.int8)
    q = largest[rng.integers(2, size=(tokens, 1)), rng.choice([0, 0, 0, 1], (tokens, 1600))]
    expected = (values_of(q) if panel is E4m3Panel else q.astype(np.int64)) @ w.astype(np.int64).T
    assert panel(w).products(q).tolist() == expected.tolist()


@pytest.mark.parametrize("activation", [-128, 127])
def test_trits_of_more_inputs_than_float32_adds_up(activation: int) -> None:
    n = 3 * (1 << 17) + 7
    w = np.ones((3, n), np.int8)
    w[1], w[2, ::2] = -1, 0
    products = TernaryPanel(w).products(np.full((2, n), activation, np.int8))
    assert products.tolist() == [[activation * n, -activation * n, activation * (n // 2)]] * 2


@pytest.mark.parametrize("panel", [TernaryPanel, IntegerPanel])
def test_a_panel_of_one_input(panel: Callable[[np.ndarray], Panel]) -> None:
    q = np.arange(-128, 128).astype(np.int8)[:, None]
    assert panel(np.array([[-1], [0], [1]], np.int8)).products(q).tolist() == [[-value, 0, value] for value in q[:, 0].tolist()]


@pytest.mark.parametrize(("panel", "magnitude"), [(TernaryPanel, 1), (IntegerPanel, 127), (IntegerPanel, GROUP_SCALE_MAX)])
def test_int8_products_are_exact(panel: Callable[[np.ndarray], Panel], magnitude: int) -> None:
    """Of every pair of an activation and a weight, of any, and of the largest in rows longer than float32 can add up."""
    every, weights = np.arange(-127, 128, dtype=np.int8), np.arange(-magnitude, magnitude + 1, dtype=np.int16)
    pairs = panel(weights[:, None].repeat(2, 1)).products(every[:, None].repeat(2, 1))
    assert pairs.tolist() == (2 * np.multiply.outer(every.astype(int), weights)).tolist()
    rng = np.random.default_rng(magnitude)
    q, w = rng.choice(every, (5, 1600)), rng.choice(weights, (24, 1600))
    assert panel(w).products(q).tolist() == (q.astype(int) @ w.astype(int).T).tolist()
    for a, b in ((-127, magnitude), (127, magnitude), (-127, -magnitude)):
        of_one = panel(np.full((3, 16384), b, np.int16)).products(np.full((2, 16384), a, np.int8))
        assert of_one.tolist() == [[a * b * 16384] * 3] * 2


def test_activations_may_lie_in_a_wider_memory() -> None:
    rng = np.random.default_rng(1)
    memory, w = rng.integers(-127, 128, (6, 900), dtype=np.int8), rng.integers(-1, 2, (24, 640), dtype=np.int8)
    q = memory[:4, :640]
    for panel in (TernaryPanel(w), IntegerPanel(w.astype(np.int16))):
        assert panel.products(q).tolist() == (q.astype(int) @ w.astype(int).T).tolist()
