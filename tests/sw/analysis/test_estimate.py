"""Prompts and decoding, estimated."""

from __future__ import annotations

import pytest

from hwgen.boards import load_board
from hwgen.errors import HwgenError
from hwgen.shape import ModelShape
from hwgen.sim.board_timing import MemoryConditions
from hwgen.sim.port_rate import tabled_port_rate
from hwgen.sw.analysis.estimate import calibration_of, describe_estimate, estimate_json, estimate_model
from hwgen.sw.compiler.pass_model import Calibration

KV260 = load_board("kv260")


def test_short_list_saves_the_head() -> None:
    exact, short = (estimate_json(KV260, "bitnet-2b4t", 0, 1, head=head, cached=128) for head in ("exact", "shortlist"))
    assert short["decode"]["tok_s"] > 1.4 * exact["decode"]["tok_s"]
    assert exact["decode"]["stream_bytes"] > short["decode"]["stream_bytes"]


def test_any_shape() -> None:
    shape = ModelShape(hidden=64, layers=1, heads=2, kv_heads=1, head_dim=16, ffn=96, vocab=50, max_context=64)
    estimate = estimate_model(load_board("demo").config, shape, 13, 2)
    assert len(estimate.prefill) == 2 and len(estimate.decode) == 2


def test_calibration_has_the_memory_of_the_board() -> None:
    slow = MemoryConditions(latency_ns=480, cpu_bytes_per_s=1e9)
    usual, calibration = Calibration(), calibration_of(KV260, slow)
    assert calibration.port_rate == tabled_port_rate(KV260, slow) < calibration_of(KV260, MemoryConditions()).port_rate
    assert calibration.refill - usual.refill == calibration.first_beat - usual.first_beat == 120 - 60
    assert calibration_of(load_board("demo"), MemoryConditions()) == usual  # the memory that the figures were taken with


def test_contiguous_memory() -> None:
    long, short = (estimate_json(KV260, "bitnet-0.73b", 0, 1, context=context) for context in (None, 512))
    assert (long["context"], short["context"]) == (2048, 512)
    assert long["buffers"]["pages"] == 4 * short["buffers"]["pages"] and long["buffers"]["logits"] == short["buffers"]["logits"]
    assert sum(short["buffers"].values()) < short["contiguous_bytes"] < long["contiguous_bytes"] < 400e6
    assert any("MB of contiguous memory at context 512" in line for line in describe_estimate(short))


def test_the_smallest_board_decodes_the_large_ternary_model() -> None:
    """Ten tokens a second, also while the processor reads beside it and the memory is slow."""
    slow = MemoryConditions(latency_ns=480.0, cpu_bytes_per_s=1e8)
    for memory in (MemoryConditions(), slow):
        result = estimate_json(load_board("pynq-z2"), "bitnet-0.73b", 0, 1, cached=128, head="shortlist", memory=memory)
        assert result["decode"]["tok_s"] > 10


def test_sequences_share_a_pass() -> None:
    """The weights are read once for all, keys and values of each; logits of the exact head once for each."""
    one, six = (
        estimate_json(KV260, "bitnet-2b4t", 0, 2, cached=128, sequences=n, head="shortlist", context=160) for n in (1, 6)
    )
    assert (six["sequences"], six["decode"]["tokens"]) == (6, 12)
    assert six["decode"]["tok_s"] == pytest.approx(6 * six["decode"]["tok_s_each"])
    assert one["decode"]["tok_s"] == one["decode"]["tok_s_each"] < six["decode"]["tok_s"] / 5
    assert six["decode"]["bytes_per_token"] < one["decode"]["bytes_per_token"] / 4
    assert six["buffers"]["pages"] == 6 * one["buffers"]["pages"]
    assert any("6 sequences" in line for line in describe_estimate(six))
    with pytest.raises(HwgenError, match="a pass has at most 24 tokens, not 25"):
        estimate_json(KV260, "bitnet-2b4t", 0, 1, cached=128, sequences=25)
