from __future__ import annotations

import numpy as np
import pytest

from hwgen.errors import HwgenError
from hwgen.sw.runtime.sampling import Sampler, Sampling

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
        {"repetition_penalty": float("inf")}, {"repetition_penalty": float("nan")}, {"seed": -1}, {"seed": 0.5},
    ],
)
def test_bad_options(options: dict[str, float]) -> None:
    with pytest.raises(HwgenError, match=f"{next(iter(options))} must be"):
        Sampling(**options)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "options", [{"temperature": 5e-324}, {"temperature": 100.0}, {"repetition_penalty": 100.0, "temperature": 1e-9}]
)
def test_options_at_their_limits_choose_a_token(options: dict[str, float]) -> None:
    logits = np.array([1, 3e38, -3e38, 0, 2.5], np.float32)
    assert 0 <= Sampler(Sampling(**options)).choose(logits, [1, 4]) < 5  # type: ignore[arg-type]
