"""Likelihood of token rows under both models."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hwgen.config import BuildConfig
from hwgen.golden.float_bitnet import float_model
from hwgen.golden.perplexity import compare_likelihood, negative_log_likelihood, token_windows
from hwgen.shape import ModelShape
from hwgen.weights import random_weights

SHAPE = ModelShape(hidden=48, layers=1, heads=2, kv_heads=1, head_dim=16, ffn=64, vocab=40, max_context=64)


@pytest.mark.parametrize("count", [2, 9, 10, 17, 30])
def test_windows_predict_every_token_once(count: int) -> None:
    batches = token_windows(range(count), 8)
    targets = [int(t) for batch in batches for row in batch for t in row[1:]]
    assert sorted(targets) == list(range(1, count))
    assert all((row[1:] - row[:-1] == 1).all() for batch in batches for row in batch)
    assert all(batch.shape[1] <= 9 for batch in batches)


def test_windows_refuse() -> None:
    with pytest.raises(ValueError, match="length must be at least 1, not 0"):
        token_windows([1, 2, 3], 0)
    with pytest.raises(ValueError, match="tokens must be at least 2, not 1"):
        token_windows([1], 4)


def test_likelihood_of_uniform_and_certain() -> None:
    targets = torch.tensor([3, 0, 7])
    assert math.isclose(negative_log_likelihood(torch.zeros(3, 8), targets), 3 * math.log(8))
    certain = torch.full((3, 8), -1e30).scatter(1, targets[:, None], 0.0)
    assert negative_log_likelihood(certain, targets) == 0.0


def test_comparison() -> None:
    weights = random_weights(SHAPE, 1)
    tokens = np.random.default_rng(1).integers(0, SHAPE.vocab, 75).tolist()
    calls: list[tuple[int, int]] = []
    result = compare_likelihood(
        weights, BuildConfig(), tokens, length=16, batch=3, progress=lambda *args: calls.append(args)
    )
    assert result.tokens == 74 and calls[-1] == (74, 74) and [done for done, _ in calls] == [48, 64, 74]
    assert abs(result.gap) < 0.05
    assert result.float_perplexity == pytest.approx(math.exp(result.float_nats / 74))
    with torch.no_grad():  # the last window alone
        rest = torch.tensor(tokens[64:])[None]
        nats = negative_log_likelihood(float_model(weights)(rest[:, :-1]), rest[:, 1:])
    first = compare_likelihood(weights, BuildConfig(), tokens[:65], length=16)
    assert result.float_nats - first.float_nats == pytest.approx(nats, rel=1e-5)
