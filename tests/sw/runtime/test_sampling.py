from __future__ import annotations

import pytest

from hwgen.errors import HwgenError
from hwgen.sw.runtime.sampling import Sampling


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
        Sampling(**options)  # type: ignore[arg-type]  # by name


def test_defaults_are_greedy_and_change_nothing() -> None:
    assert Sampling() == Sampling(
        temperature=0, top_k=0, top_p=1, min_p=0, repetition_penalty=1, presence_penalty=0, frequency_penalty=0, logit_bias={},
        seed=0,
    )
    assert not Sampling().adjusts


@pytest.mark.parametrize("options", [
    {"temperature": 0}, {"temperature": 100.0}, {"top_p": 1}, {"top_p": 1e-9}, {"min_p": 1}, {"repetition_penalty": 0.01},
    {"repetition_penalty": 100}, {"presence_penalty": 2.0}, {"presence_penalty": -2}, {"frequency_penalty": 2.0},
    {"frequency_penalty": -1 - 1.0}, {"logit_bias": {0: 100.0, 7: -100.0}}, {"top_k": 10**6}, {"seed": 2**63},
])
def test_the_ends_of_what_is_legal(options: dict[str, float]) -> None:
    Sampling(**options)  # type: ignore[arg-type]  # by name


def test_candidates_are_enough() -> None:
    assert not Sampling().needs_logits(8) and not Sampling(temperature=1.0, top_k=8).needs_logits(8)
    assert Sampling(temperature=1.0, top_k=9).needs_logits(8) and Sampling(presence_penalty=1).needs_logits(8)
