"""A token drawn from the machine's candidates, with as few looks at other logits as its probability needs.

All logits of a vocabulary of 128,256 tokens are half a megabyte: to go through them once takes a board as long as everything
else that it does for a token. Only some tokens are known without that: the candidates, and those whose logits penalties change.
But every other token is at most as likely as the last candidate. So a draw takes there to be a power of two of other tokens that
are all that likely, the vocabulary among them. When it falls on one of these, a token is looked at, and drawn as often as its own
probability says, else the draw is repeated (rejection): every token has exactly its probability. How many such looks come before a
known token is drawn is one number (of a geometric distribution), and the looks are made together. A look is a random word: its
lower bits say which token, those above begin a fraction, and the token is drawn where this is below its weight.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from .penalties import Penalties
from .prediction import Prediction
from .random_words import CLOSE, WORD, RandomWords
from .ranking import COLDEST, RankedDraw, less_likely
from .sampling import Sampling

__all__ = ["BLOCK", "MOST", "WORD", "CandidateDraw"]

#: Tokens looked at together, and before all are ranked.
BLOCK, MOST = 4096, 8192


class CandidateDraw:
    """One choice behind a token. ``penalties`` are those of its logits, where there are some; ``allowed [vocabulary]`` says which
    tokens may be chosen.
    """

    def __init__(
        self, prediction: Prediction, sampling: Sampling, random: RandomWords, penalties: Penalties | None,
        allowed: npt.NDArray[np.bool_] | None,
    ) -> None:
        self._prediction, self._sampling, self._random = prediction, sampling, random
        self._penalties, self._allowed = penalties, allowed
        #: Logits of the candidates, and the last of them, which comes before all tokens that are not known.
        self._best = prediction.best
        self._last, self._last_id = self._best[-1], prediction.tokens[-1]
        #: Bits of a token, and whether tokens that are not known may be drawn.
        self._bits = (prediction.vocabulary - 1).bit_length()
        self._open = len(prediction.tokens) < prediction.vocabulary
        #: Known tokens, their cumulated weights, and how many of them come before all that are not known; in the order of their
        #: probabilities where that matters.
        self._ids: Sequence[int] = []
        self._sums: Sequence[float] = []
        self._sure = 0
        #: The logit that has weight 1, and the weight of the last candidate.
        self._top, self._bound = self._last, 1.0

    def greedy(self) -> int:
        """The best token, of equal ones that with the smaller id."""
        ids, scores = self._known()
        if ids.size:
            best = scores.max()
            token = int(ids[scores == best].min())
            if not self._open or best > self._last or (best == self._last and token <= self._last_id):
                return token
        return int(self._scores().argmax())

    def token(self) -> int:
        """A token by its probability, of those that top-k, min-p and top-p leave."""
        if not self._weigh():
            return self._ranked().token()
        if not self._open:
            return self._of_known()
        others = self._bound * (1 << self._bits)
        looks = math.log1p(-self._random.random()) / -math.log1p(self._sums[-1] / others) if others else 0.0
        token, at = self._look(int(min(looks, MOST))), None
        if token is None and looks >= MOST:
            return self._ranked().token()
        if token is None:
            at = min(bisect_right(self._sums, self._random.random() * self._sums[-1]), len(self._ids) - 1)
            token = self._ids[at]
        if self._keeps(at):
            return token
        ranked = self._ranked()
        return token if ranked.keeps(token) else ranked.token()

    # ---- what is known -------------------------------------------------------------------------------------------
    def _known(self) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float32]]:
        """Tokens that may be chosen and whose logits are known, and these."""
        penalties, p = self._penalties, self._prediction
        if penalties is None or penalties.lowers:
            ids, scores = np.array(p.tokens, np.intp), np.array(self._best if penalties is None else self._adjusted(), np.float32)
        else:
            others = [i for i, token in enumerate(p.tokens) if token not in penalties]
            ids, scores = penalties.changed(p.logits)
            ids = np.concatenate((ids, np.array([p.tokens[i] for i in others], np.intp)))
            scores = np.concatenate((scores, np.array([self._best[i] for i in others], np.float32)))
        if self._allowed is not None:
            may = self._allowed[ids]
            ids, scores = ids[may], scores[may]
        return ids, scores

    def _weigh(self) -> bool:
        """Weigh the known tokens; False where all logits are needed before anything can be drawn."""
        if self._allowed is None and (self._penalties is None or self._penalties.lowers):
            if not self._weigh_candidates():
                return False
        elif not self._weigh_known():
            return False
        s = self._sampling
        self._bound = math.exp((self._last - self._top) / s.temperature)
        if self._open and (self._bound < s.min_p or 0 < s.top_k <= self._sure):
            self._open = False  # none of the others is left
        return self._sums[-1] > 0

    def _adjusted(self) -> list[float]:
        """Logits of the candidates, with penalties."""
        assert self._penalties is not None
        return list(map(self._penalties.of, self._prediction.tokens, self._best))

    def _weigh_candidates(self) -> bool:
        """The candidates alone, where no other token can come before the last of them."""
        s, ids, scores, last = self._sampling, self._prediction.tokens, self._best, self._last
        self._sure = len(ids)
        if self._penalties is not None:
            pairs = sorted([(-score, token) for score, token in zip(self._adjusted(), ids, strict=True)])
            ids, scores = [token for _, token in pairs], [-score for score, _ in pairs]
            if self._open:
                self._sure = bisect_right(pairs, (-last, self._last_id))
        top = max(scores[0], last) if self._open else scores[0]
        if s.min_p and scores[0] < top:
            return False  # what has min-p of an unknown best is unknown
        weights = [math.exp((score - top) / s.temperature) for score in scores[: s.top_k or None]]
        if s.min_p:
            weights = [weight if weight >= s.min_p else 0.0 for weight in weights]
        self._ids, self._sums, self._top = ids, list(accumulate(weights)), top
        return True

    def _weigh_known(self) -> bool:
        """What is known where some logits may become larger, or not all tokens are allowed."""
        s = self._sampling
        ids, scores = self._known()
        if not ids.size:
            return False
        if s.top_k or s.top_p < 1:
            order = np.lexsort((ids, -scores))
            ids, scores = ids[order], scores[order]
            before = (scores > self._last) | ((scores == self._last) & (ids <= self._last_id))
            self._sure = int(np.count_nonzero(before)) if self._open else ids.size
        best = float(scores.max())
        self._top = max(best, self._last) if self._open else best
        if s.min_p and self._open and best < self._last:
            return False  # what has min-p of an unknown best is unknown
        weights = np.exp((scores.astype(np.float64) - self._top) / max(s.temperature, COLDEST))
        if s.min_p:
            weights[weights < s.min_p] = 0.0
        self._ids, self._sums = ids.tolist(), weights.cumsum().tolist()
        return True

    def _of_known(self) -> int:
        """A draw of the known tokens, of which no others are left."""
        s, end = self._sampling, len(self._ids)
        if s.top_k:
            end = min(s.top_k, end)
        kept = end - 1
        if s.top_p < 1:
            kept = min(kept, bisect_left(self._sums, s.top_p * self._sums[kept], 0, end))
        return self._ids[min(kept, bisect_right(self._sums, self._random.random() * self._sums[kept], 0, end))]

    def _keeps(self, at: int | None) -> bool:
        """Whether it is sure that a known token, or another (None), is left by top-k and top-p, with whatever the others weigh."""
        s = self._sampling
        if not s.top_k and s.top_p == 1:
            return True
        if at is None or at >= self._sure or 0 < s.top_k <= at:
            return False
        return s.top_p == 1 or (self._sums[at - 1] if at else 0.0) < s.top_p * self._sums[self._sure - 1]

    # ---- what is not known ---------------------------------------------------------------------------------------
    def _look(self, count: int) -> int | None:
        """Look at ``count`` tokens, each one of all with equal chances; the first that is drawn, if one is."""
        logits, bits, last, temperature = self._prediction.logits, self._bits, self._last, self._sampling.temperature
        least, exp, parts = less_likely(last, CLOSE, temperature), math.exp, 1 << WORD - bits
        for first in range(0, count, BLOCK):
            size = min(BLOCK, count - first)
            words, tokens, small = self._random.halves(size, bits)
            scores = logits.take(tokens, mode="wrap")
            # weighed are those that are near the last candidate, and those that are looked at with a small fraction
            near = scores >= least
            near |= small
            for i in near.nonzero()[0].tolist():
                word, score = words.item(i), scores.item(i)
                # penalties do not make it likelier: most fail without them
                if score < last and word >> bits >= exp((score - last) / temperature) * parts:
                    continue
                token = word & (1 << bits) - 1
                if self._draws(token, score, word >> bits):
                    return int(token)
        return None

    def _draws(self, token: int, score: float, fraction: int) -> bool:
        """Whether a token with such a logit that is looked at is drawn by the first bits of a ``fraction``."""
        s, p, penalties = self._sampling, self._prediction, self._penalties
        if penalties is not None and token in penalties:
            if not penalties.lowers:
                return False  # it is known
            score = penalties.of(token, score)
        weight = math.exp(min(0.0, (score - self._last) / s.temperature))
        parts = weight * (1 << WORD - self._bits)
        if fraction >= parts or self._bound * weight < s.min_p or token >= p.vocabulary or token in p.tokens:
            return False
        if self._allowed is not None and not self._allowed[token]:
            return False
        return fraction + 1 <= parts or self._random.random() < parts - fraction

    def _scores(self) -> npt.NDArray[np.float32]:
        """All logits, with penalties; minus infinity for those that may not be chosen."""
        scores = self._prediction.logits
        if self._penalties is not None:
            ids, changed = self._penalties.changed(scores)
            scores = scores.copy()
            scores[ids] = changed
        return scores if self._allowed is None else np.where(self._allowed, scores, np.float32(-np.inf))

    def _ranked(self) -> RankedDraw:
        """A draw from all logits."""
        scores = self._scores()
        best = self._top if self._top > self._last else float(scores.max())
        return RankedDraw(scores, self._sampling, self._random, best)
