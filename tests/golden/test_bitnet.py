"""The batched model equals the machine running a compiled program, bit for bit."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from hwgen.config import BuildConfig
from hwgen.golden.decoder import GoldenModel
from hwgen.golden.float_bitnet import float_model
from hwgen.registers import PassFlag
from hwgen.rounding import ceil_div
from hwgen.shape import ModelShape
from hwgen.sw.compiler.compile import compile_model
from hwgen.weights import random_weights

from .bits import assert_same_bits
from .passes import Host

GROUPED = ModelShape(hidden=48, layers=2, heads=4, kv_heads=2, head_dim=16, ffn=72, vocab=50, max_context=128)
MULTI_HEAD = ModelShape(hidden=40, layers=2, heads=3, kv_heads=3, head_dim=16, ffn=56, vocab=37, activation="silu",
tied=False, max_context=128)
ODD = ModelShape(
    hidden=20, layers=1, heads=3, kv_heads=1, head_dim=16, ffn=27, vocab=5, max_context=64, rope_theta=500.0
)

DEFAULT = BuildConfig(max_context=128)
NARROW = BuildConfig(ports=1, groups=1, lanes=1, rows=2, builders=14, kv_block=8, chunk=8,
max_context=128, ring_beats=1024, topk=4)
WIDE = BuildConfig(ports=2, groups=4, lanes=3, rows=2, builders=9, chunk=16, max_context=128)
NO_REPLAY = dataclasses.replace(DEFAULT, ring_beats=512, burst=16)


@pytest.mark.parametrize(("shape", "config", "chunk"), [
    (GROUPED, DEFAULT, 8), (GROUPED, DEFAULT, 5), (GROUPED, NARROW, 8), (GROUPED, WIDE, 12), (GROUPED, NO_REPLAY, 8),
    (MULTI_HEAD, DEFAULT, 8), (MULTI_HEAD, DEFAULT, 1), (MULTI_HEAD, NARROW, 3), (ODD, DEFAULT, 7),
])
def test_equals_machine(shape: ModelShape, config: BuildConfig, chunk: int) -> None:
    weights = random_weights(shape, 11)
    tokens = np.random.default_rng(chunk).integers(0, shape.vocab, 43)
    expected = GoldenModel(weights, config, chunk).logits(torch.from_numpy(tokens)[None])[0]
    image = compile_model(config, weights)
    pages = np.random.default_rng(2).permutation(ceil_div(image.context, config.kv_block)).tolist()
    host = Host(config, image, pages)
    for first in range(0, len(tokens), chunk):
        part = tokens[first : first + chunk]
        host.run(first, part.tolist())
        assert_same_bits(torch.from_numpy(host.machine.logits), expected[first + len(part) - 1])


def test_passes_without_logits_leave_the_same_state() -> None:
    weights = random_weights(GROUPED, 12)
    image = compile_model(DEFAULT, weights)
    tokens = np.random.default_rng(5).integers(0, GROUPED.vocab, 20).tolist()
    a, b = Host(DEFAULT, image), Host(DEFAULT, image)
    for host, options in ((a, PassFlag.LOGITS), (b, PassFlag(0))):
        host.run(0, tokens[:8], options)
        host.run(8, tokens[8:15], options)
        host.run(15, tokens[15:16], options)
    assert b.machine.logits.size == 0
    a.run(16, tokens[16:17])
    b.run(16, tokens[16:17])
    assert_same_bits(torch.from_numpy(a.machine.logits), torch.from_numpy(b.machine.logits))


def test_batch_rows_and_later_tokens_do_not_matter() -> None:
    weights = random_weights(GROUPED, 13)
    model = GoldenModel(weights, DEFAULT)
    tokens = torch.from_numpy(np.random.default_rng(6).integers(0, GROUPED.vocab, (3, 30)))
    together = model.logits(tokens)
    assert_same_bits(model.logits(tokens[1:2])[0], together[1])
    assert_same_bits(model.logits(tokens[2:, :21])[0], together[2, :21])


@pytest.mark.parametrize("shape", [GROUPED, MULTI_HEAD])
def test_close_to_float_reference(shape: ModelShape) -> None:
    weights = random_weights(shape, 14)
    tokens = torch.from_numpy(np.random.default_rng(7).integers(0, shape.vocab, (2, 40)))
    with torch.no_grad():
        reference = float_model(weights)(tokens).double()
    exact = GoldenModel(weights, DEFAULT).logits(tokens).double()
    error = (exact - reference).square().mean().sqrt() / reference.square().mean().sqrt()
    assert error < 0.03


def test_chunk_is_checked() -> None:
    with pytest.raises(ValueError, match="chunk must be at least 1, not 0"):
        GoldenModel(random_weights(ODD), DEFAULT, 0)
