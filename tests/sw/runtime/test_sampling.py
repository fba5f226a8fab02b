from __future__ import annotations

import numpy as np
import pytest

from hwgen.errors import HwgenError
from hwgen.sw.runtime import sampling
from hwgen.sw.runtime.sampling import Sampler, Sampling, token_logprobs

LOGITS = np.log(np.array([0.5, 0.25, 0.15, 0.1], np.float32))


def frequencies(**options: float) -> np.ndarray:
    sampler = Sampler(Sampling(seed=1, **options))  # type: ignore[arg-type]
    return np.bincount([sampler.choose(LOGITS, []) for _ in range(4000)], minlength=4) / 4000


def test_temperature() -> None:
    np.testing.assert_allclose(frequencies(temperature=1.0), [0.5, 0.25, 0.15, 0.1], atol=0.03)
    sharp = np.array([0.5, 0.25, 0.15, 0.1]) ** 2
    np.testing.assert_allclose(frequencies(temperature=0.5), sharp / sharp.sum(), atol=0.03)


def test_top_k_and_top_p_cut_the_tail() -> None:
    np.testing.assert_allclose(frequencies(temperature=1.0, top_k=2), [2 / 3, 1 / 3, 0, 0], atol=0.03)
    np.testing.assert_allclose(frequencies(temperature=1.0, top_p=0.6), [2 / 3, 1 / 3, 0, 0], atol=0.03)
    assert frequencies(temperature=1.0, top_p=0.01)[0] == 1
    assert frequencies(temperature=1.0, top_k=1)[0] == 1


def test_greedy_takes_the_smaller_id_of_equal_logits() -> None:
    assert Sampler(Sampling()).choose(np.array([1, 3, 3], np.float32), []) == 1


def test_repetition_penalty() -> None:
    sampler = Sampler(Sampling(repetition_penalty=2.0))
    assert sampler.choose(np.array([3, 2, -1], np.float32), [0]) == 1
    assert sampler.choose(np.array([-1, -1.5, -3], np.float32), [0, 0]) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -1}, {"temperature": float("inf")}, {"temperature": float("nan")}, {"top_k": -1}, {"top_k": 1.5},
        {"top_p": 0}, {"top_p": 1.5}, {"top_p": float("nan")}, {"repetition_penalty": 0}, {"repetition_penalty": 1e-320},
        {"min_p": -0.1}, {"min_p": 1.5}, {"min_p": float("nan")}, {"presence_penalty": 2.5}, {"frequency_penalty": float("nan")},
        {"logit_bias": {1: float("nan")}}, {"logit_bias": {-1: 1.0}}, {"logit_bias": {1: 101.0}},
        {"repetition_penalty": float("inf")}, {"repetition_penalty": float("nan")}, {"seed": -1}, {"seed": 0.5},
    ],
)
def test_bad_options(options: dict[str, float]) -> None:
    with pytest.raises(HwgenError, match=f"{next(iter(options))} must be"):
        Sampling(**options)  # type: ignore[arg-type]


def by_sorting(options: Sampling, logits: np.ndarray, random: np.random.Generator) -> int:
    """The definition: all tokens sorted, then cut by top-k, min-p and top-p, then drawn."""
    scores = logits.astype(np.float64)
    order = np.argsort(-scores, kind="stable")[: options.top_k or None]
    with np.errstate(over="ignore"):
        weights = np.exp((scores[order] - scores[order[0]]) / options.temperature)
    order, weights = order[weights >= options.min_p], weights[weights >= options.min_p]
    weights /= weights.sum()
    if options.top_p < 1:
        kept = int(np.searchsorted(np.cumsum(weights), options.top_p)) + 1
        order, weights = order[:kept], weights[:kept] / weights[:kept].sum()
    return int(random.choice(order, p=weights))


@pytest.mark.parametrize("vocabulary", [1, 5, 259, 3000])
@pytest.mark.parametrize("spread", [0.0, 0.01, 1.0, 10.0, 1e37])
def test_draws_are_those_of_a_sorted_vocabulary(vocabulary: int, spread: float) -> None:
    """Rounded logits have many equal ones; draws go on from one random generator."""
    random = np.random.default_rng(vocabulary)
    for case in range(40):
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
        sampler, sorting = Sampler(options), np.random.default_rng(case)
        assert [sampler.choose(logits, []) for _ in range(5)] == [by_sorting(options, logits, sorting) for _ in range(5)]


@pytest.mark.parametrize("options", [{}, {"top_p": 0.9}, {"top_p": 0.6}, {"top_p": 0.2}], ids=str)
@pytest.mark.parametrize("near", [0.01, 1.0])
def test_draws_among_tokens_that_are_not_ranked(options: dict[str, float], near: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rejection draws each token with its own probability, whichever are ranked: chi-squared over 3000 draws."""
    monkeypatch.setattr(sampling, "NEAR", near)
    logits = np.random.default_rng(2).standard_normal(12).astype(np.float32)
    order = np.argsort(-logits, kind="stable")
    weights = np.exp(logits[order].astype(np.float64) / 0.7)
    weights /= weights.sum()
    kept = int(np.searchsorted(np.cumsum(weights), options.get("top_p", 1.0) - 1e-12)) + 1
    expected = np.zeros(12)
    expected[order[:kept]] = weights[:kept] / weights[:kept].sum()
    sampler = Sampler(Sampling(temperature=0.7, seed=4, **options))  # type: ignore[arg-type]  # by name
    found = np.bincount([sampler.choose(logits, []) for _ in range(3000)], minlength=12)
    assert not found[expected == 0].any()
    possible = expected > 0
    statistic = ((found - 3000 * expected)[possible] ** 2 / (3000 * expected[possible])).sum()
    assert statistic < 33  # 11 degrees of freedom: one in two thousand; the seed is fixed


@pytest.mark.parametrize("top_k", [1, 3, 8])
@pytest.mark.parametrize("top_p", [1.0, 0.8])
def test_candidates_give_the_token_that_all_logits_give(top_k: int, top_p: float) -> None:
    for case in range(40):
        logits = np.round(2 * np.random.default_rng(case).standard_normal(50)).astype(np.float32)  # many equal ones
        options = Sampling(temperature=0.8, top_k=top_k, top_p=top_p, seed=case)
        best = np.argsort(-logits, kind="stable")[:8]
        assert not options.needs_logits(8) and Sampling(temperature=1.0, top_k=9).needs_logits(8)
        one, other = Sampler(options), Sampler(options)
        for _ in range(5):
            assert one.choose_candidate(best.tolist(), logits[best]) == other.choose(logits, [])


def test_what_a_growing_list_has_is_counted_once() -> None:
    options = Sampling(frequency_penalty=0.5, repetition_penalty=1.3)
    sampler, answer = Sampler(options), list(range(20))
    for case in range(30):
        logits = np.random.default_rng(case).standard_normal(40).astype(np.float32)
        assert sampler.choose(logits, answer, answer) == Sampler(options).choose(logits, list(answer), list(answer))
        answer.append(case % 7)
        if case == 20:
            answer = answer[:5]


def test_min_p() -> None:
    np.testing.assert_allclose(frequencies(temperature=1.0, min_p=0.4), [2 / 3, 1 / 3, 0, 0], atol=0.03)
    assert frequencies(temperature=1.0, min_p=1.0)[0] == 1


def test_penalties_of_the_answer() -> None:
    logits = np.array([3, 2.5, 2.1], np.float32)
    assert Sampler(Sampling(presence_penalty=1)).choose(logits, [0, 0], []) == 0  # tokens of the prompt are not penalised
    assert Sampler(Sampling(presence_penalty=1)).choose(logits, [0, 0], [0, 0]) == 1
    assert Sampler(Sampling(frequency_penalty=0.3)).choose(logits, [0], [0]) == 0
    assert Sampler(Sampling(frequency_penalty=0.3)).choose(logits, [0, 0], [0, 0]) == 1


def test_bias_and_mask() -> None:
    assert Sampler(Sampling(logit_bias={2: 100, 0: -100})).choose(LOGITS, []) == 2
    for options in (Sampling(), Sampling(temperature=1.0), Sampling(temperature=1.0, top_k=2, logit_bias={0: 100})):
        assert Sampler(options).choose(LOGITS, [], [], np.array([False, False, True, False])) == 2
    with pytest.raises(ValueError, match="must be allowed"):
        Sampler(Sampling()).choose(LOGITS, [], [], np.zeros(4, bool))


def test_logprobs() -> None:
    result = token_logprobs(LOGITS + np.float32(7), 3, 2)
    assert [token for token, _ in result.top] == [0, 1]
    np.testing.assert_allclose([result.logprob, *(x for _, x in result.top)], np.log([0.1, 0.5, 0.25]), atol=1e-5)
    assert token_logprobs(LOGITS, 0, 0).top == ()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "options", [{"temperature": 5e-324}, {"temperature": 100.0}, {"repetition_penalty": 100.0, "temperature": 1e-9}]
)
def test_options_at_their_limits_choose_a_token(options: dict[str, float]) -> None:
    logits = np.array([1, 3e38, -3e38, 0, 2.5], np.float32)
    assert 0 <= Sampler(Sampling(**options)).choose(logits, [1, 4]) < 5  # type: ignore[arg-type]
