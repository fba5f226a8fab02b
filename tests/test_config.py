"""Illegal build configurations are refused, and what the message proposes is legal."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from hwgen.boards import load_board
from hwgen.config import BuildConfig, ConfigError

KV260 = load_board("kv260").config


@pytest.mark.parametrize(("config", "name", "value", "nearest"), [
    (BuildConfig(), "port_bits", 256, 128),
    (BuildConfig(), "ports", 9, 8),
    (BuildConfig(), "beat_bytes", 33, 32),
    (BuildConfig(beat_bytes=16, rows=1, builders=27, kv_block=8, chunk=8), "beat_bytes", 8, 16),
    (BuildConfig(beat_bytes=256, kv_block=128, max_head_dim=128, builders=1), "beat_bytes", 512, 256),
    (BuildConfig(), "beat_vectors", 8, 1),
    (BuildConfig(), "burst", 48, 32),
    (BuildConfig(), "burst", 1, 2),
    (BuildConfig(builders=1), "rows", 3, 2),
    (BuildConfig(builders=1), "rows", 16, 8),
    (BuildConfig(), "groups", 3, 2),
    (BuildConfig(groups=4), "ring_beats", 4098, 4096),
    (BuildConfig(), "ring_beats", 32, 64),
    (BuildConfig(), "builders", 8, 7),
    (BuildConfig(), "builders", 28, 14),
    (BuildConfig(), "kv_block", 64, 16),
    (BuildConfig(), "chunk", 18, 16),
    (BuildConfig(), "chunk", 7, 6),
    (BuildConfig(), "burst", 512, 256),
    (BuildConfig(), "ring_memory", "lut", "ultra"),
    (BuildConfig(), "activation_memory", "dram", "ultra"),
    (BuildConfig(), "max_head_dim", 72, 64),
    (BuildConfig(), "max_inputs", 1020, 1024),
    (BuildConfig(), "max_query", 1000, 1008),
    (KV260, "panel_rows", 2056, 2064),
    (BuildConfig(), "max_context", 1000, 1008),
    (BuildConfig(), "descriptor_queue", 1, 2),
    (BuildConfig(), "max_head_dim", 8, 16), (BuildConfig(), "summary_rows", 32, 16), (BuildConfig(), "summary_rows", 3, 2),
    (BuildConfig(), "bank_bytes", 12000, 8192), (BuildConfig(), "bank_bytes", 128, 256), (BuildConfig(), "query_lanes", 6, 4),
    (BuildConfig(), "kv_block", 24, 16), (BuildConfig(port_bits=32), "burst", 1024, 256), (BuildConfig(), "beat_vectors", 3, 1),
    (BuildConfig(engine="int4", rows=2, builders=1), "max_inputs", 1040, 1056),
    (BuildConfig(engine="int4", rows=2, builders=1), "rows", 1, 2), (BuildConfig(), "topk", 114, 113),
    (BuildConfig(engine="grouped", rows=2, builders=1), "rows", 1, 2), (BuildConfig(), "scratch_memory", "lut", "ultra"),
])
def test_the_nearest_legal_value_is_named_and_legal(config: BuildConfig, name: str, value: object, nearest: object) -> None:
    with pytest.raises(ConfigError, match=f"^{name} must be .*, not {value!r}; the nearest legal value is {nearest!r}$"):
        replace(config, **{name: value})  # type: ignore[arg-type]
    replace(config, **{name: nearest})  # type: ignore[arg-type]


@pytest.mark.parametrize(("changes", "message"), [
    ({"kv_block": 64}, "kv_block must be 8, 16 or 32 for beats of 32 bytes, not 64"),
    ({"engine": "int4", "rows": 1, "builders": 1}, "rows must be 2 to 16 with an INT4 engine (slices of 4 to 32 inputs), not 1"),
    ({"rows": 16}, "rows must be one of [1, 2, 4, 8] (it divides the vector width 8), not 16"),
    ({"rows": 8, "beat_vectors": 2}, "rows must be one of [1, 2, 4] (it divides the vector width 4), not 8"),
    ({"beat_vectors": 8}, "beat_vectors must be a power of two up to 4, not 8"),
    ({"topk": 20, "shortlist": 2}, "topk must be at most 17, the rows that a short list of 2 blocks has at least, not 20"),
    ({"burst": 1}, "burst must be at least a beat (2 words), not 1"),
    ({"max_head_dim": 40}, "max_head_dim must be a multiple of 16"),
    ({"groups": 4, "ring_beats": 3}, "ring_beats must be a multiple of groups (4), not 3; the nearest legal value is 4"),
    ({"builders": 3}, "builders must be a divisor of the 14 tables of a lane, not 3; the nearest legal value is 2"),
])
def test_what_would_be_legal_is_said(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        BuildConfig(**changes)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("beat_vectors", [4, 8])
def test_a_beat_holds_at_most_a_vector_of_a_key(beat_vectors: int) -> None:
    """Keys of 4 elements a beat need vectors of at least 4."""
    sizes: dict[str, Any] = {"beat_bytes": 64, "beat_vectors": beat_vectors, "rows": 2, "builders": 1, "chunk": 8}
    narrow = 16 // beat_vectors
    if narrow >= 4:
        assert BuildConfig(**sizes, kv_block=16).key_bytes == 4
        return
    with pytest.raises(ConfigError, match="^kv_block must be at least 32, .* not 16; the nearest legal value is 32$") as caught:
        BuildConfig(**sizes, kv_block=16)
    fix = int(str(caught.value).split()[-1])
    assert BuildConfig(**sizes, kv_block=fix).key_bytes <= narrow


def test_a_budget_of_blocks() -> None:
    """None, or two at least; and entries for the pages of summaries."""
    assert BuildConfig(kv_budget=0).summary_pages == 0 and BuildConfig(kv_budget=2).summary_pages == 16
    for value, nearest in ((1, 2), (254, 253)):
        with pytest.raises(ConfigError, match=rf"^kv_budget must be 0 \(none\), or 2 to 253 blocks, not .*is {nearest}$"):
            BuildConfig(kv_budget=value)
    with pytest.raises(ConfigError, match="^page_entries must be at least 80, .*summaries, not 79; the nearest legal value is 80$"):
        BuildConfig(kv_budget=2, page_entries=79)
    assert BuildConfig(page_entries=64) and BuildConfig(kv_budget=2, page_entries=80)


@pytest.mark.parametrize(("name", "value"), [
    (f.name, value) for f in fields(BuildConfig) if f.type == "int" for value in (0, -1, 2.5, True, "2")
    if (f.name, value) != ("kv_budget", 0)
])
def test_sizes_are_positive_integers(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be a positive integer"):
        BuildConfig(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("board", ["demo", "kv260"])
def test_dictionaries(board: str) -> None:
    config = load_board(board).config
    assert BuildConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ConfigError, match="unknown configuration field 'load_bytes'; known fields: "):
        BuildConfig.from_dict({**config.to_dict(), "load_bytes": 8})
