"""The walk over the tensors of a checkpoint in Hugging Face layout, whatever its family."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from ...decoder import DecoderLayer
from ...errors import HwgenError
from ...formats import Float
from ...shape import ModelShape
from ...weights import LayerWeights, Matrix
from ..progress import Ticker
from .config_json import MATRIX_PLACES
from .four_bits import Keep, as_stored
from .tensors import TensorSet

__all__ = ["HARMLESS", "MISMATCH", "Parts", "ReadMatrix", "read_checkpoint"]

MISMATCH = "config.json and the weights belong to different models"

#: Ends of the names of tensors that no result depends on, with the reason.
HARMLESS = {
    ".rotary_emb.inv_freq": "rotary frequencies of old files; every reader computes them from config.json",
    ".attn.masked_bias": "a constant of old files", ".attention.bias_mask": "a constant of old files",
}

#: A matrix ``[rows, inputs]`` of the layer at a place in a checkpoint.
ReadMatrix = Callable[[TensorSet, str, tuple[int, int]], Matrix]

#: Shape, layers, gain of the final norm, embedding, head.
Parts = tuple[ModelShape, list[LayerWeights], Float, Float, "Float | None"]


def _head(tensors: TensorSet, shape: ModelShape, embedding: Float) -> Float | None:
    """The head that the tensors hold; None where it is the embedding. A tied model with a head of its own is not tied, which
    is what transformers makes of it.
    """
    if shape.tied and "lm_head.weight" not in tensors:
        return None
    head = tensors.floats(tensors.find("lm_head.weight"), (shape.vocab, shape.hidden))
    return None if shape.tied and np.array_equal(head, embedding) else head


def read_checkpoint(
    tensors: TensorSet, layer: DecoderLayer, shape: ModelShape, gains: Mapping[str, tuple[str, ...]], matrix: ReadMatrix,
    progress: Callable[[str], None], keep: Keep = as_stored,
) -> Parts:
    """Everything that the model of ``layer`` needs, and not one tensor left over. ``gains``: places of a gain in a layer, where
    it is not its name. ``keep`` says what becomes of matrices.
    """
    layers = []
    ticker = Ticker(progress)
    for i in range(shape.layers):
        ticker.tick(f"reading layer {i + 1} of {shape.layers}")
        prefix = f"model.layers.{i}"
        matrices = {}
        for name, size in layer.matrices(shape).items():
            place = f"{prefix}.{MATRIX_PLACES[name]}"
            kind = tensors.kind(f"{place}.weight") if f"{place}.weight" in tensors else "other forms"
            matrices[name] = keep(f"layer {i} {name}", kind, matrix(tensors, place, size))
        norms = {
            name: tensors.floats(tensors.find(*(f"{prefix}.{place}.weight" for place in gains.get(name, (name,)))), (size,))
            for name, size in layer.norms(shape).items()
        }
        biases = {
            bias: tensors.floats(tensors.find(f"{prefix}.{MATRIX_PLACES[name]}.bias"), (layer.matrices(shape)[name][0],))
            for name, bias in layer.bias_of.items()
        }
        layers.append(LayerWeights(matrices=matrices, norms=norms, biases=biases))
    norm = tensors.floats(tensors.find("model.norm.weight"), (shape.hidden,))
    embedding = tensors.floats(tensors.find("model.embed_tokens.weight"), (shape.vocab, shape.hidden))
    head = _head(tensors, shape, embedding)
    left = [name for name in tensors.unread() if not name.endswith(tuple(HARMLESS))]
    if left:
        more = f", and {len(left) - 1} more" if len(left) > 1 else ""
        raise HwgenError(
            "architecture", f"tensor {left[0]}{more} is no part of a {layer.name} model of {shape.layers} layers",
            "choose a checkpoint of a supported architecture; " + MISMATCH,
        )
    return replace(shape, tied=head is None), layers, norm, embedding, head
