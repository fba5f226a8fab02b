"""Draws in integers: published random numbers, probabilities, and what is at the edges."""

from __future__ import annotations

import math
import random
import struct
from fractions import Fraction

import numpy as np
import pytest

from hwgen.draw import GREEDY, SCALE_BITS, Draw, draw_key, draw_scale, draw_weight, fixed_logit, random_word
from hwgen.registers import draw_from, draw_words


def bits_of(value: float) -> int:
    return int(struct.unpack("<I", struct.pack("<f", value))[0])


def philox(first: int, second: int, key: int) -> tuple[int, int]:
    """The definition, of both words."""
    for number in range(10):
        product = first * 0xD256D193
        first, second = (product >> 32) ^ ((key + number * 0x9E3779B9) % 2**32) ^ second, product % 2**32
    return first, second


def test_random_words() -> None:
    """The definition gives the known answers of the library Random123 (`kat_vectors`), and the draw its first word."""
    ones = 2**32 - 1
    assert philox(0, 0, 0) == (0xFF1DAE59, 0x6CD10DF2)
    assert philox(ones, ones, ones) == (0x2C3F628B, 0xAB4FD7AD)
    assert philox(0x243F6A88, 0x85A308D3, 0x13198A2E) == (0xDD7CE038, 0xF62A4C12)
    generator = random.Random(1)
    for _ in range(200):
        counter, key = generator.getrandbits(24), generator.getrandbits(32)
        assert random_word(counter, key) == philox(counter, 0, key)[0]


def test_keys() -> None:
    """Of seeds of any length, and of every part of an answer."""
    seeds = [*range(50), 2**32 - 1, 2**32, 2**32 + 1, 2**64, 2**64 + 2**32, 2**200]
    keys = {draw_key(seed, part) for seed in seeds for part in range(4)}
    assert len(keys) == 4 * len(seeds) and all(0 <= key < 2**32 for key in keys)


def test_logits_in_fixed_point() -> None:
    """Towards zero, with 20 bits behind the point; from 2048 on, and what is not finite, the largest."""
    generator = random.Random(2)
    for _ in range(2000):
        bits = bits_of(generator.gauss(0, 1) * 2 ** generator.uniform(-25, 11))
        if generator.random() < 0.2:
            bits = generator.getrandbits(32)
        if bits >> 23 & 255 == 255:
            assert abs(fixed_logit(bits)) == 2**31 - 1
            continue
        value = Fraction(struct.unpack("<f", struct.pack("<I", bits))[0])
        expected = min(abs(value) * 2**20 // 1, 2**31 - 1)
        assert fixed_logit(bits) == (-expected if value < 0 else expected)
    order = [0x7FC00000, 0x7F800000, bits_of(2048), bits_of(2047.9), bits_of(1), 0, 1 << 31, bits_of(-1), 0xFF800000, 0xFFC00000]
    fixed = [fixed_logit(bits) for bits in order]
    assert fixed == sorted(fixed, reverse=True) and fixed[0] == fixed[2] == -fixed[-1]


@pytest.mark.parametrize("temperature", [0.0015, 0.02, 0.3, 1, 7, 100])
def test_weights(temperature: float) -> None:
    """Within a part in 30,000 of the exponential, and 0 where that is next to nothing; the colder, the coarser logits are."""
    scale = draw_scale(temperature)
    assert scale is not None
    assert draw_weight(0, scale) == 2**16
    for difference in np.geomspace(2**-20, 4000, 400):
        fixed = int(difference * 2**20)
        error = abs(draw_weight(fixed, scale) / 2**16 - math.exp(-fixed / 2**20 / temperature))
        assert error < 1 / 30_000 + 2**-10 * max(0.0, temperature - 10) / 100, difference
    assert draw_weight(2**32 - 2, scale) == 0


def test_scales() -> None:
    assert draw_scale(1.0) == round(2**16 / math.log(2)) and draw_scale(100.0) == round(2**16 / math.log(2) / 100)
    assert draw_scale(0.00141) is not None and draw_scale(0.00140) is None and draw_scale(5e-324) is None
    largest = 2**SCALE_BITS - 2
    for least, scale in ((largest + 0.4, largest), (largest + 1.1, None)):
        assert draw_scale(2**16 / math.log(2) / least) == scale
    for draw in (GREEDY, Draw(63, (1 << SCALE_BITS) - 1, 2**32 - 1), Draw(8, 5, 7)):
        assert draw_from(*draw_words(draw)) == draw


def test_choice_is_that_of_the_definition() -> None:
    """The candidate in whose part of the sum of the weights the random fraction lies, in rational numbers."""
    generator = random.Random(3)
    for _ in range(300):
        count, scale, key = generator.randint(2, 12), generator.choice([0, 1, 5000, 94548, 10**7]), generator.getrandbits(32)
        logits = sorted((generator.gauss(0, 3) for _ in range(12)), reverse=True)
        logits[1] = generator.choice(logits[:2])
        position = generator.randrange(1 << 20)
        fixed = [int(Fraction(struct.unpack("<f", struct.pack("<f", x))[0]) * 2**20) for x in logits[:count]]
        weights = [draw_weight(fixed[0] - each, scale) for each in fixed]
        at = Fraction(philox(position, 0, key)[0], 2**32) * sum(weights)
        expected = next(i for i in range(count) if at < sum(weights[: i + 1]))
        assert Draw(count, scale, key).choose([bits_of(x) for x in logits], position) == expected


@pytest.mark.parametrize("temperature", [0.05, 0.8, 3.0])
def test_every_candidate_has_its_probability(temperature: float) -> None:
    """Chi-squared of 100,000 draws of eight candidates against the softmax; positions one behind the other, and keys too."""
    logits = (np.array([3.0, 2.9, 2.9, 2.0, 1.0, 0.5, -1.0, -2.0]) * min(1.0, temperature)).astype(np.float32)
    scale = draw_scale(temperature)
    assert scale is not None
    bits = logits.view(np.uint32).tolist()
    expected = np.exp((logits.astype(float) - logits[0]) / temperature)
    expected *= 50_000 / expected.sum()
    of_positions, of_keys = Draw(8, scale, 1), [Draw(8, scale, draw_key(seed)) for seed in range(500)]
    for found in ([of_positions.choose(bits, i) for i in range(50_000)],
                  [draw.choose(bits, i) for draw in of_keys for i in range(100)]):
        counts = np.bincount(found, minlength=8)
        assert ((counts - expected) ** 2 / expected).sum() < 24.3, counts  # 7 degrees of freedom: one in a thousand


def test_edges() -> None:
    """One candidate, none asked for, equal ones, ones that nothing is left of."""
    bits = [bits_of(x) for x in (5.0, 5.0, 5.0, -math.inf)]
    for count in (0, 1):
        assert Draw(count, 94548, 3).choose(bits, 7) == 0 and GREEDY.choose(bits, 7) == 0
    found = np.bincount([Draw(4, 94548, 3).choose(bits, i) for i in range(3000)], minlength=4)
    assert found[3] == 0 and found[:3].min() > 900
    even = np.bincount([Draw(4, 0, 3).choose(bits, i) for i in range(3000)], minlength=4)
    assert even.min() > 650, "without a scale all are as likely"
