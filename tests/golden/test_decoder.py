"""The bit-exact model: equal to the machine running a compiled program, windows to passes, both close to the float references."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from hwgen.config import BuildConfig
from hwgen.decoder import LLAMA
from hwgen.golden.decoder import GoldenModel, GoldenSession
from hwgen.golden.float_bitnet import float_model
from hwgen.golden.float_llama import FloatLlama
from hwgen.rounding import ceil_div
from hwgen.shape import ModelShape
from hwgen.sw.compiler.compile import compile_model
from hwgen.weights import dense, random_weights

from .bits import assert_same_bits
from .passes import Host

GROUPED = ModelShape(hidden=48, layers=2, heads=4, kv_heads=2, head_dim=16, ffn=80, vocab=50, activation="silu", max_context=128)
MULTI_HEAD = ModelShape(hidden=96, layers=1, heads=3, kv_heads=3, head_dim=32, ffn=112, vocab=37, activation="silu", tied=False,
max_context=128)
CONFIG = BuildConfig(max_context=128)

TERNARY_GROUPED = ModelShape(hidden=48, layers=2, heads=4, kv_heads=2, head_dim=16, ffn=72, vocab=50, max_context=128)
TERNARY_MULTI_HEAD = ModelShape(hidden=40, layers=2, heads=3, kv_heads=3, head_dim=16, ffn=56, vocab=37, activation="silu",
tied=False, max_context=128)
#: Inputs are whole groups that share scales.
SCALED = ModelShape(hidden=128, layers=1, heads=4, kv_heads=2, head_dim=32, ffn=256, vocab=50, activation="silu", max_context=128)
ODD = ModelShape(
    hidden=20, layers=1, heads=3, kv_heads=1, head_dim=16, ffn=27, vocab=5, max_context=64, rope_theta=500.0
)

DEFAULT = BuildConfig(max_context=128)
NARROW = BuildConfig(ports=1, beat_bytes=16, groups=1, lanes=1, rows=2, builders=14, kv_block=8, chunk=8,
max_context=128, ring_beats=1024, topk=4)
WIDE = BuildConfig(ports=2, beat_bytes=32, groups=4, lanes=3, rows=2, builders=9, chunk=16, max_context=128)
WITH_SCALES = dataclasses.replace(DEFAULT, engine="grouped", rows=8, builders=7)
NO_REPLAY = dataclasses.replace(DEFAULT, ring_beats=512, burst=16)


@pytest.mark.parametrize(("shape", "kv", "query", "group"), [
    (GROUPED, "k8v8", "int8", 16), (GROUPED, "k4v4", "e4m3", 32), (GROUPED, "k8v4", "int8", 32),
    (MULTI_HEAD, "k4v4", "int8", 64), (MULTI_HEAD, "k8v8", "e4m3", 128),
])
def test_how_a_sequence_is_cut_changes_no_bit(shape: ModelShape, kv: str, query: str, group: int) -> None:
    weights = random_weights(shape, 3, LLAMA, "int4", group=group, kv=kv, query=query)
    model = GoldenModel(weights, CONFIG)
    tokens = np.random.default_rng(4).integers(0, shape.vocab, 40).tolist()
    expected = model.logits(torch.tensor([tokens]))[0]
    for counts in ([1] * 40, [5, 1, 17, 17], [16, 16, 8], [31, 2, 7]):
        session, first = GoldenSession(), 0
        for count in counts:
            assert_same_bits(model.forward(session, tokens[first : first + count]), expected[first + count - 1])
            first += count


@pytest.mark.parametrize(("kv", "query", "bound"), [
    ("k8v8", "int8", 0.1), ("k8v8", "e4m3", 0.1), ("k8v4", "int8", 0.15), ("k4v4", "int8", 0.3),
])
def test_close_to_the_float_reference(kv: str, query: str, bound: float) -> None:
    weights = random_weights(GROUPED, 5, LLAMA, "int4", kv=kv, query=query)
    tokens = torch.from_numpy(np.random.default_rng(1).integers(0, 50, (2, 60)))
    exact, reference = GoldenModel(weights, CONFIG).logits(tokens), FloatLlama(weights)(tokens)
    error = (exact - reference).std() / reference.std()
    assert 0 < error < bound


def test_later_tokens_do_not_matter() -> None:
    model = GoldenModel(random_weights(GROUPED, 7, LLAMA, "int4", kv="k4v4", query="e4m3"), CONFIG)
    tokens = torch.from_numpy(np.random.default_rng(2).integers(0, 50, (1, 30)))
    other = tokens.clone()
    other[0, 17:] = 3
    assert_same_bits(model.logits(tokens)[0, :17], model.logits(other)[0, :17])


def test_needs_codes() -> None:
    weights = random_weights(GROUPED, 7, LLAMA, "int4")
    first, second = weights.layers
    floats = dataclasses.replace(weights, layers=(first, second.with_matrices({"up": dense(second.matrices["up"])})))
    assert not floats.is_quantized and weights.is_quantized
    with pytest.raises(ValueError, match="layer 1 up must have 4-bit codes"):
        GoldenModel(floats, CONFIG)
    with pytest.raises(ValueError, match="kv must be one of"):
        random_weights(GROUPED, 0, LLAMA, "int4", kv="fp8")


@pytest.mark.parametrize("shape", [GROUPED, MULTI_HEAD])
def test_reference_equals_transformers(shape: ModelShape) -> None:
    transformers = pytest.importorskip("transformers")
    weights = random_weights(shape, 9, LLAMA, "int4")
    config = transformers.LlamaConfig(
        hidden_size=shape.hidden, num_hidden_layers=shape.layers, num_attention_heads=shape.heads, head_dim=shape.head_dim,
        num_key_value_heads=shape.kv_heads, intermediate_size=shape.ffn, vocab_size=shape.vocab, rms_norm_eps=shape.rms_eps,
        tie_word_embeddings=shape.tied, rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
    )
    state = {"model.embed_tokens.weight": weights.embedding, "model.norm.weight": weights.norm, "lm_head.weight": weights.head_rows}
    for i, layer in enumerate(weights.layers):
        for part, names in (("self_attn", "q k v o"), ("mlp", "gate up down")):
            for name in names.split():
                state[f"model.layers.{i}.{part}.{name}_proj.weight"] = dense(layer.matrices[name])
        state |= {f"model.layers.{i}.{name}.weight": gain for name, gain in layer.norms.items()}
    model = transformers.LlamaForCausalLM(config).eval()
    model.load_state_dict({name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in state.items()})
    tokens = torch.from_numpy(np.random.default_rng(2).integers(0, shape.vocab, (2, 33)))
    with torch.no_grad():
        expected = model(tokens).logits
    torch.testing.assert_close(FloatLlama(weights)(tokens), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("shape", "config", "chunk"), [
    (TERNARY_GROUPED, DEFAULT, 8), (TERNARY_GROUPED, DEFAULT, 5), (TERNARY_GROUPED, NARROW, 8), (TERNARY_GROUPED, WIDE, 12),
    (TERNARY_GROUPED, NO_REPLAY, 8),
    (TERNARY_MULTI_HEAD, DEFAULT, 8), (TERNARY_MULTI_HEAD, DEFAULT, 1), (TERNARY_MULTI_HEAD, NARROW, 3), (ODD, DEFAULT, 7),
    (SCALED, WITH_SCALES, 8), (dataclasses.replace(SCALED, tied=False), WITH_SCALES, 5),
])
def test_equals_machine(shape: ModelShape, config: BuildConfig, chunk: int) -> None:
    weights = random_weights(shape, 11, engine=config.engine)
    assert (weights.grouped_head is not None) == (config.has_groups and shape.tied)
    tokens = np.random.default_rng(chunk).integers(0, shape.vocab, 43)
    expected = GoldenModel(weights, config).logits(torch.from_numpy(tokens)[None])[0]
    image = compile_model(config, weights)
    pages = np.random.default_rng(2).permutation(ceil_div(image.context, config.kv_block)).tolist()
    host = Host(config, image, pages)
    for first in range(0, len(tokens), chunk):
        part = tokens[first : first + chunk]
        host.run(first, part.tolist())
        assert_same_bits(torch.from_numpy(host.machine.logits[0]), expected[first + len(part) - 1])


def test_passes_without_logits_leave_the_same_state() -> None:
    weights = random_weights(TERNARY_GROUPED, 12)
    image = compile_model(DEFAULT, weights)
    tokens = np.random.default_rng(5).integers(0, TERNARY_GROUPED.vocab, 20).tolist()
    a, b = Host(DEFAULT, image), Host(DEFAULT, image)
    for host, wanted in ((a, 1), (b, 0)):
        host.run(0, tokens[:8], wanted)
        host.run(8, tokens[8:15], wanted)
        host.run(15, tokens[15:16], wanted)
    assert b.machine.logits[0].size == 0
    a.run(16, tokens[16:17])
    b.run(16, tokens[16:17])
    assert_same_bits(torch.from_numpy(a.machine.logits[0]), torch.from_numpy(b.machine.logits[0]))


def test_batch_rows_and_later_tokens_do_not_matter() -> None:
    weights = random_weights(TERNARY_GROUPED, 13)
    model = GoldenModel(weights, DEFAULT)
    tokens = torch.from_numpy(np.random.default_rng(6).integers(0, TERNARY_GROUPED.vocab, (3, 30)))
    together = model.logits(tokens)
    assert_same_bits(model.logits(tokens[1:2])[0], together[1])
    assert_same_bits(model.logits(tokens[2:, :21])[0], together[2, :21])


@pytest.mark.parametrize("shape", [TERNARY_GROUPED, TERNARY_MULTI_HEAD])
def test_ternary_close_to_float_reference(shape: ModelShape) -> None:
    weights = random_weights(shape, 14)
    tokens = torch.from_numpy(np.random.default_rng(7).integers(0, shape.vocab, (2, 40)))
    with torch.no_grad():
        reference = float_model(weights)(tokens).double()
    exact = GoldenModel(weights, DEFAULT).logits(tokens).double()
    error = (exact - reference).square().mean().sqrt() / reference.square().mean().sqrt()
    assert error < 0.03


@pytest.mark.parametrize("config", [DEFAULT, NARROW, WIDE])
def test_how_the_machine_cuts_a_sequence_changes_no_bit(config: BuildConfig) -> None:
    """Logits at the end of random passes, and every key and value in the cache, are those of one token at a time."""
    weights = random_weights(TERNARY_GROUPED, 15)
    image = compile_model(config, weights)
    random = np.random.default_rng(config.kv_block)
    tokens = random.integers(0, TERNARY_GROUPED.vocab, 43).tolist()
    alone = Host(config, image)
    expected = []
    for position, token in enumerate(tokens):
        alone.run(position, [token])
        expected.append(alone.machine.logits[0].copy())
    for _ in range(3):
        host, first = Host(config, image), 0
        while first < len(tokens):
            count = min(int(random.integers(1, image.chunk + 1)), len(tokens) - first)
            host.run(first, tokens[first : first + count])
            first += count
            assert_same_bits(torch.from_numpy(host.machine.logits[0]), torch.from_numpy(expected[first - 1]))
        assert np.array_equal(*(h.machine.memory[h.cache :] for h in (host, alone)))


@pytest.mark.parametrize(("config", "head"), [(DEFAULT, "exact"), (NARROW, "exact"), (WIDE, "exact"), (DEFAULT, "shortlist")])
def test_what_else_is_in_a_pass_changes_no_bit(config: BuildConfig, head: str) -> None:
    """Three sequences, cut and mixed into passes at random; logits of any tokens are those of a sequence alone."""
    weights = random_weights(TERNARY_GROUPED, 16)
    image = compile_model(config, weights, head=head)
    random = np.random.default_rng(config.kv_block)
    blocks = ceil_div(image.context, config.kv_block)
    sequences = [random.integers(0, TERNARY_GROUPED.vocab, n).tolist() for n in (43, 20, 31)]
    expected = []
    for tokens in sequences:
        alone = Host(config, image)
        expected.append([])
        for position, token in enumerate(tokens):
            alone.run(position, [token])
            expected[-1].append((alone.machine.logits[0].copy(), list(alone.machine.registers.candidates[0])))
    small = dataclasses.replace(image, pages=3 * blocks)
    host, done, most = Host(config, small), [0, 0, 0], 0
    while left := [i for i in range(3) if done[i] < len(sequences[i])]:
        runs, room = [], image.chunk
        for i in random.permutation(left):
            count = min(int(random.integers(0, image.chunk + 1)), room, len(sequences[i]) - done[i])
            if count:
                runs.append((int(i), count, int(random.integers(0, count + 1))))
                room -= count
        if not runs:
            continue
        host.run_all([(done[i], i * blocks, sequences[i][done[i] : done[i] + count], wanted) for i, count, wanted in runs])
        j = 0
        for i, count, wanted in runs:
            done[i] += count
            for position in range(done[i] - wanted, done[i]):
                logits, candidates = expected[i][position]
                assert host.machine.registers.candidates[j] == candidates
                if head == "exact":
                    assert_same_bits(torch.from_numpy(host.machine.logits[j]), torch.from_numpy(logits))
                j += 1
        most = max(most, len(runs))
    assert most == 3
