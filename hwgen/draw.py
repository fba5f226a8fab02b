"""A token drawn from the candidates behind a pass, in integers: machine, model and host draw the same one (numerics contract)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .numerics import exp2_table

__all__ = [
    "EXPONENT_ONE", "FIXED_BITS", "GREEDY", "MULTIPLIER", "ROUNDS", "SCALE_BITS", "SEGMENT_FRACTION", "WEYL", "Draw", "draw_key",
    "draw_scale", "draw_weight", "fixed_logit", "random_word",
]

#: Philox-2x32 with ten rounds: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
MULTIPLIER, WEYL, ROUNDS = 0xD256D193, 0x9E3779B9, 10

#: Bits of a logit's magnitude in fixed point, those of them behind the point, and the exponent field of a float32 whose mantissa
#: begins with the first of them: what is larger, or not finite, saturates.
FIXED_BITS, _FIXED_FRACTION = 31, 20
EXPONENT_ONE = 127 + FIXED_BITS - _FIXED_FRACTION - 1

#: Bits of the scale, log2(e) / temperature, and those of them behind the point.
SCALE_BITS, _SCALE_FRACTION = 26, 16

#: Bits behind the point of a power of two, and those of them within a segment of its table.
_POWER_FRACTION = 16
SEGMENT_FRACTION = _POWER_FRACTION - 6

_WORD = 0xFFFFFFFF


def random_word(counter: int, key: int) -> int:
    """32 random bits: the first word that Philox-2x32-10 makes of the counter (``counter``, 0)."""
    first, second = counter & _WORD, 0
    for _ in range(ROUNDS):
        product = first * MULTIPLIER
        first, second = product >> 32 ^ key ^ second, product & _WORD
        key = key + WEYL & _WORD
    return first


def draw_key(seed: int, part: int = 0) -> int:
    """Key of an answer that is drawn from ``seed``, a whole number of any length. ``part`` counts how often it has come back to
    positions that it had before.
    """
    key = part & _WORD
    while True:
        key = random_word(seed, key)
        seed >>= 32
        if not seed:
            return key


def draw_scale(temperature: float) -> int | None:
    """The scale of a temperature above 0; None where it has more bits than there are: below 0.0014."""
    scale = math.log2(math.e) / temperature * (1 << _SCALE_FRACTION) if temperature > 1e-6 else math.inf
    return round(scale) if scale < (1 << SCALE_BITS) - 1 else None


def fixed_logit(bits: int) -> int:
    """A float32, given as its bits, in fixed point: towards zero, and saturated."""
    exponent = bits >> 23 & 0xFF
    mantissa = (1 << 23 | bits & 0x7FFFFF) << FIXED_BITS - 24
    magnitude = (1 << FIXED_BITS) - 1 if exponent > EXPONENT_ONE else mantissa >> EXPONENT_ONE - exponent
    return -magnitude if bits >> 31 else magnitude


def draw_weight(difference: int, scale: int) -> int:
    """How likely a candidate is whose logit is ``difference`` below the best one's (fixed point): 2^16 is as likely as that."""
    power = difference * scale >> _FIXED_FRACTION + _SCALE_FRACTION - _POWER_FRACTION
    whole, part = power >> _POWER_FRACTION, power & (1 << _POWER_FRACTION) - 1
    segment, low = part >> SEGMENT_FRACTION, part & (1 << SEGMENT_FRACTION) - 1
    bases, slopes = exp2_table()
    return bases[segment] - (slopes[segment] * low + (1 << SEGMENT_FRACTION - 1) >> SEGMENT_FRACTION) >> whole


@dataclass(frozen=True)
class Draw:
    """How a token is chosen: of the first ``count`` candidates by their probabilities, of less than two the best one."""

    count: int = 1
    #: Of the logits; 0 gives all candidates the same probability.
    scale: int = 0
    key: int = 0

    def choose(self, logits: Sequence[int], position: int) -> int:
        """Number of the candidate that is the token at ``position``. ``logits``: the bits of their float32, best first."""
        if self.count < 2:
            return 0
        fixed = [fixed_logit(bits) for bits in logits[: self.count]]
        weights = [draw_weight(fixed[0] - logit, self.scale) for logit in fixed]
        left = random_word(position, self.key) * sum(weights) >> 32
        number = 0
        while left >= weights[number]:
            left -= weights[number]
            number += 1
        return number


#: The best candidate.
GREEDY = Draw()
