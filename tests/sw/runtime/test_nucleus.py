"""What top-p leaves of all logits, against the definition: sums of all probabilities in float64."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from hwgen.sw.analysis.host_cost import peaked_logits
from hwgen.sw.runtime import ranking
from hwgen.sw.runtime.ranking import LINE, NOTHING, ROUNDING, RankedDraw
from hwgen.sw.runtime.sampler import Sampler
from hwgen.sw.runtime.sampling import Sampling

from .plain_draw import predicted

#: So near to p the order of a sum decides.
UNSURE = 1e-12


def before_each(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Of every token the probability of all that come before it: likelier ones, and equal ones with a smaller id."""
    order = np.argsort(-logits, kind="stable")
    weights = np.exp((logits[order].astype(np.float64) - float(logits.max())) / max(temperature, 1e-200))
    weights /= weights.sum()
    before = np.zeros(logits.size)
    before[order] = np.concatenate(([0.0], np.cumsum(weights)[:-1]))
    before[logits == -np.inf] = 2.0
    return before


def some_logits(kind: str, size: int, random: np.random.Generator) -> np.ndarray:
    logits = {
        "peaked": lambda: random.permutation(10 - 1.5 * np.log(np.arange(1, size + 1))),
        "flat": lambda: random.standard_normal(size) * 0.01,
        "wide": lambda: random.standard_normal(size) * 30 - 50,
        "normal": lambda: random.standard_normal(size) * 3,
        "equal": lambda: np.zeros(size),
        "steps": lambda: np.round(random.standard_normal(size) * 3),
        "holes": lambda: np.where(random.random(size) < 0.7, -np.inf, random.standard_normal(size) * 4),
        "far": lambda: np.where(random.random(size) < 0.5, -3e38, random.standard_normal(size)),
    }[kind]().astype(np.float32)
    logits[random.integers(0, size)] = max(float(logits.max()), 0.0)
    return logits


KINDS = ["peaked", "flat", "wide", "normal", "equal", "steps", "holes", "far"]


def draw(logits: np.ndarray, temperature: float, p: float) -> RankedDraw:
    sampling = Sampling(temperature=temperature, top_p=p)
    return RankedDraw(logits, sampling, np.random.default_rng(0), float(logits.max()))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 2, 9, 300, 3000])
def test_what_is_left(kind: str, size: int) -> None:
    """Tokens on both sides of the end of what is left, others at random; whatever else was looked at before."""
    random = np.random.default_rng([size, KINDS.index(kind)])
    for temperature in (float(random.choice([1e-300, 1e-44, 1e-3, 0.1])), 0.8, float(random.choice([1.0, 3.0, 100.0]))):
        logits = some_logits(kind, size, random)
        before = before_each(logits, temperature)
        at = float(random.choice(before[before < 1]))
        edges = min(max(at, 1e-9) * (1 + 1e-9), 1.0), max(at * (1 - 1e-9), 1e-9)
        for p in (float(random.choice([1e-12, 0.3])), 0.95, float(random.choice([1 - 1e-9, 1 - 1e-15])), *edges):
            nearest = np.argsort(np.abs(before - p), kind="stable")[:4]
            one = draw(logits, temperature, p)
            for token in (*nearest.tolist(), *random.integers(0, size, 2).tolist()):
                if p < 1 and abs(before[token] - p) > UNSURE:
                    expected = bool(before[token] < p)
                    assert draw(logits, temperature, p).keeps(token) == expected == one.keeps(token), (temperature, p, token)


@pytest.mark.parametrize("kind", KINDS)
def test_bounds_hold(kind: str) -> None:
    """What the others weigh lies between the bounds, each time that they are looked at closer; all are ranked soon."""
    random = np.random.default_rng(KINDS.index(kind))
    for temperature in (1e-3, 0.05, 0.3, 0.8, 2.0):
        logits = some_logits(kind, 5000, random)
        one = draw(logits, temperature, 0.95)
        weights = np.exp((logits.astype(np.float64) - one._best) / temperature)
        looks = 0
        while one._rest:
            looks += 1
            assert looks <= len(ranking.COUNTED) + 2 * math.ceil((ranking.FAR - ranking.NEAR) / ranking.FURTHER + 1)
            ranked = np.zeros(logits.size, bool)
            ranked[one._ids] = True
            others = weights[~ranked].sum() / weights[ranked].sum()
            least, most = one._bounds
            assert least * (1 - 1e-9) <= others <= most * (1 + 1e-9) + NOTHING
            if one._lines and others > 1e-20:
                assert most <= others * LINE * (1 + ROUNDING) ** 2 and least >= others / LINE * (1 - ROUNDING) ** 2
            one._look_closer()


def test_a_line_is_larger_than_a_power_by_its_factor() -> None:
    x = np.linspace(0, 1, 100_001)
    ratio = (1 + x) / 2**x
    assert ratio.min() == 1 and LINE - 1e-4 < ratio.max() < LINE
    assert 2 / (math.e * math.log(2)) < LINE


@pytest.mark.parametrize("power", [6.0, 12.0, 86.0])
def test_a_threshold_is_low_enough(power: float) -> None:
    """Rounding makes no token likelier than the bound by which it is drawn."""
    random = np.random.default_rng(int(power))
    for _ in range(500):
        logit = float(np.float32(random.standard_normal() * 10.0 ** random.integers(-44, 5)))
        temperature = float(10.0 ** random.uniform(-46, 2))
        least = ranking.less_likely(logit, power, temperature)
        assert Fraction(float(least)) <= Fraction(logit) - Fraction(power) * Fraction(temperature)


@pytest.mark.parametrize("p", [0.5, 0.9500478])
def test_a_large_vocabulary(p: float) -> None:
    """128,256 tokens: those around the end, the last but few, and what is drawn of them."""
    logits = peaked_logits(128_256, 3)
    before = before_each(logits, 0.8)
    order = np.argsort(before)
    end = int(np.searchsorted(before[order], p))
    for token in (*order[max(0, end - 3) : end + 3].tolist(), *order[[0, end // 2, 2 * end, 40_000, -1]].tolist()):
        assert draw(logits, 0.8, p).keeps(token) == (before[token] < p)
    sampling = Sampling(temperature=0.8, top_p=p, seed=5)
    one, other = Sampler(sampling), Sampler(sampling)
    found = [one.choose(predicted(logits), i) for i in range(30)]
    assert found == [other.choose(predicted(logits), i) for i in range(30)] and (before[found] < p).all()


@pytest.mark.parametrize("kind", ["peaked", "normal", "steps", "holes"])
@pytest.mark.parametrize(("candidates", "near"), [(1, 0.5), (3, 12.0)])
def test_every_token_has_its_probability(kind: str, candidates: int, near: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chi-squared over 1500 draws, with more equal tokens than candidates."""
    monkeypatch.setattr(ranking, "NEAR", near)
    logits = some_logits(kind, 24, np.random.default_rng(11))
    logits[3:8] = logits[3]
    before, weights = before_each(logits, 0.9), np.exp((logits.astype(np.float64) - float(logits.max())) / 0.9)
    expected = np.where(before < 0.85, weights, 0.0)
    expected *= 1500 / expected.sum()
    sampler = Sampler(Sampling(temperature=0.9, top_p=0.85, seed=2))
    found = np.bincount([sampler.choose(predicted(logits, candidates), i) for i in range(1500)], minlength=24)
    possible = expected > 0
    assert not found[~possible].any()
    freedom = int(possible.sum()) - 1
    statistic = float(((found - expected)[possible] ** 2 / expected[possible]).sum())
    assert statistic < freedom + 3.3 * math.sqrt(2 * freedom) + 6  # one in two thousand or less; seeds are fixed


def test_the_choice_of_a_seed_is_that_of_the_whole_order() -> None:
    """Where all is ranked, the number that says how far the sum goes says the token."""
    for seed in range(40):
        logits = some_logits("steps", 200, np.random.default_rng(seed))
        logits = np.maximum(logits, np.float32(logits.max() - 9))
        order = np.argsort(-logits, kind="stable")
        weights = np.exp((logits[order].astype(np.float64) - float(logits.max())) / 0.8)
        sums = np.cumsum(weights / weights.sum())
        kept = sums[np.searchsorted(sums, 0.9)]
        place = np.random.default_rng(seed).random() * kept
        one = RankedDraw(logits, Sampling(temperature=0.8, top_p=0.9), np.random.default_rng(seed), float(logits.max()))
        assert one.token() == order[np.searchsorted(sums, place)]
