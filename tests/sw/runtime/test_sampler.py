from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hwgen.draw import GREEDY, draw_key
from hwgen.registers import DRAW_COUNT
from hwgen.sw.runtime.penalties import Penalties
from hwgen.sw.runtime.sampler import Sampler
from hwgen.sw.runtime.sampling import Sampling

from .plain_draw import predicted

LOGITS = np.log(np.array([0.5, 0.25, 0.15, 0.1], np.float32))


def chosen(options: Sampling, logits: np.ndarray | list[float], *lists: list[int], allowed: np.ndarray | None = None) -> int:
    """What a new sampler chooses, of three candidates and of all."""
    logits = np.asarray(logits, np.float32)
    few, all_known = (Sampler(options).choose(predicted(logits, count), 0, *lists, allowed=allowed) for count in (3, 8))
    assert options.temperature or few == all_known
    return few


def frequencies(**options: float) -> np.ndarray:
    sampler = Sampler(Sampling(seed=1, **options))  # type: ignore[arg-type]  # by name
    return np.bincount([sampler.choose(predicted(LOGITS, 2), position) for position in range(4000)], minlength=4) / 4000


def test_temperature() -> None:
    np.testing.assert_allclose(frequencies(temperature=1.0), [0.5, 0.25, 0.15, 0.1], atol=0.03)
    sharp = np.array([0.5, 0.25, 0.15, 0.1]) ** 2
    np.testing.assert_allclose(frequencies(temperature=0.5), sharp / sharp.sum(), atol=0.03)


def test_draws_that_the_machine_could_make() -> None:
    """Of candidates alone, in integers: by seed and position, whatever was drawn before; others where positions come again."""
    logits = np.random.default_rng(2).standard_normal(30).astype(np.float32)
    prediction, sampling = predicted(logits), Sampling(temperature=0.7, top_k=5, seed=9)
    draw = Sampler(sampling).machine_draw(8)
    assert draw is not None and (draw.count, draw.scale) == (5, round(2**16 * np.log2(np.e) / 0.7))
    bits = [int(np.float32(x).view(np.uint32)) for x in sorted(logits, reverse=True)]
    expected = [prediction.tokens[draw.choose(bits[:8], position)] for position in range(100)]
    sampler = Sampler(sampling)
    order = np.random.default_rng(3).permutation(100)
    assert [sampler.choose(prediction, int(position)) for position in order] == [expected[i] for i in order]
    assert prediction._logits is None and set(expected) == set(prediction.tokens[:5])
    sampler.begin_anew()
    assert sampler.machine_draw(8) == replace(draw, key=draw_key(9, 1)) != draw and draw.key == draw_key(9, 0)
    assert [sampler.choose(prediction, i) for i in range(100)] != expected
    other = Sampler(Sampling(temperature=0.7, top_k=5, seed=10))
    assert [other.choose(prediction, i) for i in range(100)] != expected


def test_as_many_candidates_as_the_register_can_say() -> None:
    most = (1 << DRAW_COUNT.width) - 1
    draws = [Sampler(Sampling(temperature=1.0, top_k=top_k)).machine_draw(2 * most) for top_k in (1, most, most + 1)]
    assert [draw and draw.count for draw in draws] == [1, most, None]


@pytest.mark.parametrize("options", [
    {"top_k": 9}, {"top_k": 0}, {"top_k": 3, "top_p": 0.9}, {"top_k": 3, "min_p": 0.1}, {"top_k": 3, "presence_penalty": 1.0},
    {"top_k": 3, "logit_bias": {1: 2.0}}, {"top_k": 3, "temperature": 0.001}, {"top_k": 3, "temperature": 5e-324},
], ids=str)
def test_draws_that_the_machine_could_not_make(options: dict[str, float]) -> None:
    assert Sampler(Sampling(**{"temperature": 1.0, **options})).machine_draw(8) is None  # type: ignore[arg-type]  # by name
    assert Sampler(Sampling(top_k=3)).machine_draw(8) == GREEDY, "temperature 0 is greedy"


def test_top_k_and_top_p_cut_the_tail() -> None:
    np.testing.assert_allclose(frequencies(temperature=1.0, top_k=2), [2 / 3, 1 / 3, 0, 0], atol=0.03)
    np.testing.assert_allclose(frequencies(temperature=1.0, top_p=0.6), [2 / 3, 1 / 3, 0, 0], atol=0.03)
    assert frequencies(temperature=1.0, top_p=0.01)[0] == 1
    assert frequencies(temperature=1.0, top_k=1)[0] == 1


def test_greedy_takes_the_smaller_id_of_equal_logits() -> None:
    assert chosen(Sampling(), [1, 3, 3]) == 1
    assert chosen(Sampling(logit_bias={0: -1}), [5, 4, 4, 4, 4]) == 0
    assert chosen(Sampling(logit_bias={4: 1, 0: -2}), [5, 4, 4, 4, 3]) == 1
    assert chosen(Sampling(logit_bias={0: -9, 1: -9, 2: -9}), [5, 4, 4, 3, 3]) == 3


def test_repetition_penalty() -> None:
    assert chosen(Sampling(repetition_penalty=2.0), [3, 2, -1], [0]) == 1
    assert chosen(Sampling(repetition_penalty=2.0), [-1, -1.5, -3], [0, 0]) == 1
    assert chosen(Sampling(repetition_penalty=0.5), [-1, -1.5, 3, 4], [2]) == 2


@pytest.mark.parametrize("options", [
    {"repetition_penalty": 1.7, "frequency_penalty": 0.5}, {"repetition_penalty": 0.6, "presence_penalty": -0.7},
    {"logit_bias": {3: -4.0, 9: 2.0}},
], ids=str)
def test_one_logit_is_changed_as_all_are(options: dict[str, Any]) -> None:
    penalties, logits = Penalties(Sampling(**options)), np.random.default_rng(4).standard_normal(20).astype(np.float32)
    penalties.count([1, 2, 2, 5], [2, 5, 5])
    ids, scores = penalties.changed(logits)
    assert [penalties.of(token, float(logits[token])) for token in ids.tolist()] == scores.tolist()
    assert penalties.of(19, 1.5) == 1.5 and 19 not in penalties
    assert penalties.lowers == bool((scores <= logits[ids]).all())


def test_what_a_growing_list_has_is_counted_once() -> None:
    options = Sampling(frequency_penalty=0.5, repetition_penalty=1.3)
    sampler, answer = Sampler(options), list(range(20))
    for case in range(30):
        logits = np.random.default_rng(case).standard_normal(40).astype(np.float32)
        assert sampler.choose(predicted(logits), case, answer, answer) == chosen(options, logits, list(answer), list(answer))
        answer.append(case % 7)
        if case == 20:
            answer = answer[:5]


def test_min_p() -> None:
    np.testing.assert_allclose(frequencies(temperature=1.0, min_p=0.4), [2 / 3, 1 / 3, 0, 0], atol=0.03)
    assert frequencies(temperature=1.0, min_p=1.0)[0] == 1


def test_penalties_of_the_answer() -> None:
    logits = [3, 2.5, 2.1]
    assert chosen(Sampling(presence_penalty=1), logits, [0, 0], []) == 0  # tokens of the prompt are not penalised
    assert chosen(Sampling(presence_penalty=1), logits, [0, 0], [0, 0]) == 1
    assert chosen(Sampling(frequency_penalty=0.3), logits, [0], [0]) == 0
    assert chosen(Sampling(frequency_penalty=0.3), logits, [0, 0], [0, 0]) == 1


def test_bias_and_mask() -> None:
    assert chosen(Sampling(logit_bias={2: 100, 0: -100}), LOGITS) == 2
    for options in (Sampling(), Sampling(temperature=1.0), Sampling(temperature=1.0, top_k=2, logit_bias={0: 100})):
        for token in (2, 3):  # one of the candidates, and one that is not
            assert chosen(options, LOGITS, [], [], allowed=np.arange(4) == token) == token
    with pytest.raises(ValueError, match="must be allowed"):
        chosen(Sampling(), LOGITS, [], [], allowed=np.zeros(4, bool))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "options", [{"temperature": 5e-324}, {"temperature": 100.0}, {"repetition_penalty": 100.0, "temperature": 1e-9}]
)
def test_options_at_their_limits_choose_a_token(options: dict[str, float]) -> None:
    logits = np.array([1, 3e38, -3e38, 0, 2.5], np.float32)
    assert 0 <= chosen(Sampling(**options), logits, [1, 4]) < 5  # type: ignore[arg-type]  # by name
