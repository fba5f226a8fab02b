"""Writes quantised llama models in Hugging Face layout, with INT4 matrices as the machine stores them."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import HwgenError
from ...int4 import Int4Matrix, pack_nibbles
from ...llama import MATRICES, LlamaWeights
from .bitnet import MATRIX_PLACES
from .llama import QUANT_METHOD
from .tensors import write_tensors
from .tokenizer import Tokenizer

__all__ = ["check_output", "save_llama"]

Stored = dict[str, tuple[str, npt.NDArray[Any]]]


def check_output(out: Path) -> None:
    """Refuse a directory that holds something already."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise HwgenError("usage", f"{out} exists and is not empty", "give a new directory to --out")


def _config(weights: LlamaWeights, group: int, recipe: str, begin: int | None, stop: list[int]) -> dict[str, Any]:
    s = weights.shape
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": s.hidden,
        "num_hidden_layers": s.layers,
        "num_attention_heads": s.heads,
        "num_key_value_heads": s.kv_heads,
        "head_dim": s.head_dim,
        "intermediate_size": s.ffn,
        "vocab_size": s.vocab,
        "hidden_act": s.activation,
        "max_position_embeddings": s.max_context,
        "rope_theta": s.rope_theta,
        "rms_norm_eps": s.rms_eps,
        "tie_word_embeddings": s.tied,
        "attention_bias": False,
        "bos_token_id": begin,
        "eos_token_id": stop,
        "quantization_config": {
            "quant_method": QUANT_METHOD,
            "group": group,
            "recipe": recipe,
            "kv": weights.kv,
            "query": weights.query,
        },
    }


def _tensors(weights: LlamaWeights) -> tuple[Stored, int]:
    tensors: Stored = {
        "model.embed_tokens.weight": ("F32", weights.embedding),
        "model.norm.weight": ("F32", weights.norm),
    }
    group = 0
    for i, layer in enumerate(weights.layers):
        prefix = f"model.layers.{i}"
        for name in MATRICES:
            matrix, place = getattr(layer, name), f"{prefix}.{MATRIX_PLACES[name]}"
            if not isinstance(matrix, Int4Matrix):
                raise ValueError(f"layer {i} {name} must be an Int4Matrix, not {type(matrix).__name__}")
            group = matrix.group
            tensors[f"{place}.weight_codes"] = ("U8", pack_nibbles(matrix.codes))
            tensors[f"{place}.weight_scales"] = ("U8", matrix.scales)
            if matrix.midpoints is not None:
                tensors[f"{place}.weight_midpoints"] = ("I8", matrix.midpoints)
            tensors[f"{place}.row_scale"] = ("F32", matrix.row_scale)
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{prefix}.{name}.weight"] = ("F32", np.asarray(getattr(layer, name), np.float32))
    if weights.head is not None:
        tensors["lm_head.weight"] = ("F32", weights.head)
    return tensors, group


def save_llama(
    weights: LlamaWeights, out: Path, *, recipe: str, tokenizer: Tokenizer | None = None, stop_tokens: tuple[int, ...] = ()
) -> None:
    """Write ``weights`` to the new directory ``out``, whole or not at all; loading it again gives the same bits."""
    check_output(out)
    tensors, group = _tensors(weights)
    begin = None if tokenizer is None else tokenizer.begin
    config = _config(weights, group, recipe, begin, list(stop_tokens))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as folder:
            ready = Path(folder) / "ready"
            ready.mkdir()
            write_tensors(ready / "model.safetensors", tensors)
            (ready / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
            if tokenizer is not None:
                tokenizer.save(ready / "tokenizer.json")
                settings = json.dumps(tokenizer.settings(), indent=2, ensure_ascii=False)
                (ready / "tokenizer_config.json").write_text(settings + "\n", encoding="utf-8")
            if out.exists():
                out.rmdir()  # empty, as checked
            shutil.move(ready, out)
    except OSError as error:
        raise HwgenError("usage", f"{out} cannot be written: {error.strerror}", "give --out on a disk with room") from error
