"""Prompts and decoding, estimated."""

from __future__ import annotations

from hwgen.boards import load_board
from hwgen.shape import ModelShape
from hwgen.sw.analysis.estimate import estimate_json, estimate_model

KV260 = load_board("kv260")


def test_short_list_saves_the_head() -> None:
    exact, short = (estimate_json(KV260, "bitnet-2b4t", 0, 1, head=head, cached=128) for head in ("exact", "shortlist"))
    assert short["decode"]["tok_s"] > 1.4 * exact["decode"]["tok_s"]
    assert exact["decode"]["stream_bytes"] > short["decode"]["stream_bytes"]


def test_any_shape() -> None:
    shape = ModelShape(hidden=64, layers=1, heads=2, kv_heads=1, head_dim=16, ffn=96, vocab=50, max_context=64)
    estimate = estimate_model(load_board("demo").config, shape, 13, 2)
    assert len(estimate.prefill) == 2 and len(estimate.decode) == 2
