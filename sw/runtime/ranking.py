"""A token drawn from all logits, by rank: top-k, min-p and top-p with nothing left open.

Nothing here sorts the vocabulary, or takes an exponential of each of its tokens. The few tokens near the best one are ranked. A
draw among all the others is a draw of one of them with equal chances, taken as often as its probability says (rejection), so that
tokens are drawn with exactly their probabilities.

Whether top-p leaves a token is a question of what all others weigh: the token is left where those before it weigh less than p of
all. Bounds are enough as long as the answer is the same at both ends of them, and they are looked for from the cheap to the dear:
so many tokens, each less likely than the last that is ranked; how many of them there are down to some powers of e; the sum of a
straight line in place of each power of two; at last more tokens are ranked, then all.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt

from .sampling import Sampling

__all__ = ["COLDEST", "LARGEST", "NEAR", "RankedDraw", "best_of", "less_likely", "likely_of"]

Floats = npt.NDArray[np.float64]
Ids = npt.NDArray[np.intp]
Logits = npt.NDArray[np.float32]

#: The largest float32, and the smallest that is not 0.
LARGEST, SMALLEST = float(np.finfo(np.float32).max), 2.0**-149

#: Smallest temperature that is divided by where quotients have to be finite: logits that differ have weight 0 long before.
COLDEST = 1e-200

#: Tokens less likely than the best by more than this power of e are not ranked, but drawn by rejection.
NEAR = 12.0

#: Where bounds of what the others weigh do not say enough, as much further is ranked, up to where all are.
FURTHER, FAR = 4.0, 32.0

#: Powers of e below `NEAR` down to which tokens are counted, in this order.
COUNTED = (4.0, 2.0)

#: What rounding changes of a sum of straight lines in float32, at most, where the temperature is more than this part of the best
#: logit.
ROUNDING, RESOLVED = 3e-4, 1e-3

#: A straight line from one power of two to the next, 1 + x for 2^x, is too large by less than this factor: 2 / (e log 2).
LINE = 1.0615

#: Tokens less likely than the best by more than this power of e weigh as much as one of that power in a sum of lines; that is less
#: than the smallest weight that is told from none.
LOWEST, NOTHING = 86.0, 1e-30


def less_likely(logit: float, power: float, temperature: float) -> np.float32:
    """A logit, as large as can be but for rounding, that is less likely than another by at least that power of e."""
    exact = logit - power * temperature
    return np.float32(max(exact - abs(exact) * 2.0**-23 - SMALLEST, -LARGEST))


def likely_of(scores: Logits, least: np.float32) -> Ids:
    """Indices of the scores that are at least that large, ascending: few of many, so eight of them at a time are looked at."""
    above = np.empty(-(-scores.size // 8) * 8, np.bool_)
    above[-8:] = False
    np.greater_equal(scores, least, out=above[: scores.size])
    eights = above.view(np.int64)
    places = (eights != 0).nonzero()[0]
    found = eights.take(places).view(np.bool_).nonzero()[0]
    indices: Ids = places.take(found >> 3)
    indices <<= 3
    found &= 7
    indices += found
    return indices


class _Random(Protocol):
    def random(self) -> float: ...


class RankedDraw:
    """Draws from all logits, ``scores [vocab]``, of which ``best`` is the largest; what may not be drawn has minus infinity."""

    def __init__(self, scores: Logits, sampling: Sampling, random: _Random, best: float) -> None:
        self._scores, self._sampling, self._random, self._best = scores, sampling, random, best
        self._temperature = max(sampling.temperature, COLDEST)
        self._rank(NEAR)
        #: Where tokens are still to be counted.
        self._uncounted = [NEAR + further for further in COUNTED]

    def _nearest(self, near: float) -> Ids | None:
        """Tokens that are ranked, ascending; None is all that may be drawn."""
        s = self._sampling
        if near > FAR or 0 < s.min_p < math.exp(-near):
            return None
        self._least = less_likely(self._best, near, self._temperature)
        ids = likely_of(self._scores, self._least)
        return None if ids.size < min(s.top_k, self._scores.size) else ids

    def _rank(self, near: float) -> None:
        """Rank tokens down to that power of e below the best, and bound what the others weigh."""
        s, size = self._sampling, self._scores.size
        self._near, ids = near, self._nearest(near)
        everything = ids is None or ids.size == size
        if ids is None:
            ids = (self._scores > -np.inf).nonzero()[0]
        scores = self._scores.take(ids).astype(np.float64)
        #: Bound of the probability of all tokens that are not ranked, where those that are have 1 together.
        self._rest = 0.0 if everything else size * math.exp(-near)
        #: Tokens down to a power of e, by it.
        self._counts = {near: ids.size}
        if s.top_k:
            best = best_of(scores, s.top_k)
            ids, scores, self._rest = ids[best], scores[best], 0.0
        exponents = (scores - self._best) / self._temperature
        if s.min_p:
            likely = np.exp(exponents) >= s.min_p
            ids, exponents, self._rest = ids[likely], exponents[likely], 0.0
        self._ids, self._ranking = ids, _Ranking(exponents)
        self._rest /= self._ranking.total
        #: What they weigh at least and at most, and whether straight lines say it.
        self._bounds, self._lines = (0.0, self._rest), False

    # ---- what is not ranked --------------------------------------------------------------------------------------
    def _look_closer(self) -> None:
        """Know better what the tokens weigh that are not ranked."""
        if self._uncounted:
            self._count(self._uncounted.pop(0))
        elif not self._lines and self._temperature > max(abs(self._best) * RESOLVED, NOTHING):
            self._sum_lines()
        else:
            self._rank(self._near + FURTHER)

    def _count(self, power: float) -> None:
        """Bound by how many tokens there are down to some powers: each weighs less than the power above it."""
        self._counts[power] = int(np.count_nonzero(self._scores >= less_likely(self._best, power, self._temperature)))
        most, powers = 0.0, sorted(self._counts)
        for above, below in zip(powers, [*powers[1:], None], strict=True):
            count = self._scores.size if below is None else self._counts[below]
            most += (count - self._counts[above]) * math.exp(-above)
        self._bounds = 0.0, min(self._bounds[1], most / self._ranking.total)

    def _sum_lines(self) -> None:
        """Bound by (1 + x) 2^k in place of 2^(k + x): the bits of a float32 are its exponent k and, behind it, x."""
        scores, lowest = self._scores, less_likely(self._best, LOWEST, self._temperature)
        if (scores < lowest).any():
            scores = np.maximum(scores, lowest)
        scale = math.log2(math.e) * (1 << 23) / self._temperature
        bits = scores * np.float32(scale)
        bits += np.float32((127 << 23) - self._best * scale)
        lines = bits.astype(np.int32).view(np.float32)
        lines[self._ids] = 0.0
        weight = float(lines.sum()) / self._ranking.total
        least = max(weight / LINE * (1 - ROUNDING) - NOTHING, 0.0)
        self._bounds, self._lines = (least, min(self._bounds[1], weight * (1 + ROUNDING))), True

    def _other(self, place: float) -> int | None:
        """A token that is not ranked, or None, by a number from 0 to 1 of which equal parts belong to all tokens."""
        token, part = divmod(place * self._scores.size, 1.0)
        token = min(int(token), self._scores.size - 1)
        score = self._scores[token]
        if score >= self._least:
            return None
        return token if part < math.exp((float(score) - self._best) / self._temperature + self._near) else None

    # ---- what is drawn -------------------------------------------------------------------------------------------
    def token(self) -> int:
        """Of the tokens left by top-k, min-p and top-p, by their probabilities."""
        p = self._sampling.top_p
        while self._rest:
            most = p * (1 + self._bounds[1])  # of what top-p leaves
            end = 1 + self._rest if p == 1 or most >= 1 else self._ranking.reach(most)[1]
            place = self._random.random() * end
            if place < 1:
                token = int(self._ids[self._ranking.reach(place)[0]])
            else:
                other = self._other((place - 1) / self._rest)
                if other is None:
                    continue
                token = other
            if self.keeps(token):
                return token
        kept = self._ranking.reach(p)[1] if p < 1 else 1.0
        return int(self._ids[self._ranking.reach(self._random.random() * kept)[0]])

    def keeps(self, token: int) -> bool:
        """Whether top-k, min-p and top-p leave a token: others are looked at as closely as it takes to say it. That ends: each look
        is one of a few at what is ranked (`_look_closer`), or ranks further, and beyond `FAR` all tokens are ranked.
        """
        p = self._sampling.top_p
        while True:
            i = int(self._ids.searchsorted(token))
            ranked = i < self._ids.size and self._ids[i] == token
            if not self._rest:
                return bool(ranked and (p == 1 or self._ranking.before(i) < p))
            if p == 1:
                return True
            before = self._ranking.before(i) if ranked else 1.0
            least, most = (p * (1 + weight) for weight in self._bounds)
            if before >= most or ranked and before < least:
                return before < least
            if before < least:
                self._rank(self._near + FURTHER)
            else:
                self._look_closer()


def best_of(scores: Floats, count: int) -> Ids:
    """Indices of the ``count`` largest scores in ascending order; of equal ones those with the smaller index."""
    if count >= scores.size:
        return np.arange(scores.size)
    least = np.partition(scores, scores.size - count)[scores.size - count]
    above, equal = np.flatnonzero(scores > least), np.flatnonzero(scores == least)
    return np.sort(np.concatenate((above, equal[: count - above.size])))


class _Ranking:
    """Tokens from likely to unlikely, sorted only where that is asked for: of equal ones the smaller index comes first.

    The likeliest are sorted, where they are few. Beyond them a histogram of the exponents says in which narrow range of them a
    cumulated probability is reached; that range is sorted.
    """

    #: Powers of e from the best down to which tokens are sorted where nothing else is known, and how many they are at most.
    HEAD, FEW = 8.0, 256

    #: Ranges at most, tokens of a range, and where the last one begins: beyond it a token is less likely than the best by more than
    #: 10^21.
    RANGES, TOKENS, DEPTH = 4096, 4, 50.0

    def __init__(self, exponents: Floats) -> None:
        self._exponents = exponents
        self.weights = np.exp(exponents)
        #: Of the weights, where the best has 1.
        self.total = float(self.weights.sum())
        self.weights /= self.total
        #: Indices of the likeliest, down to an exponent, in their order, and the probability up to each.
        self._least, self._sorted, self._sums = 1.0, list[int](), list[float]()
        #: Down to it they are too many to be sorted.
        self._many = -math.inf

    def _sort(self, least: float) -> bool:
        """Sort those with at least that exponent; False where they are many."""
        if least <= self._many:
            return False
        ids = (self._exponents >= least).nonzero()[0]
        if ids.size > self.FEW:
            self._many = least
            return False
        ids = ids.take((-self._exponents.take(ids)).argsort(kind="stable"))
        self._least, self._sorted, self._sums = least, ids.tolist(), self.weights.take(ids).cumsum().tolist()
        return True

    @cached_property
    def _ranges(self) -> tuple[Ids, Floats]:
        """The range of every token, and the probability up to the end of each range."""
        ranges = min(self.RANGES, self._exponents.size // self.TOKENS + 1)
        number = np.minimum(self._exponents * (-ranges / self.DEPTH), ranges - 1).astype(np.intp)
        return number, np.cumsum(np.bincount(number, self.weights, ranges))

    def _of_range(self, number: int) -> tuple[Ids, Floats]:
        """Indices of a range, likely ones first, and the probability up to each."""
        ranges, sums = self._ranges
        ids = np.flatnonzero(ranges == number)
        ids = ids[np.argsort(-self._exponents[ids], kind="stable")]
        return ids, np.cumsum(self.weights[ids]) + (sums[number - 1] if number else 0.0)

    def reach(self, probability: float) -> tuple[int, float]:
        """The index at which probabilities, summed from the largest to the smallest, reach ``probability``; the sum up to it."""
        if not self._sums:
            self._sort(-self.HEAD)
        if self._sums and probability <= self._sums[-1]:
            place = bisect_left(self._sums, probability)
            return self._sorted[place], self._sums[place]
        ranges, ends = self._ranges
        last = int(ranges.max())  # there, where rounding leaves a rest
        ids, sums = self._of_range(min(int(np.searchsorted(ends, probability)), last))
        place = min(int(np.searchsorted(sums, probability)), ids.size - 1)
        return int(ids[place]), float(sums[place])

    def before(self, index: int) -> float:
        """The probability of all that are likelier than an index."""
        exponents, weights = self._exponents, self.weights
        exponent = exponents.item(index)
        if exponent >= self._least or self._sort(exponent):
            place = self._sorted.index(index)
            return self._sums[place - 1] if place else 0.0
        equal = exponents[:index] == exponent
        return float(weights[exponents > exponent].sum() + weights[:index][equal].sum())
