"""Export of a model in Hugging Face layout: packed ternary weights, float32 elsewhere, tokenizer, generation defaults."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import HwgenError
from ...rounding import ceil_div
from ...shape import ModelShape
from ...weights import LayerWeights, ModelWeights, gain_sizes, matrix_shapes, quantize_ternary, round_bf16
from .bitnet import GAIN_PLACES, MATRIX_PLACES, TRITS_PER_PACKED_BYTE
from .tensors import write_tensors

__all__ = ["export_training", "pack_trits", "save_model", "weights_from_state"]

Stored = dict[str, tuple[str, npt.NDArray[Any]]]


def pack_trits(trits: npt.NDArray[np.int8]) -> npt.NDArray[np.uint8]:
    """Trits ``[rows, inputs]`` -> packed Hugging Face matrix ``[ceil(rows / 4), inputs]`` (see ``loader.unpack_trits``)."""
    rows, inputs = trits.shape
    stored = ceil_div(rows, TRITS_PER_PACKED_BYTE)
    digits = np.zeros((TRITS_PER_PACKED_BYTE * stored, inputs), np.uint8)
    digits[:rows] = (trits + 1).astype(np.uint8)
    packed = np.zeros((stored, inputs), np.uint8)
    for i in range(TRITS_PER_PACKED_BYTE):
        packed |= digits[i * stored : (i + 1) * stored] << np.uint8(2 * i)
    return packed


def config_json(shape: ModelShape, end_token: int | None) -> dict[str, Any]:
    """``config.json`` of a packed checkpoint, as ``transformers`` reads it."""
    return {
        "architectures": ["BitNetForCausalLM"],
        "model_type": "bitnet",
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
        "bos_token_id": end_token,
        "eos_token_id": end_token,
        "torch_dtype": "float32",
        # weight_scale multiplies; the class "bitlinear" would divide by it
        "quantization_config": {
            "quant_method": "bitnet",
            "linear_class": "autobitlinear",
            "quantization_mode": "offline",
        },
    }


def save_model(
    weights: ModelWeights, out: Path, tokenizer: Path | None = None, *, end_token: int | None = None
) -> None:
    """Write ``weights`` to directory ``out``; loading it again gives the same bits. ``tokenizer`` is a file to copy."""
    out.mkdir(parents=True, exist_ok=True)
    shape = weights.shape
    # transformers casts nothing of a packed checkpoint, so that all of its floats must have one type
    tensors: Stored = {
        "model.embed_tokens.weight": ("F32", weights.embedding),
        "model.norm.weight": ("F32", weights.norm),
    }
    for i, layer in enumerate(weights.layers):
        prefix = f"model.layers.{i}"
        for name in matrix_shapes(shape):
            matrix, place = getattr(layer, name), MATRIX_PLACES[name]
            tensors[f"{prefix}.{place}.weight"] = ("U8", pack_trits(matrix.trits))
            tensors[f"{prefix}.{place}.weight_scale"] = ("F32", np.array([matrix.scale], np.float32))
        for name in gain_sizes(shape):
            tensors[f"{prefix}.{GAIN_PLACES[name][0]}.weight"] = ("F32", getattr(layer, name))
    if weights.head is not None:
        tensors["lm_head.weight"] = ("F32", weights.head)
    write_tensors(out / "model.safetensors", tensors)
    config = config_json(shape, end_token)
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    generation = {"bos_token_id": end_token, "eos_token_id": end_token, "do_sample": False}
    (out / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    if tokenizer is not None and tokenizer.resolve() != (out / "tokenizer.json").resolve():
        shutil.copyfile(tokenizer, out / "tokenizer.json")


def weights_from_state(shape: ModelShape, state: dict[str, npt.NDArray[np.float32]]) -> ModelWeights:
    """Quantise the float masters of a state dict (names of ``golden.reference.BitNet``)."""
    layers = []
    for i in range(shape.layers):
        prefix = f"model.layers.{i}"
        matrices = {
            name: quantize_ternary(state[f"{prefix}.{MATRIX_PLACES[name]}.weight"]) for name in matrix_shapes(shape)
        }
        gains = {name: state[f"{prefix}.{GAIN_PLACES[name][0]}.weight"] for name in gain_sizes(shape)}
        layers.append(LayerWeights(**matrices, **gains))  # type: ignore[arg-type]  # split by name, not by type
    return ModelWeights(
        shape=shape,
        layers=tuple(layers),
        norm=state["model.norm.weight"],
        embedding=round_bf16(state["model.embed_tokens.weight"]),
        head=None if shape.tied else state["lm_head.weight"],
    )


def export_training(run: Path, out: Path) -> ModelWeights:
    """Export the newest state of a training directory (``hwgen train --out``) to directory ``out``."""
    import torch

    state_file = run / "train_state.pt"
    if not state_file.exists():
        raise HwgenError("checkpoint", f"{state_file} is missing", "give the directory that `hwgen train` wrote")
    saved = torch.load(state_file, weights_only=True, map_location="cpu")
    shape = ModelShape(**json.loads(saved["signature"])[1])
    state = {name: value.float().numpy() for name, value in saved["model"].items()}
    weights = weights_from_state(shape, state)
    # documents begin and end with token 0, <|endoftext|>
    save_model(weights, out, run / "tokenizer.json", end_token=0)
    return weights
