"""Negative log-likelihood of a text under the float reference and under the machine's arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..config import BuildConfig
from ..weights import ModelWeights
from .decoder import GoldenModel
from .float_bitnet import float_model

__all__ = ["Comparison", "compare_likelihood", "compare_models", "negative_log_likelihood", "perplexity", "token_windows"]


#: ``tokens [batch, length] -> logits [batch, length, vocab]``.
Logits = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Comparison:
    """Summed negative log-likelihoods, in nats, of the same predicted tokens."""

    #: Predicted tokens.
    tokens: int
    #: Sum under the float reference.
    float_nats: float
    #: Sum under the bit-exact model.
    exact_nats: float

    @property
    def float_perplexity(self) -> float:
        return math.exp(self.float_nats / self.tokens)

    @property
    def exact_perplexity(self) -> float:
        return math.exp(self.exact_nats / self.tokens)

    @property
    def gap(self) -> float:
        """Relative difference of the perplexities; positive where the machine is worse."""
        return self.exact_perplexity / self.float_perplexity - 1.0


def token_windows(tokens: Sequence[int], length: int) -> list[Tensor]:
    """Cut a text into batches ``[n, length + 1]`` of windows; the last token of one is the first of the next.

    Every token but the first is predicted exactly once; the rest of the text is a shorter window in a batch of its own.
    """
    if length < 1:
        raise ValueError(f"length must be at least 1, not {length!r}")
    if len(tokens) < 2:
        raise ValueError(f"tokens must be at least 2, not {len(tokens)}")
    ids = torch.as_tensor(tokens, dtype=torch.int64)
    whole = (len(ids) - 1) // length
    batches = [ids[: whole * length + 1].unfold(0, length + 1, length)] if whole else []
    rest = ids[whole * length :]
    return batches + ([rest[None]] if len(rest) > 1 else [])


def negative_log_likelihood(logits: Tensor, targets: Tensor) -> float:
    """Sum over all positions of -log softmax(``logits [..., vocab]``) at ``targets [...]``, in float64."""
    scores = logits.double()
    return float((scores.logsumexp(dim=-1) - scores.gather(-1, targets.unsqueeze(-1)).squeeze(-1)).sum())


def compare_likelihood(
    weights: ModelWeights,
    config: BuildConfig,
    tokens: Sequence[int],
    *,
    length: int = 256,
    batch: int = 4,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Comparison:
    """Score ``tokens`` with both models in windows of ``length`` tokens, ``batch`` windows at a time.

    Both see the same windows, each from position 0. ``progress(done, total)`` counts predicted tokens.
    """
    length = min(length, weights.shape.max_context)
    return compare_models(
        float_model(weights), GoldenModel(weights, config).logits, tokens, length=length, batch=batch, progress=progress
    )


def compare_models(
    reference: Logits,
    exact: Logits,
    tokens: Sequence[int],
    *,
    length: int,
    batch: int = 4,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Comparison:
    """As :func:`compare_likelihood`, for any two models."""
    done, total = 0, len(tokens) - 1
    float_nats = exact_nats = 0.0
    for windows in token_windows(tokens, length):
        for first in range(0, len(windows), batch):
            rows = windows[first : first + batch]
            inputs, targets = rows[:, :-1], rows[:, 1:]
            with torch.no_grad():
                float_nats += negative_log_likelihood(reference(inputs), targets)
            exact_nats += negative_log_likelihood(exact(inputs), targets)
            done += targets.numel()
            progress(done, total)
    return Comparison(done, float_nats, exact_nats)


def perplexity(model: Logits, tokens: Sequence[int], length: int) -> float:
    """Of one model, in windows of ``length`` tokens, one at a time."""
    nats = 0.0
    for windows in token_windows(tokens, length):
        for row in windows:
            with torch.no_grad():
                nats += negative_log_likelihood(model(row[None, :-1]), row[None, 1:])
    return math.exp(nats / (len(tokens) - 1))
