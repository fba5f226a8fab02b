"""Penalties and biases, token by token, against the formula in plain numbers."""

from __future__ import annotations

import numpy as np
import pytest

from hwgen.sw.runtime.penalties import Penalties
from hwgen.sw.runtime.sampling import Sampling

LARGEST = float(np.finfo(np.float32).max)


def expected(s: Sampling, token: int, logit: float, seen: list[int], answer: list[int]) -> np.float32:
    """Divided or multiplied where it was seen, then less by presence and frequency, then biased."""
    if token in seen and s.repetition_penalty != 1:
        logit = logit / s.repetition_penalty if logit > 0 else logit * s.repetition_penalty
    if token in answer:
        logit -= s.presence_penalty + s.frequency_penalty * answer.count(token)
    return np.float32(min(max(logit + s.logit_bias.get(token, 0), -LARGEST), LARGEST))


@pytest.mark.parametrize("sampling", [
    Sampling(repetition_penalty=1.5), Sampling(repetition_penalty=0.5), Sampling(presence_penalty=0.75),
    Sampling(frequency_penalty=-0.25), Sampling(logit_bias={3: -2.5, 40: 1.0, 7: 0.125}),
    Sampling(repetition_penalty=1.25, presence_penalty=-0.5, frequency_penalty=0.25, logit_bias={9: 4.0, 1: -1.0}),
], ids=["repeated", "wanted again", "present", "frequent", "biased", "all"])
def test_logits_are_those_of_the_formula(sampling: Sampling) -> None:
    """For lists that grow token by token, over more tokens than there is room for at first."""
    rng = np.random.default_rng(5)
    logits = np.concatenate((rng.normal(0, 3, 48), [0.0, LARGEST])).astype(np.float32)
    prompt = [3, 9, 9, -1, 49, 48]  # -1 stands for a vector
    penalties, seen, answer = Penalties(sampling), list(prompt), list[int]()
    for new in [None, *rng.integers(0, 44, 40).tolist(), 5, 5, 5]:
        if new is not None:
            seen.append(new)
            answer.append(new)
        penalties.count(seen, answer)
        want = np.array([expected(sampling, t, float(x), seen, answer) for t, x in enumerate(logits)])
        assert [penalties.of(t, float(x)) for t, x in enumerate(logits)] == want.tolist()
        ids, changed = penalties.changed(logits)
        found = logits.copy()
        found[ids] = changed
        assert np.array_equal(found, want) and found.dtype == np.float32
        touched = set(sampling.logit_bias)
        touched |= {t for t in seen if t >= 0} if sampling.repetition_penalty != 1 else set()
        touched |= set(answer) if sampling.presence_penalty or sampling.frequency_penalty else set()
        assert sorted(ids.tolist()) == sorted(touched) and all((t in penalties) == (t in touched) for t in range(50))
    again, other = [1, 2], [2]
    penalties.count(again, other)  # another answer: nothing of the first is left
    assert [penalties.of(t, 1.5) for t in range(50)] == [expected(sampling, t, 1.5, again, other) for t in range(50)]
    penalties.count(again[:1], other)
    assert penalties.of(2, 1.5) == expected(sampling, 2, 1.5, [1], other)
    del other[:]
    penalties.count(again[:1], other)
    assert penalties.of(2, 1.5) == expected(sampling, 2, 1.5, [1], [])
    penalties.count(seen, answer)
    gone, grew = answer[-1], seen[0]
    seen.append(4)
    del answer[2:]  # the same lists: one grew, the other did not
    penalties.count(seen, answer)
    assert penalties.of(gone, 1.5) == expected(sampling, gone, 1.5, seen, answer)
    del seen[:1], seen[2:]
    answer += [7] * 3
    penalties.count(seen, answer)
    assert penalties.of(grew, 1.5) == expected(sampling, grew, 1.5, seen, answer)
    assert penalties.of(7, 1.5) == expected(sampling, 7, 1.5, seen, answer)
    seen += [1, 2, 3]
    penalties.count(seen, answer)
    penalties.count([*seen, 6], answer)  # other tokens before the same answer
    penalties.count([6, *seen[1:], 8, 8], answer)
    assert penalties.of(3, 1.5) == expected(sampling, 3, 1.5, [6, *seen[1:], 8, 8], answer)
    assert penalties.of(6, 1.5) == expected(sampling, 6, 1.5, [6, *seen[1:], 8, 8], answer)
    penalties.count(seen, [4, 4])
    penalties.count(seen, [9, 4, 9])  # another answer, longer than the last one
    assert penalties.of(4, 1.5) == expected(sampling, 4, 1.5, seen, [9, 4, 9])
    assert penalties.of(9, 1.5) == expected(sampling, 9, 1.5, seen, [9, 4, 9])


@pytest.mark.parametrize(("sampling", "lowers"), [
    (Sampling(), True), (Sampling(repetition_penalty=1.1, presence_penalty=0.1, frequency_penalty=0.1, logit_bias={1: -1}), True),
    (Sampling(logit_bias={1: 0.0}), True), (Sampling(repetition_penalty=0.99), False), (Sampling(presence_penalty=-0.01), False),
    (Sampling(frequency_penalty=-0.01), False), (Sampling(logit_bias={1: -1, 2: 0.01}), False),
])
def test_whether_no_logit_becomes_larger(sampling: Sampling, lowers: bool) -> None:
    assert Penalties(sampling).lowers is lowers


def test_more_tokens_than_small_numbers() -> None:
    penalties, seen = Penalties(Sampling(repetition_penalty=2.0)), list(range(1100))
    penalties.count(seen, [])
    assert penalties.changed(np.arange(1, 1101, dtype=np.float32))[1].tolist() == [x / 2 for x in range(1, 1101)]


@pytest.mark.parametrize("logit", [LARGEST, -LARGEST])
def test_the_largest_float_is_the_end(logit: float) -> None:
    penalties = Penalties(Sampling(repetition_penalty=0.5 if logit > 0 else 2.0))
    penalties.count([0], [0])
    assert penalties.of(0, logit) == logit and penalties.changed(np.array([logit], np.float32))[1].tolist() == [logit]
