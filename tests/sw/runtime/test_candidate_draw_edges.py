"""Draws at the edges of what min-p, top-k and top-p leave, where logits are equal."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hwgen.errors import HwgenError
from hwgen.sw.runtime.sampler import Sampler
from hwgen.sw.runtime.sampling import Sampling

from .plain_draw import predicted

#: Three equal best tokens, then some that are e times less likely each.
LOGITS = np.array([2, 5, 5, 4, 5, 3, 2, 1, 0, -1, -2, -3], np.float32)


def drawn(logits: np.ndarray, masked: bool = False, count: int = 120, **options: Any) -> set[int]:
    """Tokens that are drawn; ``masked``: where all tokens are allowed, which takes another way."""
    sampler, found = Sampler(Sampling(**{"temperature": 1.0, "seed": 3} | options)), set[int]()
    allowed = np.ones(logits.size, np.bool_) if masked else None
    for position in range(count):
        found.add(sampler.choose(predicted(logits), position, [], [], allowed))
    return found


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("options", [{}, {"logit_bias": {11: 1.0}}, {"logit_bias": {11: -1.0}}], ids=["plain", "raised", "lowered"])
def test_equal_tokens(masked: bool, options: dict[str, Any]) -> None:
    """Min-p of one leaves all that are as likely as the best; top-k and top-p take those with smaller ids first."""
    assert drawn(LOGITS, masked, min_p=1.0, **options) == {1, 2, 4}
    assert drawn(LOGITS, masked, top_k=2, **options) == {1, 2}
    assert drawn(LOGITS, masked, top_k=3, **options) == {1, 2, 4}
    assert drawn(LOGITS, masked, top_k=4, **options) == {1, 2, 3, 4}
    assert drawn(LOGITS, masked, top_p=1e-6, **options) == {1}
    assert drawn(LOGITS, masked, top_k=1, **options) == {1} and drawn(LOGITS, masked, 5, temperature=0.0, **options) == {1}


@pytest.mark.parametrize("masked", [False, True])
def test_min_p_to_the_last(masked: bool) -> None:
    """A token exactly so many times less likely than the best is left: at this temperature halves are exact."""
    half = np.array([0.0, 1.0, 0.0, -1.0, -2.0, -30, -30, -30, -30, -30], np.float32)
    temperature = 1 / np.log(2)
    weight = float(np.exp((np.float64(0.0) - 1.0) / temperature))
    assert drawn(half, masked, temperature=temperature, min_p=weight) == {0, 1, 2}
    assert drawn(half, masked, temperature=temperature, min_p=weight * 1.0001) == {1}
    assert drawn(half, masked, temperature=temperature, min_p=weight / 2.0001) == {0, 1, 2, 3}


@pytest.mark.parametrize("more", [{}, {11: 1.0}], ids=["lowered", "raised"])
def test_all_candidates_are_lowered(more: dict[int, float]) -> None:
    """The best is then one of the others: min-p is measured by it."""
    bias = {1: -9.0, 2: -9.0, 4: -9.0} | more
    sampler = Sampler(Sampling(temperature=1.0, min_p=0.5, logit_bias=bias, seed=3))
    assert {sampler.choose(predicted(LOGITS, 3), position) for position in range(60)} == {3}


def test_what_is_allowed() -> None:
    """Only that; the best of it where nothing is drawn, also where no candidate is among it."""
    sampler = Sampler(Sampling())
    for allowed in ([3], [11, 10], [5, 3], [2, 4]):
        mask = np.zeros(LOGITS.size, np.bool_)
        mask[allowed] = True
        best = max(allowed, key=lambda token: (LOGITS[token], -token))
        assert sampler.choose(predicted(LOGITS), 0, [], [], mask) == best
        drawing = Sampler(Sampling(temperature=5.0, seed=1))
        assert {drawing.choose(predicted(LOGITS), p, [], [], mask) for p in range(60)} == set(allowed)
    with pytest.raises(ValueError, match="a token must be allowed"):
        sampler.choose(predicted(LOGITS), 0, [], [], np.zeros(LOGITS.size, np.bool_))


@pytest.mark.parametrize(("options", "legal"), [
    ({"temperature": 100.0}, True), ({"temperature": 100.1}, False), ({"temperature": -0.1}, False), ({"top_k": -1}, False),
    ({"top_k": 1.0}, False), ({"top_k": True}, False), ({"top_p": 0.0}, False), ({"top_p": 1.0}, True), ({"top_p": 1.01}, False),
    ({"min_p": 1.0}, True), ({"min_p": 1.01}, False), ({"min_p": -0.01}, False), ({"repetition_penalty": 0.01}, True),
    ({"repetition_penalty": 0.0099}, False), ({"repetition_penalty": 100.0}, True), ({"repetition_penalty": 101.0}, False),
    ({"presence_penalty": -2.0}, True), ({"presence_penalty": 2.01}, False), ({"frequency_penalty": 2.0}, True),
    ({"frequency_penalty": -2.01}, False), ({"logit_bias": {0: 100.0, 1: -100.0}}, True), ({"logit_bias": {0: 100.1}}, False),
    ({"logit_bias": {-1: 1.0}}, False), ({"seed": 0}, True), ({"seed": -1}, False), ({"seed": np.int64(5)}, True),
])
def test_ranges(options: dict[str, Any], legal: bool) -> None:
    if legal:
        assert Sampling(**options).needs_logits(8) in (True, False)
        return
    with pytest.raises(Exception, match=f"^{next(iter(options))} must be"):
        Sampling(**options)


@pytest.mark.parametrize(("options", "needs", "adjusts"), [
    ({}, False, False), ({"temperature": 1.0}, True, False), ({"temperature": 1.0, "top_k": 8}, False, False),
    ({"temperature": 1.0, "top_k": 9}, True, False), ({"top_k": 9}, False, False), ({"repetition_penalty": 1.1}, True, True),
    ({"presence_penalty": 0.1}, True, True), ({"frequency_penalty": 0.1}, True, True), ({"logit_bias": {1: 0.0}}, True, True),
])
def test_what_needs_all_logits(options: dict[str, Any], needs: bool, adjusts: bool) -> None:
    sampling = Sampling(**options)
    assert (sampling.needs_logits(8), sampling.adjusts) == (needs, adjusts)


@pytest.mark.parametrize(("options", "count"), [
    ({}, 1), ({"temperature": 1.0, "top_k": 8}, 8), ({"temperature": 1.0, "top_k": 9}, None), ({"temperature": 1.0}, None),
    ({"temperature": 1.0, "top_k": 1}, 1), ({"temperature": 1.0, "top_k": 4, "min_p": 0.1}, None),
    ({"repetition_penalty": 2}, None),
    ({"temperature": 1.0, "top_k": 4, "top_p": 0.9}, None), ({"temperature": 0.001, "top_k": 4}, None),
    ({"temperature": 1.0, "top_k": 4, "presence_penalty": 1}, None), ({"top_k": 70}, 1),
])
def test_what_the_machine_could_draw(options: dict[str, Any], count: int | None) -> None:
    draw = Sampler(Sampling(**options)).machine_draw(8)
    assert (None if draw is None else draw.count) == count


@pytest.mark.parametrize(("name", "said"), [
    ("temperature", "0 to 100"), ("top_k", "a whole number, 0 or more"), ("top_p", "above 0 and at most 1"), ("min_p", "0 to 1"),
    ("repetition_penalty", "0.01 to 100"), ("presence_penalty", "-2 to 2"), ("frequency_penalty", "-2 to 2"),
    ("seed", "a whole number, 0 or more"),
])
def test_what_a_range_is_said_to_be(name: str, said: str) -> None:
    with pytest.raises(HwgenError) as caught:
        Sampling(**{name: -5})
    assert caught.value.message == f"{name} must be {said}, not -5" and caught.value.kind == "usage"
    with pytest.raises(HwgenError, match="token ids with numbers from -100 to 100"):
        Sampling(logit_bias={1: 101.0})
