"""Llama models in Hugging Face layout: ``LlamaForCausalLM`` checkpoints, and what ``hwgen quantize`` writes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import HwgenError
from ...int4 import Int4Matrix, unpack_nibbles
from ...llama import LlamaLayer, LlamaWeights, Matrix
from ...shape import ModelShape
from ...weights import matrix_shapes
from ..progress import Ticker
from .bitnet import MATRIX_PLACES, read_config, shape_from_config, token_ids
from .tensors import TensorSet
from .tokenizer import Tokenizer

__all__ = ["QUANT_METHOD", "LoadedLlama", "is_llama", "load_llama", "load_llama_weights", "read_llama_shape"]

#: ``quant_method`` of a checkpoint with INT4 matrices as the machine stores them.
QUANT_METHOD = "hwgen_int4"

_MISMATCH = "config.json and the weights belong to different models"
_AGAIN = "download the checkpoint again"


@dataclass(frozen=True, kw_only=True)
class LoadedLlama:
    """A llama model with its tokenizer."""

    #: Name printed in reports.
    name: str
    #: Directory or file it came from.
    path: Path
    weights: LlamaWeights
    tokenizer: Tokenizer
    #: Token ids that end a generation.
    stop_tokens: tuple[int, ...] = field(default=())


def is_llama(config: dict[str, Any]) -> bool:
    """Whether ``config.json`` describes a plain llama (bitnet_b1_58-large calls itself one, but names its architecture)."""
    architectures = [str(a).lower() for a in config.get("architectures") or []]
    return config.get("model_type") == "llama" and not any(a.startswith("bitnet") for a in architectures)


def read_llama_shape(config: dict[str, Any]) -> ModelShape:
    """Shape from the fields of ``config.json``; an option that the machine does not have is refused."""
    return shape_from_config(config, activations=("silu",), default_activation="silu", default_theta=10000.0)


def _quantization(config: dict[str, Any]) -> dict[str, Any]:
    """``quantization_config`` of our own checkpoints, empty for a float checkpoint."""
    options = config.get("quantization_config") or {}
    method = options.get("quant_method")
    if options and method != QUANT_METHOD:
        raise HwgenError(
            "architecture", f"config.json: quant_method is {method!r}; supported: {QUANT_METHOD!r} or float weights",
            "take the float checkpoint, or a GGUF file, and use `hwgen quantize`",
        )
    return dict(options)


def _floats(tensors: TensorSet, name: str, shape: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.float32]]:
    values = tensors.floats(tensors.find(name))
    if values.shape != shape:
        raise HwgenError("checkpoint", f"tensor {name} has shape {values.shape}, {shape} expected", _MISMATCH)
    if not np.isfinite(values).all():
        raise HwgenError("checkpoint", f"tensor {name} holds values that are not finite", _AGAIN)
    return values


def _matrix(tensors: TensorSet, place: str, shape: tuple[int, int], group: int | None) -> Matrix:
    if group is None or f"{place}.weight" in tensors:
        return _floats(tensors, f"{place}.weight", shape)
    packed, scales = (tensors.stored(tensors.find(f"{place}.{n}")) for n in ("weight_codes", "weight_scales"))
    midpoints = f"{place}.weight_midpoints"
    try:
        matrix = Int4Matrix(
            unpack_nibbles(packed), group, scales, tensors.stored(midpoints) if midpoints in tensors else None,
            tensors.floats(tensors.find(f"{place}.row_scale")),
        )
    except (ValueError, TypeError) as error:
        raise HwgenError("checkpoint", f"tensor {place}.weight_codes: {error}", _AGAIN) from error
    if matrix.codes.shape != shape:
        raise HwgenError("checkpoint", f"tensor {place}.weight_codes has shape {matrix.codes.shape}, {shape} expected", _MISMATCH)
    return matrix


def load_llama_weights(directory: Path, progress: Callable[[str], None] = lambda text: None) -> LlamaWeights:
    """Weights of a checkpoint directory."""
    config = read_config(directory)
    shape = read_llama_shape(config)
    options = _quantization(config)
    group = int(options["group"]) if options else None
    tensors = TensorSet(directory)
    layers = []
    ticker = Ticker(progress)
    for i in range(shape.layers):
        ticker.tick(f"reading layer {i + 1} of {shape.layers}")
        prefix = f"model.layers.{i}"
        matrices = {
            name: _matrix(tensors, f"{prefix}.{MATRIX_PLACES[name]}", size, group) for name, size in matrix_shapes(shape).items()
        }
        gains = {
            name: _floats(tensors, f"{prefix}.{name}.weight", (shape.hidden,))
            for name in ("input_layernorm", "post_attention_layernorm")
        }
        layers.append(LlamaLayer(**matrices, **gains))  # type: ignore[arg-type]  # split by name, not by type
    table = (shape.vocab, shape.hidden)
    try:
        return LlamaWeights(
            shape=shape,
            layers=tuple(layers),
            norm=_floats(tensors, "model.norm.weight", (shape.hidden,)),
            embedding=_floats(tensors, "model.embed_tokens.weight", table),
            head=None if shape.tied else _floats(tensors, "lm_head.weight", table),
            kv=str(options.get("kv", "int8")),
            query=str(options.get("query", "int8")),
        )
    except ValueError as error:
        raise HwgenError("checkpoint", f"{directory / 'config.json'}: {error}", "quantise the model again") from error


def load_llama(path: Path, progress: Callable[[str], None] = lambda text: None) -> LoadedLlama:
    """A checkpoint directory with its tokenizer."""
    config = read_config(path)
    _quantization(config)
    read_llama_shape(config)  # an unsupported model is refused before anything large is read
    generation = read_config(path, "generation_config.json") if (path / "generation_config.json").exists() else {}
    begin = token_ids(generation.get("bos_token_id", config.get("bos_token_id")))
    stop = token_ids(generation.get("eos_token_id", config.get("eos_token_id")))
    tokenizer = Tokenizer.load(path, begin=begin[0] if begin else None, end=stop[0] if stop else None)
    weights = load_llama_weights(path, progress)
    return LoadedLlama(name=path.name, path=path, weights=weights, tokenizer=tokenizer, stop_tokens=stop)
