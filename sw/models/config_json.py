"""``config.json`` of Hugging Face checkpoints: fields that every family shares."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...errors import HwgenError
from ...shape import ModelShape
from .fields import Fields
from .rotary_scaling import ROPE_FACTORS, read_rotary

__all__ = [
    "HARMLESS", "MATRIX_PLACES", "config_of", "read_config", "read_generation", "shape_from_config", "token_ids", "unsupported",
]

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


#: Fields that no result depends on, with the reason.
HARMLESS = {
    "model_type": "chose the family", "architectures": "chose the family", "auto_map": "code of the checkpoint is never run",
    "_name_or_path": "where it came from", "name_or_path": "where it came from", "transformers_version": "what wrote it",
    "torch_dtype": "tensors carry their types", "dtype": "tensors carry their types", "_attn_implementation": "same result",
    "_attn_implementation_autoset": "same result", "attn_implementation": "same result", "_flash_attn_2_enabled": "same result",
    "initializer_range": "training", "initializer_factor": "training", "attention_dropout": "training", "dropout": "training",
    "hidden_dropout": "training", "embd_pdrop": "training", "resid_pdrop": "training", "attn_pdrop": "training",
    "hidden_dropout_prob": "training", "attention_probs_dropout_prob": "training", "gradient_checkpointing": "training",
    "use_cache": "same result", "cache_implementation": "same result", "pad_token_id": "batches are never padded",
    "bos_token_id": "the tokenizer's files say where a begin token stands", "eos_token_id": "read where answers end",
    "unk_token_id": "the tokenizer's", "sep_token_id": "the tokenizer's", "cls_token_id": "the tokenizer's",
    "decoder_start_token_id": "encoders with decoders only", "tokenizer_class": "the tokenizer's files say it",
    "is_llama_config": "a note of its makers", "unsloth_fixed": "a note of its makers", "unsloth_version": "a note",
    "transformers.js_config": "another runtime's", "onnx": "another runtime's", "torchscript": "another runtime's",
    "output_attentions": "what is returned", "output_hidden_states": "what is returned", "return_dict": "what is returned",
    "use_return_dict": "what is returned", "use_bfloat16": "another runtime's", "chunk_size_feed_forward": "same result",
    "pruned_heads": "empty in every class of today", "id2label": "classifiers", "label2id": "classifiers",
    "num_labels": "classifiers", "problem_type": "classifiers", "finetuning_task": "a note", "task_specific_params": "a note",
    "tie_encoder_decoder": "encoders with decoders only", "cross_attention_hidden_size": "encoders with decoders only",
    "prefix": "generation options of transformers", "max_length": "generation option", "min_length": "generation option",
    "do_sample": "generation option", "temperature": "generation option", "top_k": "generation option",
    "top_p": "generation option", "typical_p": "generation option", "num_beams": "generation option",
    "num_beam_groups": "generation option", "diversity_penalty": "generation option", "early_stopping": "generation option",
    "repetition_penalty": "generation option", "length_penalty": "generation option", "bad_words_ids": "generation option",
    "no_repeat_ngram_size": "generation option", "encoder_no_repeat_ngram_size": "generation option",
    "num_return_sequences": "generation option", "forced_bos_token_id": "generation option",
    "forced_eos_token_id": "generation option", "remove_invalid_values": "generation option",
    "suppress_tokens": "generation option", "begin_suppress_tokens": "generation option",
    "exponential_decay_length_penalty": "generation option", "output_scores": "generation option",
    "return_dict_in_generate": "generation option", "max_window_layers": "read with sliding_window only",
    "use_sliding_window": "read with sliding_window only", "tf_legacy_loss": "training",
    "pretraining_tp": "order of a sum", "no_rope_layer_interval": "makes no_rope_layers where that is absent",
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
    except OSError as error:
        raise HwgenError("checkpoint", f"{path} cannot be read: {error.strerror}", "check its permissions") from error
    except (ValueError, RecursionError) as error:
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


#: Fields that no class has a default for that fits a model.
_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")


def _flag(config: Fields, name: str, default: bool = False) -> bool:
    value = config.get(name, default)
    if not isinstance(value, bool):
        raise unsupported(name, value, "true or false")
    return value


def _refuse_options(config: Fields, own: frozenset[str]) -> None:
    """Refuse what other families have: each of these changes results, so that a name may be here with one value only. ``own``:
    names that the family reads itself.
    """
    for name in ("attention_bias", "mlp_bias", "bias", "use_bias", "attention_out_bias", "qkv_bias", "use_qk_norm", "no_rope"):
        if name not in own and config.get(name):
            raise unsupported(name, config[name], "false")
    for name, value in (
        ("rope_interleaved", False), ("attention_multiplier", None), ("logit_scale", 1.0),
        ("scale_emb", 1.0), ("scale_depth", 1.0), ("embedding_multiplier", 1.0), ("residual_multiplier", 1.0),
        ("logits_scaling", 1.0), ("input_norm", True), ("num_experts", 0), ("num_local_experts", 0), ("layer_types", None),
        ("no_rope_layers", None), ("final_logit_softcapping", None), ("attn_logit_softcapping", None),
        ("is_decoder", True), ("is_encoder_decoder", False),
        ("add_cross_attention", False), ("weight_bits", 1), ("input_bits", 8),
    ):
        if name in own:
            continue
        found = config.get(name, value)
        if name == "layer_types" and isinstance(found, list) and set(found) == {"full_attention"}:
            continue
        if name == "is_decoder" and found is False:
            continue  # what configurations of transformers 4 write for decoders, too
        if found != value:
            raise unsupported(name, found, repr(value) if value is not None else "absent")


def _refuse_window(config: Fields, context: int, asked: bool) -> None:
    """``asked``: a window counts only where ``use_sliding_window`` says so, not unless it says no."""
    window = config.get("sliding_window")
    off = config.get("use_sliding_window", not asked) is False
    if window is not None and not off and (not isinstance(window, int) or window < context):
        raise unsupported("sliding_window", window, f"none, or the whole context of {context} tokens")
    for name in ("max_window_layers", "attention_chunk_size"):
        if name in config and not off and window is not None:
            raise unsupported(name, config[name], "absent")


def shape_from_config(
    config: Fields, *, activations: tuple[str, ...], default_activation: str, default_theta: float, default_eps: float,
    default_kv_heads: int | None = None, default_tied: bool = False, own: frozenset[str] = frozenset(),
    window_asked: bool = False,
) -> ModelShape:
    """Shape from the fields that all families share; an option that the machine does not have is refused, and so is a field
    that nobody knows. Defaults are those of the family's class in transformers; ``default_kv_heads`` None: as many as query heads.
    ``own``: names that the family reads itself.
    """
    missing = [name for name in _SIZES if name not in config]
    if missing:
        raise HwgenError(
            "architecture", f"{config.where} has no {missing[0]}", "complete config.json from the model's own page"
        )
    activation = config.get("hidden_act", default_activation)
    if activation not in activations:
        raise unsupported("hidden_act", activation, " or ".join(repr(a) for a in activations))
    _refuse_options(config, own)
    for name in own:
        config.get(name)
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    for name in (*_SIZES, "max_position_embeddings", "head_dim", "num_key_value_heads"):
        if name in config and (type(config[name]) is not int or not 0 < config[name] < 1 << 31):
            what = "hidden" if name == "hidden_size" else name
            raise HwgenError(
                "architecture", f"{config.where}: {what} must be a positive integer, not {config[name]!r}", "correct config.json"
            )
    head_dim = config.get("head_dim", hidden // heads)
    context = config.get("max_position_embeddings", 2048)
    _refuse_window(config, context, window_asked)
    rotary = read_rotary(config, head_dim, context, default_theta)
    eps = config.get("rms_norm_eps", default_eps)
    if isinstance(eps, bool) or not isinstance(eps, (int, float)) or not 0 <= eps < 1:
        raise unsupported("rms_norm_eps", eps, "a number from 0 to 1")
    values: dict[str, Any] = {
        "hidden": hidden,
        "layers": config["num_hidden_layers"],
        "heads": heads,
        "kv_heads": config.get("num_key_value_heads", default_kv_heads or heads),
        "head_dim": head_dim,
        "ffn": config["intermediate_size"],
        "vocab": config["vocab_size"],
        "activation": activation,
        "max_context": context if rotary.limit is None else min(context, rotary.limit),
        "rope_theta": rotary.theta,
        "rope_factors": rotary.factors,
        "rope_scale": rotary.scale,
        "rms_eps": float(eps),
        "tied": _flag(config, "tie_word_embeddings", default_tied),
    }
    config.refuse_left(HARMLESS, "choose a checkpoint without it, or take the field out if the model does not need it")
    try:
        return ModelShape(**values)
    except ValueError as error:
        raise HwgenError(
            "architecture", f"{config.where}: {error}", "choose a supported checkpoint"
        ) from error


def config_of(shape: ModelShape) -> dict[str, Any]:
    """The fields that :func:`shape_from_config` reads."""
    factors = {"rope_type": ROPE_FACTORS, "factors": list(shape.rope_factors), "scale": shape.rope_scale}
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
        **({"rope_scaling": factors} if shape.rope_factors or shape.rope_scale != 1 else {}),
        "rms_norm_eps": shape.rms_eps,
        "tie_word_embeddings": shape.tied,
        "attention_bias": False,
    }


def token_ids(value: object) -> tuple[int, ...]:
    """``eos_token_id`` of a configuration: absent, one number or a list."""
    found = value if isinstance(value, list) else [] if value is None else [value]
    if any(isinstance(v, bool) or not isinstance(v, int) or v < 0 for v in found):
        raise unsupported("eos_token_id", value, "a token id or a list of them")
    return tuple(found)
