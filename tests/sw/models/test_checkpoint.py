"""Checkpoints that ``transformers`` writes: the same logits, or a refusal that names what is not understood."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hwgen.errors import HwgenError
from hwgen.golden.float_bitnet import float_model
from hwgen.golden.float_llama import FloatLlama
from hwgen.shape import ModelShape
from hwgen.sw.models import bitnet, llama
from hwgen.sw.models.bitnet import save_model
from hwgen.sw.models.config_json import config_of, read_config, token_ids
from hwgen.sw.models.families import family_of_config
from hwgen.weights import ModelWeights, random_weights

transformers = pytest.importorskip("transformers")
safetensors = pytest.importorskip("safetensors.torch")

SIZES = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 48,
    "vocab_size": 64, "max_position_embeddings": 128, "head_dim": 16,
}

LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
}

IDS = torch.from_numpy(np.random.default_rng(1).integers(0, 64, (2, 100)))

Edit = Callable[[dict[str, Any], dict[str, torch.Tensor]], None]


def nothing(config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    pass


def checkpoint(path: Path, edit: Edit = nothing, kind: str = "Llama", **options: Any) -> Path:
    """A small random llama, its config.json and tensors edited before they are written. Its matrices are large, so that
    attention looks at positions.
    """
    torch.manual_seed(2)
    config = getattr(transformers, f"{kind}Config")(**SIZES, initializer_range=0.3, **options)
    model = getattr(transformers, f"{kind}ForCausalLM")(config)
    model.save_pretrained(path)
    config, tensors = json.loads((path / "config.json").read_text()), safetensors.load_file(path / "model.safetensors")
    edit(config, tensors)
    (path / "config.json").write_text(json.dumps(config))
    safetensors.save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    return path


def load(path: Path) -> ModelWeights:
    config = read_config(path)
    return llama.load_weights(path, config, llama.read_shape(config))


def assert_same_logits(path: Path) -> None:
    with torch.no_grad():
        expected = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)(IDS).logits
    weights = load(path)
    torch.testing.assert_close(FloatLlama(weights)(IDS), expected, rtol=1e-4, atol=1e-4)
    if weights.shape.rope_factors:  # and the scaling is seen in them
        unscaled = replace(weights, shape=replace(weights.shape, rope_factors=()))
        assert (FloatLlama(unscaled)(IDS) - expected).abs().max() > 0.1


def rotary(**values: Any) -> Edit:
    """rope_parameters of transformers 5 in place of what is there, or fields of older files (with ``rope_scaling``)."""

    def edit(config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        config.pop("rope_parameters", None)
        config.update(values)

    return edit


def without(*names: str) -> Edit:
    def edit(config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        for name in names:
            config.pop(name, None)
        tensors["model.embed_tokens.weight"].mul_(0.03)  # so that epsilon matters

    return edit


@pytest.mark.parametrize("edit", [
    nothing,
    without("rms_norm_eps", "rope_parameters", "hidden_act", "tie_word_embeddings", "head_dim"),
    rotary(rope_theta=5000.0),
    rotary(rope_theta=5000.0, rope_scaling={"type": "linear", "factor": 4.0}),
    rotary(rope_parameters={"rope_theta": 5000.0, "rope_type": "linear", "factor": 2.0}),
    rotary(rope_scaling={"type": "linear", "factor": 1.0}),
    rotary(rope_theta=5000.0, rope_scaling=LLAMA3),
    rotary(rope_parameters={"rope_theta": 500.0, **LLAMA3}),
    rotary(rope_parameters={"rope_theta": 500.0, **{k: v for k, v in LLAMA3.items() if not k.startswith("original")}}),
    rotary(sliding_window=128, use_cache=False, pretraining_tp=1, rope_interleaved=False, weight_note=None),
], ids=lambda edit: edit.__qualname__.split(".")[0])
def test_same_logits_as_transformers(edit: Edit, tmp_path: Path) -> None:
    assert_same_logits(checkpoint(tmp_path, edit))


def test_mistral(tmp_path: Path) -> None:
    """A llama by another name; its class has a sliding window where the file says nothing."""
    assert_same_logits(checkpoint(tmp_path, kind="Mistral", sliding_window=None))
    assert_same_logits(checkpoint(tmp_path, kind="Mistral", sliding_window=128))
    with pytest.raises(HwgenError, match="sliding_window is 64"):
        load(checkpoint(tmp_path, kind="Mistral", sliding_window=64))
    with pytest.raises(HwgenError, match="config.json has no sliding_window"):
        load(checkpoint(tmp_path, lambda c, t: c.pop("sliding_window"), kind="Mistral"))


def test_scaled_positions_of_bitnet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("accelerate")
    # unpacking is compiled otherwise, which takes a minute; torch forgets the option once another test has set it back
    monkeypatch.setattr("torch._dynamo.config.disable", True, raising=False)
    shape = ModelShape(hidden=32, layers=1, heads=2, kv_heads=1, head_dim=16, ffn=48, vocab=64, max_context=128)
    save_model(random_weights(shape, seed=5), tmp_path)
    config = read_config(tmp_path) | {"rope_theta": 500.0, "rope_scaling": LLAMA3}
    (tmp_path / "config.json").write_text(json.dumps(config))
    weights = bitnet.load_weights(tmp_path, config, bitnet.read_shape(config))
    assert len(weights.shape.rope_factors) == 8
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(model(IDS).logits, float_model(weights)(IDS), rtol=1e-3, atol=1e-3)


def test_written_factors_are_read_again() -> None:
    shape = llama.read_shape({**SIZES, "rope_scaling": LLAMA3, "model_type": "llama"})
    assert shape.rope_factors and llama.read_shape(config_of(shape)) == shape


@pytest.mark.parametrize(("edit", "words"), [
    (rotary(rope_scaling={"factor": 4.0}), "factor is 4.0 without a rope_type"),
    (rotary(rope_scaling={"type": "dynamic", "factor": 4.0}), "rope_type is 'dynamic'; supported: 'default', 'linear', 'llama3'"),
    (rotary(rope_scaling={"type": "linear"}), "factor must be a positive number, not None"),
    (rotary(rope_scaling={**LLAMA3, "beta_fast": 32}), r"rotary options: the field beta_fast \(32\) is not known"),
    (rotary(rope_theta=1.0, rope_parameters={"rope_theta": 2.0}), "rope_theta is 2.0, but 1.0 in config.json itself"),
    (rotary(rope_parameters={"partial_rotary_factor": 0.5}), "partial_rotary_factor is 0.5"),
    (rotary(sliding_window=64), "sliding_window is 64; supported: none, or the whole context of 128"),
    (rotary(no_rope_layers=[1, 0]), r"no_rope_layers is \[1, 0\]"),
    (rotary(embedding_multiplier=12.0), "embedding_multiplier is 12.0; supported: 1.0"),
    (rotary(mlp_bias=True), "mlp_bias is True; supported: false"),
    (rotary(clip_qkv=8.0), r"the field clip_qkv \(8.0\) is not known"),
    (rotary(tie_word_embeddings="no"), "tie_word_embeddings is 'no'"),
    (rotary(rms_norm_eps="tiny"), "rms_norm_eps is 'tiny'"),
    (lambda c, t: t.update({"model.layers.0.self_attn.q_proj.bias": torch.zeros(32)}), "q_proj.bias is no part of a llama model"),
    (lambda c, t: t.update({"model.layers.1.self_attn.q_norm.weight": torch.ones(16)}), "q_norm.weight is no part of a llama"),
    (lambda c, t: c.update(num_hidden_layers=1), "and 8 more is no part of a llama model of 1 layers"),
    (lambda c, t: t.pop("lm_head.weight"), "has no tensor lm_head.weight"),
])
def test_refused_by_name(edit: Edit, words: str, tmp_path: Path) -> None:
    with pytest.raises(HwgenError, match=words) as error:
        load(checkpoint(tmp_path, edit))
    assert error.value.fix and "\n" not in str(error.value)


def test_end_tokens() -> None:
    assert (token_ids(None), token_ids(2), token_ids([2, 3])) == ((), (2,), (2, 3))
    for value in ("2", [2, "3"], True, -1, {"id": 2}):
        with pytest.raises(HwgenError, match="eos_token_id is"):
            token_ids(value)


@pytest.mark.parametrize("kind", ["llama", "mistral", "bitnet"])
def test_fields_of_any_type(kind: str) -> None:
    """Whatever stands in a field: a shape, or one line."""
    whole = {
        **SIZES, "model_type": kind, "hidden_act": "silu", "sliding_window": 128, "rope_scaling": LLAMA3, "rms_norm_eps": 1e-5,
        "quantization_config": {}, "architectures": [], "layer_types": None, "rope_theta": 1e4,
    }
    values = ("x", -1, 0, [], {}, 1.5, True, None, [1], {"a": 1}, float("nan"), 10**30)
    changed = [whole | {name: value} for name in whole for value in values]
    changed += [whole | {"rope_scaling": LLAMA3 | {name: value}} for name in LLAMA3 for value in values]
    changed += [
        whole | {"quantization_config": {"quant_method": method, "group": 32, name: value}} for value in values
        for method in ("bitnet", "hwgen_int4") for name in ("linear_class", "modules_to_not_convert", "group", "quant_method")
    ]
    refused = 0
    for config in changed:
        try:
            assert family_of_config(config).loader().read_shape(config).hidden > 0
        except HwgenError as error:
            assert "\n" not in str(error) and error.fix
            refused += 1
    assert 0.5 * len(changed) < refused < len(changed)


def test_harmless_tensors(tmp_path: Path) -> None:
    inverse = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(8) for i in range(2)}
    assert_same_logits(checkpoint(tmp_path, lambda c, t: t.update(inverse)))


@pytest.mark.parametrize("own", [False, True])
def test_head_of_a_tied_model(own: bool, tmp_path: Path) -> None:
    """A copy of the embedding is no head; one that differs is used, as transformers does."""

    def edit(config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] * (2.0 if own else 1.0)

    path = checkpoint(tmp_path, edit, tie_word_embeddings=True)
    assert_same_logits(path)
    assert load(path).shape.tied is not own


def test_model_file_goes_before_strays(tmp_path: Path) -> None:
    path = checkpoint(tmp_path)
    tensors = safetensors.load_file(path / "model.safetensors")
    safetensors.save_file({k: torch.zeros_like(v) for k, v in tensors.items()}, path / "model_before.safetensors")
    assert_same_logits(path)


def test_packed_and_online_must_agree(tmp_path: Path) -> None:
    """Digits with mode online, floats with mode offline: one of the files is of another checkpoint."""
    shape = ModelShape(hidden=32, layers=1, heads=2, kv_heads=1, head_dim=16, ffn=48, vocab=64, max_context=128)
    save_model(random_weights(shape, seed=5), tmp_path)
    config = read_config(tmp_path)
    quantization = config["quantization_config"]
    for change, words in (
        ({"quantization_mode": "online"}, "is stored as digits, but config.json says quantization_mode 'online'"),
        ({"linear_class": "bitlinear", "quantization_mode": "online"}, "quantization_mode is 'online'; supported: 'offline'"),
        ({"use_rms_norm": True}, "use_rms_norm is True"), ({"quant_method": "gptq"}, "quant_method is 'gptq'"),
        ({"modules_to_not_convert": ["q_proj"]}, r"modules_to_not_convert is \['q_proj'\]"),
        ({"group_size": 128}, r"the field group_size \(128\) is not known"),
    ):
        changed = config | {"quantization_config": quantization | change}
        with pytest.raises(HwgenError, match=words):
            bitnet.load_weights(tmp_path, changed, bitnet.read_shape(changed))
