"""Draws from all logits."""

from __future__ import annotations

import numpy as np
import pytest

from hwgen.sw.runtime import ranking
from hwgen.sw.runtime.ranking import RankedDraw, likely_of
from hwgen.sw.runtime.sampling import Sampling

from .plain_draw import by_sorting, kept


def drawn(logits: np.ndarray, options: Sampling, random: np.random.Generator) -> int:
    return RankedDraw(logits, options, random, float(logits.max())).token()


@pytest.mark.parametrize("size", [*range(1, 26), 3000])
def test_likely_ones_are_found_eight_at_a_time(size: int) -> None:
    """None, some and all of them, the first and the last among them."""
    scores = np.random.default_rng(size).standard_normal(size).astype(np.float32)
    for least in (-np.inf, -1.0, 1.0, 2.5, np.inf, scores[0], scores[-1], scores.max()):
        assert likely_of(scores, np.float32(least)).tolist() == np.flatnonzero(scores >= np.float32(least)).tolist()


@pytest.mark.parametrize("vocabulary", [1, 5, 259, 3000])
@pytest.mark.parametrize("spread", [0.0, 0.01, 1.0, 10.0, 1e37])
def test_draws_are_those_of_a_sorted_vocabulary(vocabulary: int, spread: float) -> None:
    """Rounded logits have many equal ones; draws go on from one random generator."""
    random = np.random.default_rng(vocabulary)
    for case in range(20):
        logits = (random.standard_normal(vocabulary) * spread).astype(np.float32)
        if case % 3 == 0:
            logits = np.round(logits)
        options = Sampling(
            temperature=float(random.choice([1e-3, 0.1, 0.7, 1, 2])),
            top_k=int(random.choice([0, 0, 1, 40, 400])),
            top_p=float(random.choice([1, 1, 0.93, 0.57, 0.011])),
            min_p=float(random.choice([0, 0, 0.051, 0.83])),
            seed=case,
        )
        if options.min_p == options.top_k == 0:  # only such draws are in this order: others are by rejection
            logits = np.maximum(logits, np.float32(logits.max() - 11.9 * options.temperature))
        one, other, scores = np.random.default_rng(case), np.random.default_rng(case), dict(enumerate(logits.tolist()))
        assert [drawn(logits, options, one) for _ in range(5)] == [by_sorting(options, scores, other) for _ in range(5)]


@pytest.mark.parametrize("options", [{}, {"top_p": 0.9}, {"top_p": 0.6}, {"top_p": 0.2}], ids=str)
@pytest.mark.parametrize("near", [0.01, 1.0])
def test_draws_among_tokens_that_are_not_ranked(options: dict[str, float], near: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rejection draws each token with its own probability, whichever are ranked: chi-squared over 3000 draws."""
    monkeypatch.setattr(ranking, "NEAR", near)
    logits = np.random.default_rng(2).standard_normal(12).astype(np.float32)
    order = np.argsort(-logits, kind="stable")
    weights = np.exp(logits[order].astype(np.float64) / 0.7)
    weights /= weights.sum()
    kept = int(np.searchsorted(np.cumsum(weights), options.get("top_p", 1.0) - 1e-12)) + 1
    expected = np.zeros(12)
    expected[order[:kept]] = weights[:kept] / weights[:kept].sum()
    sampling, random = Sampling(temperature=0.7, **options), np.random.default_rng(4)  # type: ignore[arg-type]  # by name
    found = np.bincount([drawn(logits, sampling, random) for _ in range(3000)], minlength=12)
    assert not found[expected == 0].any()
    possible = expected > 0
    statistic = ((found - 3000 * expected)[possible] ** 2 / (3000 * expected[possible])).sum()
    assert statistic < 33  # 11 degrees of freedom: one in two thousand; the seed is fixed


@pytest.mark.parametrize("near", [0.01, 1.0, 12.0])
@pytest.mark.parametrize(
    "options", [{"top_p": 0.9}, {"top_p": 0.3}, {"top_k": 5}, {"min_p": 0.2}, {"top_k": 9, "top_p": 0.6}], ids=str
)
def test_what_is_left_does_not_depend_on_what_is_ranked(
    options: dict[str, float], near: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "NEAR", near)
    logits = np.round(2 * np.random.default_rng(3).standard_normal(60)).astype(np.float32)
    sampling = Sampling(temperature=0.7, **options)  # type: ignore[arg-type]  # by name
    left = kept(sampling, dict(enumerate(logits.tolist())))[0]
    for token in range(60):
        draw = RankedDraw(logits, sampling, np.random.default_rng(0), float(logits.max()))
        assert draw.keeps(token) == (token in left)
