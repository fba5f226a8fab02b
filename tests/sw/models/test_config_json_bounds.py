"""Fields that every family shares, to their last value: which are taken, which refused, and what stands for one that is absent."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from hwgen.errors import HwgenError
from hwgen.shape import ModelShape
from hwgen.sw.models.config_json import config_of, shape_from_config, token_ids
from hwgen.sw.models.fields import Fields

SIZES = {
    "hidden_size": 67, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96, "vocab_size": 11,
    "max_position_embeddings": 128,
}

SHAPE = ModelShape(
    hidden=67, layers=2, heads=4, kv_heads=4, head_dim=16, ffn=96, vocab=11, activation="silu", max_context=128, rope_theta=700.0,
    rms_eps=1e-3, tied=False,
)


def shape_of(fields: dict[str, Any], own: tuple[str, ...] = (), **options: Any) -> ModelShape:
    """Of ``config.json`` with these fields; names whose value is None are left out."""
    said = {name: value for name, value in (SIZES | fields).items() if value is not None}
    return shape_from_config(
        Fields(json.loads(json.dumps(said)), "config.json"), activations=("silu", "relu2"), default_activation="silu",
        default_theta=700.0, default_eps=1e-3, own=frozenset(own), **options,
    )


def test_what_stands_for_fields_that_are_absent() -> None:
    assert shape_of({}) == SHAPE
    assert shape_of({"max_position_embeddings": None}).max_context == 2048
    assert shape_of({}, default_kv_heads=2).kv_heads == 2 and shape_of({"num_key_value_heads": 1}, default_kv_heads=2).kv_heads == 1
    assert shape_of({}, default_tied=True).tied and not shape_of({"tie_word_embeddings": False}, default_tied=True).tied
    said = {"hidden_act": "relu2", "rms_norm_eps": 0, "head_dim": 8, "rope_theta": 5, "tie_word_embeddings": True}
    assert shape_of(said) == replace(SHAPE, activation="relu2", rms_eps=0.0, head_dim=8, rope_theta=5.0, tied=True)


@pytest.mark.parametrize("missing", ["hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size"])
def test_sizes_that_must_be_there(missing: str) -> None:
    with pytest.raises(HwgenError, match=f"config.json has no {missing}"):
        shape_of({missing: None})


@pytest.mark.parametrize(("name", "shown"), [
    ("hidden_size", "hidden"), *((name, name) for name in (
        "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size", "max_position_embeddings",
        "num_key_value_heads",
    )),
])
def test_sizes_are_numbers_of_31_bits(name: str, shown: str) -> None:
    for value in (0, -1, 1 << 31, True, 2.0, "2"):
        with pytest.raises(HwgenError) as caught:
            shape_of({name: value, "head_dim": 16})
        assert caught.value.message == f"config.json: {shown} must be a positive integer, not {value!r}"
    if name not in ("num_key_value_heads", "num_attention_heads"):
        assert shape_of({name: (1 << 31) - 1, "head_dim": 16}).head_dim == 16
        assert shape_of({name: 1, "head_dim": 16}).head_dim == 16


@pytest.mark.parametrize("value", [1, 1.0, -1e-9, True, "0.1"])
def test_epsilon_is_a_number_below_one(value: Any) -> None:
    assert shape_of({"rms_norm_eps": 0.999}).rms_eps == 0.999
    with pytest.raises(HwgenError, match="rms_norm_eps is .*; supported: a number from 0 to 1"):
        shape_of({"rms_norm_eps": value})


#: Names of other families' options: a value that is none, and one that changes results.
OPTIONS: dict[str, tuple[Any, Any]] = {
    **dict.fromkeys((
        "attention_bias", "mlp_bias", "bias", "use_bias", "attention_out_bias", "qkv_bias", "use_qk_norm", "no_rope",
        "rope_interleaved", "is_encoder_decoder", "add_cross_attention",
    ), (False, True)),
    **dict.fromkeys((
        "logit_scale", "scale_emb", "scale_depth", "embedding_multiplier", "residual_multiplier", "logits_scaling",
    ), (1.0, 1.5)),
    "attention_multiplier": (None, 1.0), "input_norm": (True, False), "num_experts": (0, 1), "num_local_experts": (0, 1),
    "layer_types": (["full_attention"] * 2, ["full_attention", "linear"]), "no_rope_layers": (None, [1, 1]),
    "final_logit_softcapping": (None, 30.0), "attn_logit_softcapping": (None, 50.0), "is_decoder": (False, "no"),
    "weight_bits": (1, 2), "input_bits": (8, 4),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_of_other_families(name: str) -> None:
    """One value is fine; another is refused, unless the family reads it itself."""
    fine, wrong = OPTIONS[name]
    assert shape_of({name: fine}) == SHAPE
    with pytest.raises(HwgenError, match=f"config.json: {name} is "):
        shape_of({name: wrong})
    assert shape_of({name: wrong}, (name,)) == SHAPE


@pytest.mark.parametrize(("fields", "own"), [
    ({"is_decoder": False}, ()), ({"layer_types": ["full_attention"]}, ()), ({"rope_interleaved": True}, ("rope_interleaved",)),
    ({"attention_bias": True}, ("attention_bias",)),
])
@pytest.mark.parametrize(("name", "wrong"), [("no_rope", True), ("weight_bits", 2), ("input_bits", 4)])
def test_one_option_does_not_hide_another(fields: dict[str, Any], own: tuple[str, ...], name: str, wrong: object) -> None:
    with pytest.raises(HwgenError, match=f"config.json: {name} is {wrong}"):
        shape_of({**fields, name: wrong}, own)


@pytest.mark.parametrize(("asked", "use", "window", "fine"), [
    (False, None, 128, True), (False, None, 129, True), (False, None, 127, False), (False, None, 0, False),
    (False, None, "x", False), (False, None, [128], False), (False, True, 127, False), (False, True, None, True),
    (False, False, 127, True), (True, None, 127, True), (True, False, 127, True), (True, True, 127, False),
    (True, True, 128, True), (True, True, None, True),
])
def test_sliding_windows(asked: bool, use: bool | None, window: Any, fine: bool) -> None:
    """One that is as long as the context is none; whether a shorter one counts says the class, or the file."""
    fields = {"sliding_window": window, "use_sliding_window": use}
    if fine:
        assert shape_of(fields, window_asked=asked) == SHAPE
        return
    with pytest.raises(HwgenError, match="sliding_window is .*; supported: none, or the whole context of 128 tokens"):
        shape_of(fields, window_asked=asked)


@pytest.mark.parametrize("name", ["max_window_layers", "attention_chunk_size"])
def test_layers_of_windows(name: str) -> None:
    with pytest.raises(HwgenError, match=f"{name} is 1; supported: absent"):
        shape_of({"sliding_window": 128, name: 1})
    assert shape_of({"sliding_window": 128, "use_sliding_window": False, name: 1}) == SHAPE
    if name == "max_window_layers":
        assert shape_of({name: 1}) == SHAPE, "without a window it says nothing"


@pytest.mark.parametrize(("fields", "words"), [
    ({"hidden_act": "gelu"}, "hidden_act is 'gelu'; supported: 'silu' or 'relu2'"), ({"mood": 1}, r"the field mood \(1\) is not"),
    ({"tie_word_embeddings": 1}, "tie_word_embeddings is 1; supported: true or false"),
    ({"num_key_value_heads": 3}, "config.json: heads must be a multiple of kv_heads"),
])
def test_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(HwgenError, match=words) as caught:
        shape_of(fields)
    assert caught.value.kind == "architecture" and caught.value.fix


@pytest.mark.parametrize(("context", "expected"), [(1000, 100), (64, 64)])
def test_a_context_that_its_factors_are_for(context: int, expected: int) -> None:
    scaling = {"rope_type": "longrope", "short_factor": [1.0] * 8, "original_max_position_embeddings": 100}
    assert shape_of({"rope_scaling": scaling, "max_position_embeddings": context}).max_context == expected


def test_shapes_as_fields() -> None:
    """Rotary factors are written where there are some, or a scale; every shape is read again as it was."""
    for shape in (SHAPE, replace(SHAPE, rope_scale=1.5), replace(SHAPE, rope_factors=(1.0, 2.0) * 4, tied=True, kv_heads=2)):
        said = config_of(shape)
        assert ("rope_scaling" in said) == (shape is not SHAPE) and shape_of(said) == shape


def test_end_tokens() -> None:
    assert (token_ids(0), token_ids([0, 7]), token_ids([]), token_ids(None)) == ((0,), (0, 7), (), ())
    for value in (-1, [3, -1], [True], 1.0):
        with pytest.raises(HwgenError, match="eos_token_id is .*; supported: a token id or a list of them"):
            token_ids(value)
