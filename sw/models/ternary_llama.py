"""Ternary llamas: BitNet's matrices in layers without sub-norms (Falcon3-1.58bit, Falcon-E, Llama3-8B-1.58), and Qwen's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ...decoder import DecoderLayer
from ...formats import Float, flush
from ...shape import ModelShape
from ...ternary import TernaryMatrix
from ...weights import LayerWeights, ModelWeights
from . import bitnet
from .bitnet import read_quantization
from .fields import Fields
from .four_bits import Keep, as_stored
from .gguf_file import GgufFile
from .llama import half_split
from .llama_classes import read_class_shape

__all__ = ["assemble", "gguf_matrix", "load_weights", "read_shape"]


def read_shape(config: dict[str, Any]) -> ModelShape:
    """Shape from the fields of ``config.json``; an option that the machine does not have is refused."""
    fields = Fields(config, "config.json")
    read_quantization(fields)
    return read_class_shape(config, fields)


def load_weights(
    directory: Path, config: dict[str, Any], shape: ModelShape, layer: DecoderLayer,
    progress: Callable[[str], None] = lambda text: None, keep: Keep = as_stored,
) -> ModelWeights:
    """Weights of a checkpoint directory. ``weight_scale``, one a matrix, multiplies or divides, as its class of linear says."""
    weights, quantization = bitnet.load_weights(directory, config, shape, layer, progress, keep), read_quantization(config)
    if not layer.bias_of or quantization.divides or quantization.online:
        return weights
    return replace(weights, layers=tuple(_scale_biases(of, layer) for of in weights.layers))


def _scale_biases(weights: LayerWeights, layer: DecoderLayer) -> LayerWeights:
    """AutoBitLinear, offline, multiplies by ``weight_scale`` behind the sum: the bias, too."""
    scales = {bias: np.float32(weights.matrices[name].scale) for name, bias in layer.bias_of.items()}
    biases = {bias: flush(values * scales[bias]) for bias, values in weights.biases.items()}
    return replace(weights, biases=biases)


def gguf_matrix(file: GgufFile, name: str, place: str, shape: ModelShape) -> TernaryMatrix:
    """A ternary matrix, with the rows of queries and keys in half-split order."""
    matrix = bitnet.gguf_matrix(file, name, place, shape)
    order = half_split(file, name, shape)
    return matrix if order is None else TernaryMatrix(matrix.trits[order], matrix.scale)


def assemble(
    shape: ModelShape, layers: list[LayerWeights], norm: Float, embedding: Float, head: Float | None, *, layer: DecoderLayer
) -> ModelWeights:
    """The model of parts as a file has them: floats flushed, the embedding rounded to bfloat16."""
    return bitnet.assemble(shape, layers, norm, embedding, head, layer=layer)
