"""Scaled rotary positions against the papers' formulas in plain numbers, of ``config.json`` and of GGUF files; every bound."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwgen.errors import HwgenError
from hwgen.formats import rotary_rows
from hwgen.shape import ModelShape
from hwgen.sw.models import gguf_classes
from hwgen.sw.models.fields import Fields
from hwgen.sw.models.gguf_classes import finish_shape, fused_in
from hwgen.sw.models.rotary_scaling import Rotary, linear_factors, llama3_factors, read_rotary, yarn_attention, yarn_factors

DIM, THETA = 128, 500_000.0


def waves() -> list[float]:
    """Positions of a turn of every pair."""
    return [2 * math.pi * THETA ** (2 * j / DIM) for j in range(DIM // 2)]


def test_llama3() -> None:
    """Transformers, `_compute_llama3_parameters`: short waves as they are, long ones stretched, between them a straight line."""
    found = llama3_factors(factor=8.0, low=1.0, high=4.0, original=8192.0, theta=THETA, head_dim=DIM)
    for wave, factor in zip(waves(), found, strict=True):
        smooth = (8192 / wave - 1) / 3
        expected = 1 if wave < 2048 else 8 if wave > 8192 else 1 / ((1 - smooth) / 8 + smooth)
        assert factor == pytest.approx(expected)
    assert found[0] == 1 and found[-1] == 8 and len({round(f, 6) for f in found}) > 4


@pytest.mark.parametrize("truncate", [True, False])
def test_yarn(truncate: bool) -> None:
    """YaRN's correction: the pair that turns so many times in the original context, rounded outwards where it is truncated."""
    found = yarn_factors(factor=4.0, fast=32.0, slow=1.0, original=4096.0, theta=10000.0, head_dim=DIM, truncate=truncate)
    low, high = (DIM * math.log(4096 / (turns * 2 * math.pi)) / (2 * math.log(10000)) for turns in (32, 1))
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    for j, factor in enumerate(found):
        ramp = min(max((j - low) / (high - low), 0), 1)
        assert factor == pytest.approx(1 / (ramp / 4 + 1 - ramp))
    assert len(found) == 64 and found[0] == 1 and found[-1] == 4
    assert yarn_factors(factor=4.0, fast=32.0, slow=1.0, original=4.0, theta=10000.0, head_dim=8)[0] >= 1
    narrow = yarn_factors(factor=2.0, fast=1.0, slow=1.0, original=2 * math.pi, theta=10000.0, head_dim=8, truncate=False)
    assert narrow == pytest.approx((1, 2, 2, 2)), "no pair lies between the same bounds"
    short = yarn_factors(factor=4.0, fast=32.0, slow=1.0, original=40 * math.pi, theta=10000.0, head_dim=8)
    assert short == (1, 1.6, 4, 4), "from pair 0 on where the bound lies before it"
    # the context itself is rounded, and so is where the bound lies
    long = yarn_factors(factor=4.0, fast=1e5, slow=1.0, original=2 * math.pi * 10**7.5, theta=10000.0, head_dim=8)
    assert long == pytest.approx((1, 1, 1, 1 / 0.85)), "up to 7, the number of the last element"


def test_attention_factors() -> None:
    assert [yarn_attention(f) for f in (0.5, 1.0)] == [1, 1] and yarn_attention(4.0) == pytest.approx(1 + 0.1 * math.log(4))
    assert yarn_attention(4.0, 0.5) == pytest.approx(1 + 0.05 * math.log(4)) and yarn_attention(1.0001) > 1
    assert linear_factors(1.0, 8) == () and linear_factors(2, 8) == (2.0,) * 4


def test_rows_of_scaled_positions() -> None:
    """Cosines of the first half, then sines, both times the scale; a divisor slows its pair."""
    shape = ModelShape(
        hidden=8, layers=1, heads=1, kv_heads=1, head_dim=8, ffn=8, vocab=8, rope_theta=100.0,
        rope_factors=(1, 2, 4, 8), rope_scale=1.5,
    )
    rows = rotary_rows(shape, [0, 3])
    for row, p in zip(rows, (0, 3), strict=True):
        for j in range(4):
            angle = p * 100 ** (-j / 4) / 2**j
            assert row[j] == pytest.approx(1.5 * math.cos(angle)) and row[4 + j] == pytest.approx(1.5 * math.sin(angle))
    assert rows.dtype == np.float32


def read(**said: Any) -> Rotary:
    """With texts as they come out of a file: equal to those of the program, and other objects."""
    return read_rotary(Fields(json.loads(json.dumps(said)), "config.json"), 8, 4096, 10000.0)


L3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0}
LONG = {"rope_type": "longrope", "short_factor": [1, 1.5, 2, 3], "long_factor": [9, 9, 9, 9]}


def yarn(**changes: Any) -> tuple[float, ...]:
    return yarn_factors(**{"factor": 4.0, "fast": 32.0, "slow": 1.0, "original": 4096, "theta": 10000.0, "head_dim": 8} | changes)


@pytest.mark.parametrize(("said", "expected"), [
    ({}, Rotary(10000.0)), ({"rope_theta": 7.0}, Rotary(7.0)),
    ({"rope_scaling": {"type": "linear", "factor": 4}}, Rotary(1e4, (4.0,) * 4)),
    ({"rope_parameters": {"rope_type": "default", "rope_theta": 5.0}}, Rotary(5.0)),
    ({"rope_scaling": {"factor": 1.0}}, Rotary(1e4)),
    ({"rope_scaling": L3}, Rotary(1e4, llama3_factors(factor=8, low=1, high=4, original=4096, theta=1e4, head_dim=8))),
    ({"rope_scaling": L3 | {"original_max_position_embeddings": 100}},
     Rotary(1e4, llama3_factors(factor=8, low=1, high=4, original=100, theta=1e4, head_dim=8))),
    ({"rope_scaling": YARN}, Rotary(1e4, yarn(), yarn_attention(4.0))),
    ({"rope_scaling": YARN | {"beta_fast": 8, "beta_slow": 2, "truncate": False, "attention_factor": 1.25}, "rope_theta": 2.0},
     Rotary(2.0, yarn(fast=8.0, slow=2.0, truncate=False, theta=2.0), 1.25)),
    ({"rope_scaling": YARN | {"mscale": 0.5, "mscale_all_dim": 1.0}},
     Rotary(1e4, yarn(), yarn_attention(4.0, 0.5) / yarn_attention(4.0, 1.0))),
    ({"rope_scaling": YARN | {"mscale": 0.5}}, Rotary(1e4, yarn(), yarn_attention(4.0))),
    ({"rope_scaling": YARN, "original_max_position_embeddings": 64}, Rotary(1e4, yarn(original=64), yarn_attention(4.0))),
    ({"rope_scaling": LONG | {"original_max_position_embeddings": 1024}},
     Rotary(1e4, (1, 1.5, 2, 3), math.sqrt(1 + math.log(4) / math.log(1024)), 1024)),
    *[({"rope_scaling": YARN, "original_max_position_embeddings": length}, Rotary(1e4, yarn(original=length), yarn_attention(4.0)))
      for length in (2010, 2011, 7910)],  # a pair turns just less than 32 times, just more often, and somewhat more than once
    ({"rope_scaling": LONG}, Rotary(1e4, (1, 1.5, 2, 3), 1.0, 4096)),
    ({"rope_scaling": LONG | {"factor": 0.5}}, Rotary(1e4, (1, 1.5, 2, 3), 1.0, 4096)),
    ({"rope_scaling": LONG | {"factor": 2, "attention_factor": 1.5}}, Rotary(1e4, (1, 1.5, 2, 3), 1.5, 4096)),
    ({"rope_scaling": {"rope_type": "hwgen_factors", "factors": [1, 2, 3, 4], "scale": 2}}, Rotary(1e4, (1, 2, 3, 4), 2.0)),
    ({"rope_scaling": {"rope_type": "hwgen_factors", "factors": []}}, Rotary(1e4)),
], ids=str)
def test_what_a_config_says(said: dict[str, Any], expected: Rotary) -> None:
    found = read(**said)
    assert (found.theta, found.factors, found.limit) == (expected.theta, pytest.approx(expected.factors), expected.limit)
    assert found.scale == pytest.approx(expected.scale)


@pytest.mark.parametrize(("said", "message"), [
    ({"rope_theta": 0}, "rope_theta must be a positive number"), ({"rope_theta": True}, "rope_theta must be"),
    ({"rope_theta": math.inf}, "rope_theta must be"), ({"rope_theta": "big"}, "rope_theta must be"),
    ({"rope_scaling": 3}, "an object"),
    ({"rope_scaling": {"factor": 2.0}}, "factor is 2.0 without a rope_type"),
    ({"rope_scaling": L3 | {"low_freq_factor": 4.0}}, "low_freq_factor 4.0 is not below"),
    ({"rope_theta": -1}, "rope_theta must be"),
    ({"rope_scaling": L3 | {"low_freq_factor": 5.0}}, "low_freq_factor 5.0 is not below"),
    ({"rope_scaling": YARN, "rope_theta": 1.0}, "must be above 1 for yarn"),
    ({"rope_scaling": YARN, "rope_theta": 0.5}, "must be above 1 for yarn"),
    ({"rope_scaling": YARN | {"truncate": 1}}, "truncate is 1"),
    ({"rope_scaling": LONG | {"original_max_position_embeddings": 1}}, "original_max_position_embeddings is 1"),
    ({"rope_scaling": LONG | {"short_factor": [1, 1, 1]}}, "short_factor must be 4 positive numbers"),
    ({"rope_scaling": LONG | {"short_factor": [1, 1, 1, 0]}}, "short_factor must be 4"),
    ({"rope_scaling": LONG | {"short_factor": [1, 1, 1, True]}}, "short_factor must be 4"),
    ({"rope_scaling": LONG | {"short_factor": [1, 1, 1, math.inf]}}, "short_factor must be 4"),
    ({"rope_scaling": LONG | {"short_factor": 1}}, "short_factor must be 4"),
    ({"rope_parameters": {"rope_type": "linear", "factor": 2},
      "rope_scaling": {"type": "linear", "factor": 3}}, "factor is 2, but 3"),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"), ({"rope_scaling": {"type": "ntk"}}, "rope_type is 'ntk'"),
    ({"rope_scaling": YARN | {"mood": 1}}, "the field mood"),
], ids=str)
def test_what_is_refused(said: dict[str, Any], message: str) -> None:
    with pytest.raises(HwgenError, match=message) as caught:
        read(**said)
    assert caught.value.kind == "architecture"


# ---- GGUF files ------------------------------------------------------------------------------------------------------
class File:
    """What is read of a GGUF file: fields, and tensors of floats."""

    path = Path("m.gguf")

    def __init__(self, fields: dict[str, Any], **tensors: list[float]) -> None:
        self.fields, self.tensors = fields, {f"{name}.weight": values for name, values in tensors.items()}

    def get(self, name: str, default: Any = None) -> Any:
        return self.fields.get(name, default)

    def number(self, name: str) -> float:
        return float(self.fields[name])

    def single(self, name: str) -> int:
        return int(self.fields[name])

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def floats(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        assert shape == (4,)
        return np.array(self.tensors[name], np.float32)


def of_gguf(fields: dict[str, Any], **tensors: list[float]) -> Rotary:
    file: Any = File({f"llama.rope.{name}": value for name, value in fields.items()}, **tensors)
    return gguf_classes.read_rotary(file, "llama", 8, 4096)


@pytest.mark.parametrize(("fields", "tensors", "expected"), [
    ({}, {}, Rotary(1e4)), ({"freq_base": 5e5}, {}, Rotary(5e5)),
    ({"scaling.type": "linear", "scaling.factor": 4.0}, {}, Rotary(1e4, (4.0,) * 4)),
    ({"scale_linear": 2.0}, {}, Rotary(1e4, (2.0,) * 4)),
    ({"scaling.type": "none", "scaling.factor": 4.0}, {}, Rotary(1e4)),
    ({"scaling.type": "linear", "scaling.factor": 0.0}, {}, Rotary(1e4)),
    ({"scaling.factor": 1.0}, {}, Rotary(1e4)), ({"scaling.type": "linear", "scaling.attn_factor": 1.0}, {}, Rotary(1e4)),
    ({"scaling.type": "yarn", "scaling.factor": 4.0}, {}, Rotary(1e4, yarn(), yarn_attention(4.0))),
    ({"scaling.type": "yarn", "scaling.factor": 4.0, "scaling.yarn_beta_fast": 8.0, "scaling.yarn_beta_slow": 2.0, "freq_base": 1.5,
      "scaling.original_context_length": 64, "scaling.yarn_attn_factor": 3.0}, {},
     Rotary(1.5, yarn(fast=8.0, slow=2.0, original=64.0, theta=1.5), 3 * yarn_attention(4.0))),
    ({"scaling.type": "yarn", "scaling.factor": 4.0, "scaling.attn_factor": 2.0, "scaling.yarn_attn_factor": 3.0}, {},
     Rotary(1e4, yarn(), 2 * yarn_attention(4.0))),
    ({}, {"rope_freqs": [1, 1, 1, 1]}, Rotary(1e4)), ({}, {"rope_freqs": [1, 1, 2, 8]}, Rotary(1e4, (1, 1, 2, 8))),
    ({"scale_linear": 2.0}, {"rope_freqs": [1, 1, 1, 1]}, Rotary(1e4, (2.0,) * 4)),
    ({"scale_linear": 2.0}, {"rope_freqs": [1, 1, 2, 8]}, Rotary(1e4, (2, 2, 4, 16))),
    ({"scaling.original_context_length": 64}, {"rope_factors_short": [1, 2, 3, 4]}, Rotary(1e4, (1, 2, 3, 4), 1.0, 64)),
    ({"scaling.original_context_length": 64, "scaling.type": "longrope", "scaling.attn_factor": 1.25, "freq_base": 2.0},
     {"rope_factors_short": [1, 2, 3, 4]}, Rotary(2.0, (1, 2, 3, 4), 1.25, 64)),
], ids=str)
def test_what_a_gguf_file_says(fields: dict[str, Any], tensors: dict[str, list[float]], expected: Rotary) -> None:
    found = of_gguf(fields, **tensors)
    assert (found.theta, found.factors, found.limit) == (expected.theta, pytest.approx(expected.factors), expected.limit)
    assert found.scale == pytest.approx(expected.scale)


@pytest.mark.parametrize(("fields", "tensors", "message"), [
    ({"freq_base": 0.0}, {}, "freq_base is 0.0, a positive number"), ({"scaling.factor": 2.0}, {}, "factor is 2, but there is no"),
    ({"scaling.type": "yarn", "freq_base": 1.0}, {}, "yarn wants one above 1"), ({"scaling.type": "odd"}, {}, "type is 'odd'"),
    ({"scaling.type": "linear", "scaling.attn_factor": 1.5}, {}, "attn_factor is 1.5"),
    ({"scaling.attn_factor": 1.5}, {}, "attn_factor is 1.5"), ({}, {"rope_freqs": [1, 0, 1, 1]}, "not above 0"),
    ({"scaling.type": "yarn"}, {"rope_factors_short": [1, 2, 3, 4]}, "type is 'yarn', but there is a tensor"),
    ({"scaling.original_context_length": 64}, {"rope_factors_short": [1, 0, 3, 4]}, "not above 0"),
], ids=str)
def test_what_is_refused_of_a_gguf_file(fields: dict[str, Any], tensors: dict[str, list[float]], message: str) -> None:
    with pytest.raises(HwgenError, match=message):
        of_gguf(fields, **tensors)


def test_what_other_architectures_have() -> None:
    """SmolLM3 leaves every fourth layer unrotated; Granite's epsilon is over the square of its multiplier; Phi-3's matrices lie
    together."""
    shape = ModelShape(hidden=8, layers=9, heads=1, kv_heads=1, head_dim=8, ffn=8, vocab=8, rms_eps=0.5)
    nothing: Any = File({})
    assert finish_shape(nothing, "smollm3", shape).unrotated == (3, 7) and finish_shape(nothing, "llama", shape) is shape
    file: Any = File({"granite.embedding_scale": 4.0})
    assert finish_shape(file, "granite", shape).rms_eps == 0.5 / 16 and finish_shape(nothing, "granite", shape).rms_eps == 0.5
    assert [fused_in("phi3", name) for name in ("q", "k", "v")] == [("attn_qkv", ("q", "k", "v"))] * 3
    assert [fused_in("phi3", name) for name in ("gate", "up", "o")] == [("ffn_up", ("gate", "up"))] * 2 + [None]
    assert fused_in("llama", "q") is None
