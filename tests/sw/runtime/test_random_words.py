"""Words made ahead are those of numpy's generator."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from hwgen.sw.runtime import random_words
from hwgen.sw.runtime.random_words import CLOSE, WORD, RandomWords


@pytest.mark.parametrize("ahead", [1, 2, 7, 4096])
def test_words_are_those_of_the_generator(ahead: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Words, halves and numbers in any order, more than are made at a time among them."""
    monkeypatch.setattr(random_words, "AHEAD", ahead)
    words, generator, choice = RandomWords(12), np.random.default_rng(12), np.random.default_rng(0)
    for _ in range(600):
        count, bits = int(choice.integers(0, 12)), int(choice.choice([0, 3, 17]))
        what = choice.integers(0, 3)
        if what == 0:
            assert words.random() == generator.random()
        elif what == 1:
            assert words.take(count).tolist() == generator.bit_generator.random_raw(count).tolist()
        else:
            expected = generator.bit_generator.random_raw((count + 1) // 2).view(np.uint32)[:count].tolist()
            halves, lower, small = words.halves(count, bits)
            assert halves.tolist() == expected and lower.tolist() == [half & (1 << bits) - 1 for half in expected]
            limit = math.exp(-CLOSE) * 2 ** (WORD - bits)
            assert small.tolist() == [half >> bits <= limit for half in expected]


@pytest.mark.parametrize("bits", [0, 1, 17, 18, 27, 31])
def test_no_half_that_may_be_drawn_is_passed_over(bits: int) -> None:
    """One is drawn, sometimes at least, where its fraction is below a weight; weights are below e^-CLOSE where that is asked."""
    words = RandomWords(1)
    weight = Fraction(math.exp(-CLOSE)) * 2 ** (WORD - bits)
    edge = [(int(weight) + more) << bits for more in (-1, 0, 1) if 0 <= (int(weight) + more) << bits < 2**WORD]
    halves = np.array([half + low for half in edge for low in (0, (1 << bits) - 1)], np.uint32)
    words._keep(halves.repeat(2).view(np.uint64))
    for half, small in zip(halves.repeat(2).tolist(), words.halves(2 * halves.size, bits)[2].tolist(), strict=True):
        assert small or half >> bits >= weight


def test_a_half_is_of_so_many_bits() -> None:
    words, halves = RandomWords(3), RandomWords(3).halves(4, 0)[0]
    assert halves.itemsize * 8 == WORD and [int(half) for half in halves] == [
        word >> shift & 0xFFFFFFFF for word in words.take(2).tolist() for shift in (0, 32)
    ]


def test_a_long_seed() -> None:
    assert RandomWords(2**200 + 1).random() == np.random.default_rng(2**200 + 1).random()
