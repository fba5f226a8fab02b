"""Draws from candidates, against the definition."""

from __future__ import annotations

import numpy as np
import pytest

from hwgen.sw.runtime import candidate_draw
from hwgen.sw.runtime.sampler import Sampler
from hwgen.sw.runtime.sampling import Sampling

from .plain_draw import by_definition, kept, predicted


def some_options(random: np.random.Generator, seed: int, penalties: bool) -> Sampling:
    more = {
        "repetition_penalty": float(random.choice([1, 1.2, 0.8])), "presence_penalty": float(random.choice([0, 0.5])),
        "frequency_penalty": float(random.choice([0, 0.3, -0.3])), "logit_bias": {0: 1.5} if random.random() < 0.3 else {},
    }
    return Sampling(
        temperature=float(random.choice([1e-3, 0.3, 1, 3, 100])), top_k=int(random.choice([0, 0, 1, 5, 20])),
        top_p=float(random.choice([1, 1, 0.93, 0.57, 1e-9])), min_p=float(random.choice([0, 0, 0.051, 0.83])), seed=seed,
        **(more if penalties else {}),  # type: ignore[arg-type]  # by name
    )


@pytest.mark.parametrize("penalties", [False, True])
@pytest.mark.parametrize("vocabulary", [1, 7, 8, 9, 300])
def test_draws_are_those_of_the_definition(vocabulary: int, penalties: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With few and many looks, equal logits, and tokens of minus infinity; draws go on from one random generator."""
    random = np.random.default_rng(vocabulary)
    for case in range(120):
        most, block = random.choice([5, 64, 8192]), random.choice([3, 64, 2048])
        for name, value in (("MOST", int(most)), ("BLOCK", int(block))):
            monkeypatch.setattr(candidate_draw, name, value)
            monkeypatch.setattr(f"{__package__}.plain_draw.{name}", value)
        options = some_options(random, case, penalties)
        logits = (random.standard_normal(vocabulary) * random.choice([0.01, 1, 5])).astype(np.float32)
        if case % 3 == 0:
            logits = np.round(logits)
        if options.min_p == options.top_k == 0:  # where all are ranked: only such draws are in the order of the definition
            logits = np.maximum(logits, np.float32(logits.max() - 4 * min(options.temperature, 1)))
        elif case % 4 == 0 and vocabulary > 1:
            logits[random.integers(0, vocabulary, vocabulary // 3)] = -np.inf
            logits[0] = 1
        if options.adjusts:
            options = Sampling(**{**options.__dict__, "temperature": max(options.temperature, 1.0)})
        seen, answer = random.integers(0, vocabulary, 12).tolist(), random.integers(0, vocabulary, 5).tolist()
        sampler, definition = Sampler(options), np.random.default_rng(case)
        if sampler.machine_draw(min(8, vocabulary)) is not None:
            continue  # not drawn here
        for position in range(4):
            found = sampler.choose(predicted(logits), position, seen, answer)
            assert found == by_definition(options, logits, definition, 8, seen, answer), (case, options)


@pytest.mark.parametrize(
    "options",
    [{}, {"top_p": 0.9}, {"top_k": 12}, {"top_k": 2}, {"min_p": 0.1}, {"presence_penalty": 1.0, "frequency_penalty": 0.5}], ids=str,
)
def test_every_token_has_its_probability(options: dict[str, float]) -> None:
    """Chi-squared over 4000 draws with three candidates of 20 tokens."""
    logits = np.random.default_rng(5).standard_normal(20).astype(np.float32)
    sampling, answer = Sampling(temperature=0.8, seed=6, **options), [4, 4, 7, int(logits.argmax())]  # type: ignore[arg-type]  # by name
    scores = {i: float(x) for i, x in enumerate(logits)}
    for token in set(answer) if options.get("presence_penalty") else ():
        scores[token] -= 1 + 0.5 * answer.count(token)
    left, weights = kept(sampling, scores)
    expected = np.zeros(20)
    expected[left] = 4000 * weights
    sampler = Sampler(sampling)
    found = np.bincount([sampler.choose(predicted(logits, 3), i, answer, answer) for i in range(4000)], minlength=20)
    assert not found[expected == 0].any()
    possible = expected > 0
    assert ((found - expected)[possible] ** 2 / expected[possible]).sum() < 45  # 19 degrees of freedom: one in a thousand


def test_a_large_vocabulary() -> None:
    """128,256 tokens, of which the machine gives eight: the definition looks at thousands."""
    logits = np.random.default_rng(1).permutation(10 - 1.5 * np.log(np.arange(1, 128_257))).astype(np.float32)
    options = Sampling(temperature=0.8, seed=1)
    sampler, definition = Sampler(options), np.random.default_rng(1)
    found = [sampler.choose(predicted(logits), position) for position in range(6)]
    assert found == [by_definition(options, logits, definition, 8) for _ in range(6)] and len(set(found)) > 1


def test_logits_are_left_alone_where_candidates_decide() -> None:
    logits = np.array([30, 1, 2, 3, 4, 5, 6, 7, 8, 9], np.float32)
    for options in (Sampling(), Sampling(temperature=0.5, min_p=0.1), Sampling(temperature=1.0, top_k=8)):
        prediction = predicted(logits)
        assert Sampler(options).choose(prediction, 0) == 0 and prediction._logits is None
