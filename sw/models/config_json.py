"""``config.json`` of Hugging Face checkpoints: fields that every family shares."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...errors import HwgenError
from ...shape import ModelShape

__all__ = ["MATRIX_PLACES", "config_of", "read_config", "read_generation", "shape_from_config", "token_ids", "unsupported"]

#: Matrix -> place in a layer of the checkpoint.
MATRIX_PLACES = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}


def read_config(directory: Path, name: str = "config.json") -> dict[str, Any]:
    """The JSON object in a file of a checkpoint."""
    path = directory / name
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise HwgenError(
            "checkpoint", f"{path} is missing", "give a directory with config.json, *.safetensors and tokenizer.json"
        ) from error
    except ValueError as error:
        raise HwgenError("checkpoint", f"{path} is not valid JSON: {error}", "download the file again") from error
    if not isinstance(values, dict):
        raise HwgenError("checkpoint", f"{path} is not a JSON object", "download the file again")
    return values


def read_generation(directory: Path) -> dict[str, Any]:
    """``generation_config.json``, empty where there is none."""
    name = "generation_config.json"
    return read_config(directory, name) if (directory / name).exists() else {}


def unsupported(name: str, value: object, supported: str) -> HwgenError:
    """The error for a field with a value that the machine does not have."""
    return HwgenError(
        "architecture",
        f"config.json: {name} is {value!r}; supported: {supported}",
        "choose a checkpoint with a supported value",
    )


def shape_from_config(
    config: dict[str, Any], *, activations: tuple[str, ...], default_activation: str, default_theta: float
) -> ModelShape:
    """Shape from the fields that all families share; an option that the machine does not have is refused."""
    missing = [
        n
        for n in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
        if n not in config
    ]
    if missing:
        raise HwgenError(
            "architecture", f"config.json has no {missing[0]}", "complete config.json from the model's own page"
        )
    activation = config.get("hidden_act", default_activation)
    if activation not in activations:
        raise unsupported("hidden_act", activation, " or ".join(repr(a) for a in activations))
    for name in ("attention_bias", "mlp_bias"):
        if config.get(name):
            raise unsupported(name, config[name], "false")
    rope = config.get("rope_parameters") or {}
    scaling = config.get("rope_scaling") or {}
    rope_type = scaling.get("rope_type", scaling.get("type", rope.get("rope_type", "default")))
    if rope_type != "default":
        raise unsupported("rope_scaling.rope_type", rope_type, "'default'")
    heads = config["num_attention_heads"]
    values: dict[str, Any] = {
        "hidden": config["hidden_size"],
        "layers": config["num_hidden_layers"],
        "heads": heads,
        "kv_heads": config.get("num_key_value_heads") or heads,
        "head_dim": config.get("head_dim")
        or (config["hidden_size"] // heads if isinstance(heads, int) and heads > 0 else 0),
        "ffn": config["intermediate_size"],
        "vocab": config["vocab_size"],
        "activation": activation,
        "max_context": config.get("max_position_embeddings", 2048),
        "rope_theta": float(config.get("rope_theta") or rope.get("rope_theta") or default_theta),
        "rms_eps": float(config.get("rms_norm_eps", 1e-5)),
        "tied": bool(config.get("tie_word_embeddings", False)),
    }
    try:
        return ModelShape(**values)
    except ValueError as error:
        raise HwgenError(
            "architecture", f"config.json: {error}", "choose a supported checkpoint"
        ) from error


def config_of(shape: ModelShape) -> dict[str, Any]:
    """The fields that :func:`shape_from_config` reads."""
    return {
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "intermediate_size": shape.ffn,
        "vocab_size": shape.vocab,
        "hidden_act": shape.activation,
        "max_position_embeddings": shape.max_context,
        "rope_theta": shape.rope_theta,
        "rms_norm_eps": shape.rms_eps,
        "tie_word_embeddings": shape.tied,
        "attention_bias": False,
    }


def token_ids(value: object) -> tuple[int, ...]:
    """``eos_token_id`` of a configuration: absent, one number or a list."""
    if isinstance(value, int):
        return (value,)
    return tuple(v for v in value if isinstance(v, int)) if isinstance(value, list) else ()
