"""Memories that a simulator sees: a probe is as deep as the last address that its documentation names, and one."""

from __future__ import annotations

import pytest

from hwgen.boards import load_board
from hwgen.config import BuildConfig
from hwgen.probes import Probe, probes


@pytest.mark.parametrize("config", [
    BuildConfig(), BuildConfig(chunk=1, query_lanes=1), load_board("kv260").config, load_board("kv260").for_engine("int4").config,
    load_board("pynq-z2").config,
], ids=["default", "one token", "kv260", "kv260-int4", "pynq-z2"])
def test_depths_are_those_of_the_addresses(config: BuildConfig) -> None:
    c, w = config, config.width
    last_token, vectors = c.tokens - 1, c.max_inputs // w
    slots, heads, head_vectors = c.chunk, c.max_kv_heads, c.max_head_dim // w
    last = {
        "scratch": c.scratch_vectors - 1, "param": c.param_vectors - 1,
        "act": (1 * c.tokens + last_token) * vectors + vectors - 1,
        "acc": (1 * c.tokens + last_token) * c.panel_vectors + c.panel_vectors - 1,
        # the memory of queries also has the input of the head, which may be longer than they are
        "query": max(slots * c.max_query // w, vectors) - 1, "query_scale": slots * c.max_heads - 1,
        "kv": (((slots - 1) * 2 + 1) * heads + heads - 1) * head_vectors + head_vectors - 1,
        "kv_scale": ((slots - 1) * 2 + 1) * heads + heads - 1,
    }
    words = {"scratch": (32, w, "f32"), "param": (32, w, "f32"), "act": (8, w, "int"), "acc": (c.acc_bits, w, "int"),
             "query": (8, w, "int"), "query_scale": (32, 1, "f32"), "kv": (8, w, "int"), "kv_scale": (16, 1, "bf16")}
    assert probes(config) == [Probe(name, address + 1, *words[name]) for name, address in last.items()]
    assert {type(number) for p in probes(config) for number in (p.depth, p.word_bits, p.lanes)} == {int}
