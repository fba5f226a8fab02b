"""Logarithms of the probabilities of tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .ranking import best_of

__all__ = ["TokenLogprobs", "token_logprobs"]


@dataclass(frozen=True)
class TokenLogprobs:
    """Logarithms of the model's own probabilities of a token and of the most likely ones, best first."""

    logprob: float
    top: tuple[tuple[int, float], ...]


def token_logprobs(logits: npt.NDArray[np.float32], token: int, count: int) -> TokenLogprobs:
    """Of ``token`` and of the ``count`` most likely, before temperature, penalties and biases."""
    scores = logits.astype(np.float64)
    scores -= scores.max()
    scores -= np.log(np.exp(scores).sum())
    ids = best_of(scores, count) if count else np.arange(0)
    ids = ids[np.argsort(-scores[ids], kind="stable")]
    return TokenLogprobs(float(scores[token]), tuple((int(i), float(scores[i])) for i in ids))
