"""Models that ``transformers`` writes of the classes whose layers are a llama's: the same logits, or a refusal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hwgen.errors import HwgenError
from hwgen.golden.float_llama import FloatLlama
from hwgen.sw.models.config_json import read_config
from hwgen.sw.models.families import family_of_config
from hwgen.sw.models.fields import Fields
from hwgen.sw.models.llama_classes import read_class_shape
from hwgen.weights import ModelWeights

transformers = pytest.importorskip("transformers")

SIZES = {
    "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 48,
    "vocab_size": 64, "max_position_embeddings": 128, "head_dim": 16, "pad_token_id": None, "bos_token_id": 1, "eos_token_id": 2,
}

IDS = torch.from_numpy(np.random.default_rng(1).integers(0, 64, (2, 100)))

YARN = {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0, "original_max_position_embeddings": 32}

LONGROPE = {
    "rope_type": "longrope", "rope_theta": 500.0, "long_factor": [9.0] * 8,
    "short_factor": [1.0, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0],
}

GRANITE = {"embedding_multiplier": 12.0, "attention_multiplier": 0.3, "residual_multiplier": 0.22, "logits_scaling": 6.0}


def checkpoint(path: Path, kind: str, **options: Any) -> Any:
    """A small random model, written to ``path``; its vectors are not the ones and zeros that classes begin with."""
    torch.manual_seed(2)
    config = getattr(transformers, f"{kind}Config")(**{**SIZES, **options}, initializer_range=0.3)
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    with torch.no_grad():
        for values in model.parameters():
            if values.dim() == 1:
                values.add_(torch.randn_like(values) * 0.3)
        model.model.embed_tokens.weight.mul_(0.1)  # so that epsilon matters
    model.save_pretrained(path)
    return model


def load(path: Path) -> ModelWeights:
    config = read_config(path)
    family = family_of_config(config)
    return family.loader().load_weights(path, config, family.loader().read_shape(config), family.layer, lambda text: None)


@pytest.mark.parametrize(("kind", "options"), [
    ("Llama", {"rope_parameters": YARN}),
    ("Llama", {"rope_parameters": {**YARN, "beta_fast": 4.0, "beta_slow": 0.5, "truncate": False, "attention_factor": 1.3}}),
    ("Llama", {"rope_parameters": {**YARN, "mscale": 0.7, "mscale_all_dim": 0.9}}),
    ("SmolLM3", {}), ("SmolLM3", {"no_rope_layers": [0, 1, 1, 0], "rope_parameters": YARN}),
    ("SmolLM3", {"no_rope_layer_interval": 2, "tie_word_embeddings": True}),
    ("Phi3", {}), ("Phi3", {"rope_parameters": LONGROPE, "original_max_position_embeddings": 104}),
    ("Granite", {}), ("Granite", GRANITE), ("Granite", {**GRANITE, "tie_word_embeddings": True, "rms_norm_eps": 1e-3}),
    ("Qwen2", {}), ("Qwen2", {"rope_parameters": YARN, "tie_word_embeddings": True}),
    ("Qwen3", {}), ("Qwen3", {"rms_norm_eps": 1e-2, "rope_parameters": YARN}),
], ids=lambda value: value if isinstance(value, str) else "-".join(value))
def test_same_logits_as_transformers(kind: str, options: dict[str, Any], tmp_path: Path) -> None:
    model = checkpoint(tmp_path, kind, **options)
    with torch.no_grad():
        expected = model(IDS).logits
    logits = FloatLlama(load(tmp_path))(IDS)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    assert expected.std() > 0.01


@pytest.mark.parametrize(("kind", "change", "words"), [
    ("SmolLM3", {"no_rope_layers": [1, 2.5]}, r"no_rope_layers is \[1, 2.5\]; supported: a list of 4 of 0 and 1"),
    ("SmolLM3", {"no_rope_layer_interval": 0, "no_rope_layers": None}, "no_rope_layer_interval is 0"),
    ("SmolLM3", {"attention_bias": True}, "attention_bias is True; supported: false"),
    ("SmolLM3", {"use_sliding_window": True, "sliding_window": 64}, "sliding_window is 64"),
    ("Phi3", {"rope_scaling": {**LONGROPE, "short_factor": [1.0]}}, "short_factor must be 8 positive numbers"),
    ("Phi3", {"partial_rotary_factor": 0.75}, "partial_rotary_factor is 0.75"),
    ("Granite", {"logits_scaling": 0}, "logits_scaling is 0; supported: a positive number"),
    ("Qwen3", {"head_dim": None}, "config.json has no head_dim"),
    ("Qwen3", {"attention_bias": True}, "attention_bias is True; supported: false"),
    ("Qwen2", {"layer_types": ["sliding_attention"] * 4}, "layer_types is"),
    ("Qwen2", {"model_type": "gemma3_text"}, "the machine has not its GELU, norms behind the matrices and sliding windows"),
    ("Llama", {"embedding_multiplier": 12.0}, "embedding_multiplier is 12.0; supported: 1.0"),
])
def test_refused_by_name(kind: str, change: dict[str, Any], words: str, tmp_path: Path) -> None:
    checkpoint(tmp_path, kind)
    config = json.loads((tmp_path / "config.json").read_text()) | change
    config.pop("rope_parameters", None)
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k not in change or v is not None}))
    with pytest.raises(HwgenError, match=words):
        load(tmp_path)


def test_long_texts_have_other_factors(tmp_path: Path) -> None:
    checkpoint(tmp_path, "Phi3", rope_parameters=LONGROPE, original_max_position_embeddings=104)
    assert load(tmp_path).shape.max_context == 104


@pytest.mark.parametrize(("fields", "unrotated"), [
    ({}, (3, 7)), ({"no_rope_layer_interval": 3}, (2, 5, 8)), ({"no_rope_layer_interval": 1}, tuple(range(9))),
    ({"no_rope_layers": [1, 0, *[True] * 6, False]}, (1, 8)),
])
def test_layers_that_are_not_rotated(fields: dict[str, Any], unrotated: tuple[int, ...]) -> None:
    config = {
        "model_type": "smollm3", "hidden_size": 32, "num_hidden_layers": 9, "num_attention_heads": 2, "num_key_value_heads": 1,
        "intermediate_size": 16, "vocab_size": 8, "max_position_embeddings": 64, **fields,
    }
    shape = read_class_shape(config, Fields(config, "config.json"))
    assert shape.unrotated == unrotated and shape.rope_theta == 2e6 and shape.tied


@pytest.mark.parametrize("model_type", ["qwen2", "qwen3", "smollm3", "mistral", "llama"])
def test_windows_that_nobody_asked_for(model_type: str) -> None:
    """Of classes with ``use_sliding_window`` they count only where that says so, of others always."""
    config = {"model_type": model_type, **SIZES, "sliding_window": 64}

    def read(**more: bool) -> int:
        return read_class_shape(config | more, Fields(config | more, "config.json")).max_context

    assert read(use_sliding_window=False) == 128
    for counts in ({"use_sliding_window": True}, {} if model_type in ("mistral", "llama") else None):
        if counts is None:
            assert read() == 128
            continue
        with pytest.raises(HwgenError, match="sliding_window is 64; supported: none, or the whole context of 128 tokens"):
            read(**counts)


@pytest.mark.parametrize("kind", ["Llama", "Mistral", "SmolLM3", "Phi3", "Granite", "Qwen2", "Qwen3"])
def test_fields_that_are_left_out(kind: str) -> None:
    """They mean what the class of ``transformers`` says."""
    theirs = getattr(transformers, f"{kind}Config")()
    wanted = {"sliding_window": None, "original_max_position_embeddings": 128}
    config = {"model_type": theirs.model_type, **SIZES, **{n: v for n, v in wanted.items() if n in theirs.to_dict()}}
    shape = read_class_shape(config, Fields(config, "config.json"))
    assert (shape.rms_eps, shape.rope_theta) == (theirs.rms_norm_eps, theirs.rope_parameters["rope_theta"])
    assert (shape.tied, shape.activation) == (theirs.tie_word_embeddings, theirs.hidden_act)
