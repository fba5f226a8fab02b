"""A token drawn from all logits, by rank: top-k, min-p and top-p with nothing left open.

Nothing here sorts the vocabulary, or takes an exponential of each of its tokens. The few tokens near the best one are ranked. A
draw among all the others is a draw of one of them with equal chances, taken as often as its probability says (rejection), so that
tokens are drawn with exactly their probabilities.
"""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
import numpy.typing as npt

from .sampling import Sampling

__all__ = ["LARGEST", "NEAR", "RankedDraw", "best_of"]

Floats = npt.NDArray[np.float64]
Ids = npt.NDArray[np.intp]
Logits = npt.NDArray[np.float32]

#: The largest float32.
LARGEST = float(np.finfo(np.float32).max)

#: Tokens less likely than the best by more than this power of e are not ranked, but drawn by rejection.
NEAR = 12.0

#: Where it must be known better what the others weigh, those are weighed whose power is less than so much larger, then half as much
#: more and so on, up to where all are ranked.
FURTHER, FAR = 4.0, 32.0

#: What rounding changes of a sum of exponentials in float32, at most.
ROUNDING = 1e-4


class RankedDraw:
    """Draws from all logits, ``scores [vocab]``, of which ``best`` is the largest; what may not be drawn has minus infinity."""

    def __init__(self, scores: Logits, sampling: Sampling, random: np.random.Generator, best: float) -> None:
        self._scores, self._sampling, self._random, self._best = scores, sampling, random, best
        self._rank(NEAR)

    def _nearest(self, near: float) -> Ids | None:
        """Tokens that are ranked, ascending; None is all."""
        s = self._sampling
        if near > FAR or 0 < s.min_p < math.exp(-near):
            return None
        self._least = np.float32(max(self._best - near * s.temperature, -LARGEST))
        ids = (self._scores >= self._least).nonzero()[0]
        return None if ids.size < min(s.top_k, self._scores.size) else ids

    def _rank(self, near: float) -> None:
        """Rank tokens down to that power of e below the best, and bound what the others weigh."""
        s, size = self._sampling, self._scores.size
        self._near, ids = near, self._nearest(near)
        everything = ids is None or ids.size == size
        ids = np.arange(size) if ids is None else ids
        scores = self._scores[ids].astype(np.float64)
        #: Bound of the probability of all tokens that are not ranked, where those that are have 1 together.
        self._rest = 0.0 if everything else size * math.exp(-near)
        if s.top_k:
            best = best_of(scores, s.top_k)
            ids, scores, self._rest = ids[best], scores[best], 0.0
        with np.errstate(over="ignore"):  # at a temperature of nearly 0 all but the best are infinitely unlikely
            exponents = (scores - self._best) / s.temperature
        if s.min_p:
            likely = np.exp(exponents) >= s.min_p
            ids, exponents, self._rest = ids[likely], exponents[likely], 0.0
        possible = exponents > -np.inf  # none of those that may not be drawn
        self._ids, self._ranking = ids[possible], _Ranking(exponents[possible])
        self._rest /= self._ranking.total
        #: What they weigh at least and at most, by all that are less likely than the best by no more than a power of e.
        self._bounds, self._looked_at = (0.0, self._rest), near

    def _weigh_rest(self) -> None:
        """Look further at tokens that are not ranked: what they weigh is known better then."""
        self._looked_at += FURTHER if self._looked_at == self._near else FURTHER / 2
        if self._looked_at > FAR:
            self._rank(self._looked_at)
            return
        temperature, total = self._sampling.temperature, self._ranking.total
        least = np.float32(max(self._best - self._looked_at * temperature, -LARGEST))
        scores = self._scores.take((self._scores >= least).nonzero()[0])  # faster than by the mask
        scores = scores[scores < self._least]
        weight = float(np.exp((scores - np.float32(self._best)) / np.float32(temperature)).sum()) / total
        beyond = self._scores.size * math.exp(-self._looked_at) / total
        self._bounds = weight * (1 - ROUNDING), weight * (1 + ROUNDING) + beyond

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

    def _other(self, place: float) -> int | None:
        """A token that is not ranked, or None, by a number from 0 to 1 of which equal parts belong to all tokens."""
        token, part = divmod(place * self._scores.size, 1.0)
        token = min(int(token), self._scores.size - 1)
        score = self._scores[token]
        if score >= self._least:
            return None
        return token if part < math.exp((float(score) - self._best) / self._sampling.temperature + self._near) else None

    def keeps(self, token: int) -> bool:
        """Whether top-k, min-p and top-p leave a token: more are looked at where what is ranked does not say it."""
        p = self._sampling.top_p
        i = int(np.searchsorted(self._ids, token))
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
            self._weigh_rest()
        return self.keeps(token)


def best_of(scores: Floats, count: int) -> Ids:
    """Indices of the ``count`` largest scores in ascending order; of equal ones those with the smaller index."""
    if count >= scores.size:
        return np.arange(scores.size)
    least = np.partition(scores, scores.size - count)[scores.size - count]
    above, equal = np.flatnonzero(scores > least), np.flatnonzero(scores == least)
    return np.sort(np.concatenate((above, equal[: count - above.size])))


class _Ranking:
    """Tokens from likely to unlikely, sorted only where that is asked for: of equal ones the smaller index comes first.

    A histogram of the exponents says in which narrow range of them a cumulated probability is reached; that range is sorted.
    """

    #: Ranges at most, tokens of a range, and where the last one begins: beyond it a token is less likely than the best by more than
    #: 10^21.
    RANGES, TOKENS, DEPTH = 4096, 4, 50.0

    def __init__(self, exponents: Floats) -> None:
        self._exponents = exponents
        self.weights = np.exp(exponents)
        #: Of the weights, where the best has 1.
        self.total = float(self.weights.sum())
        self.weights /= self.total

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
        ranges, ends = self._ranges
        last = int(ranges.max())  # there, where rounding leaves a rest
        ids, sums = self._of_range(min(int(np.searchsorted(ends, probability)), last))
        place = min(int(np.searchsorted(sums, probability)), ids.size - 1)
        return int(ids[place]), float(sums[place])

    def before(self, index: int) -> float:
        """The probability of all that are likelier than an index."""
        exponents, weights = self._exponents, self.weights
        equal = exponents[:index] == exponents[index]
        return float(weights[exponents > exponents[index]].sum() + weights[:index][equal].sum())
