"""``config.json`` as people and other programs write it: a shape, or one line that names the field."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hwgen.errors import HwgenError
from hwgen.shape import ModelShape
from hwgen.sw.models.config_json import read_config, read_generation
from hwgen.sw.models.families import family_of_config
from hwgen.sw.models.fields import Fields

SIZES = {
    "model_type": "llama", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
    "intermediate_size": 48, "vocab_size": 64, "max_position_embeddings": 128, "head_dim": 16,
}

YARN = {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0, "original_max_position_embeddings": 32, "truncate": True,
        "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0, "attention_factor": 1.1}

LONGROPE = {"rope_type": "longrope", "long_factor": [9.0] * 8, "short_factor": [1.5] * 8, "factor": 4.0,
            "original_max_position_embeddings": 64, "attention_factor": 1.0}

FACTORS = {"rope_type": "hwgen_factors", "factors": [1.0, 1.5] * 4, "scale": 1.0}

GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32, "checkpoint_format": "gptq", "lm_head": False}

COMPRESSED = {
    "quant_method": "compressed-tensors", "format": "pack-quantized", "ignore": [], "kv_cache_scheme": None, "config_groups": {
        "group_0": {"targets": ["Linear"], "input_activations": None, "output_activations": None, "format": "pack-quantized",
                    "weights": {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32}},
    },
}

VALUES = ("x", -1, 0, [], {}, 1.5, True, [1], {"a": 1}, {"a": [1]}, [[1]], [None], float("nan"), float("inf"), 10**30)


def shape_of(config: dict[str, Any]) -> ModelShape:
    return family_of_config(config).loader().read_shape(config)


def places(value: dict[str, Any], before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, inner in value.items():
        yield (*before, name)
        if isinstance(inner, dict):
            yield from places(inner, (*before, name))


@pytest.mark.filterwarnings("ignore:divide by zero")
@pytest.mark.parametrize("options", [
    {"rope_scaling": YARN}, {"rope_scaling": LONGROPE}, {"rope_scaling": FACTORS}, {"quantization_config": GPTQ},
    {"quantization_config": COMPRESSED},
], ids=["yarn", "longrope", "factors", "gptq", "compressed-tensors"])
def test_values_of_any_type_within_options(options: dict[str, Any]) -> None:
    """At any depth: frequencies that are finite and positive, or a refusal in one line."""
    config, refused, count = {**SIZES, **options}, 0, 0
    assert shape_of(config).hidden == 32
    for place in places(options):
        for value in VALUES:
            changed = copy.deepcopy(config)
            at: Any = changed
            for name in place[:-1]:
                at = at[name]
            at[place[-1]] = value
            count += 1
            try:
                assert (shape_of(changed).rotary_frequencies() > 0).all(), (place, value)
            except HwgenError as error:
                assert error.kind == "architecture" and error.fix and "\n" not in str(error)
                refused += 1
    assert 0.3 * count < refused < count


@pytest.mark.parametrize(("change", "words"), [
    ({"rope_scaling": YARN | {"truncate": 1}}, "truncate is 1; true or false is expected"),
    ({"rope_scaling": YARN | {"rope_theta": 1.0}}, "rope_theta 1.0 must be above 1 for yarn"),
    ({"rope_scaling": LONGROPE | {"original_max_position_embeddings": 1}}, "original_max_position_embeddings is 1.0"),
    ({"rope_scaling": LONGROPE | {"short_factor": [1.0] * 7 + [0.0]}}, "short_factor must be 8 positive numbers"),
    ({"rope_scaling": FACTORS | {"factors": [1.0] * 7}}, "factors must be 8 positive numbers"),
    ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 4.0}},
     "low_freq_factor 4.0 is not below high_freq_factor 4.0"),
    ({"rope_scaling": [4.0]}, r"rope_scaling is \[4.0\]; an object is expected"),
    ({"quantization_config": COMPRESSED | {"config_groups": {"a": 5}}}, "config_groups is 5; supported: an object"),
    ({"sliding_window": 128, "attention_chunk_size": 64}, "attention_chunk_size is 64; supported: absent"),
    ({"is_decoder": "no"}, "is_decoder is 'no'; supported: True"), ({"is_encoder_decoder": True}, "is_encoder_decoder is True"),
    ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types is"),
    ({"model_type": "bitnet", "quantization_config": ["bitnet"]}, r"quantization_config is \['bitnet'\]; supported: an object"),
    ({"architectures": "LlamaForCausalLM"}, "architectures is 'LlamaForCausalLM'; supported: a list of names"),
    ({"model_type": "mixtral"}, "the machine has not its experts"),
])
def test_refused_by_name(change: dict[str, Any], words: str) -> None:
    with pytest.raises(HwgenError, match=words) as error:
        shape_of(SIZES | change)
    assert error.value.kind == "architecture" and error.value.fix


@pytest.mark.parametrize("change", [
    {"is_decoder": False}, {"layer_types": ["full_attention"] * 2}, {"sliding_window": 128}, {"rope_scaling": None},
    {"sliding_window": 64, "use_sliding_window": False, "max_window_layers": 2}, {"quantization_config": {}},
    {"rope_scaling": {"rope_type": "hwgen_factors", "factors": []}},
])
def test_values_that_change_nothing(change: dict[str, Any]) -> None:
    assert shape_of(SIZES | change) == shape_of(SIZES)


@pytest.mark.parametrize(("content", "words"), [
    (b"{", "is not valid JSON"), (b"\xff\xfe{}", "is not valid JSON"), (b"[" * 100_000, "is not valid JSON"),
    (b"[1]", "is not a JSON object"), (b"null", "is not a JSON object"),
])
def test_files_that_hold_no_object(content: bytes, words: str, tmp_path: Path) -> None:
    assert read_generation(tmp_path) == {}
    for name, read in (("config.json", read_config), ("generation_config.json", read_generation)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(HwgenError, match=f"{name} {words}") as error:
            read(tmp_path)
        assert error.value.kind == "checkpoint" and error.value.fix


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(HwgenError, match=r"config.json is missing \(give a directory with"):
        read_config(tmp_path)
    (tmp_path / "config.json").mkdir()
    with pytest.raises(HwgenError, match="config.json cannot be read: Is a directory"):
        read_config(tmp_path)


def test_fields_without_a_value_are_absent() -> None:
    fields = Fields(json.loads('{"a": 1, "b": null, "c": {"d": 2}}'), "x.json")
    assert len(fields) == 2 and list(fields) == ["a", "c"] and "b" not in fields
    assert fields.left({}) == ["a", "c"] and fields.left({"c*": "a prefix"}) == ["a"]
    assert dict(fields) == {"a": 1, "c": {"d": 2}} and fields.left({}) == []
