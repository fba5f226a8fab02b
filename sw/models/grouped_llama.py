"""Llama decoders with ternary matrices and a scale for every group of inputs: how they are told from others, and read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ...decoder import LLAMA, DecoderLayer
from ...errors import HwgenError
from ...formats import Float
from ...grouped import GroupedMatrix
from ...int4 import BlockMatrix
from ...numerics import GROUP
from ...shape import ModelShape
from ...weights import LayerWeights, ModelWeights
from . import bitnet
from .checkpoint import read_checkpoint
from .four_bits import Keep, as_stored
from .gguf_file import GgufFile
from .llama import GAIN_PLACES, half_split, read_shape
from .tensors import TensorSet

__all__ = ["assemble", "gguf_matrix", "is_grouped", "is_grouped_gguf", "load_weights", "read_shape"]

#: Types whose blocks have a scale and codes of two bits or a trit.
_TYPES = ("Q2_0", "PQ2_0", "PTQ1_0")

#: Rows that are looked at to tell whether a matrix of floats is ternary in groups; of a head, those worked on at a time.
_ROWS, _ROWS_AT_A_TIME = 8, 4096

_FIX = "take the float file of an ordinary model, or a file of the ternary one in Q2_0 or PQ2_0"


def _split(values: Float) -> tuple[Float, Float] | None:
    """Signs and scales ``[rows, groups]`` of floats ``[rows, inputs]``, or None where a group has more magnitudes than one."""
    if values.shape[1] % GROUP or not values.size:
        return None
    groups = values.reshape(len(values), -1, GROUP)
    scale = np.abs(groups).max(axis=2)
    signs = np.sign(groups)
    if not np.array_equal(signs * scale[..., None], groups):
        return None
    return signs.reshape(values.shape), scale


def _of_floats(values: Float, where: str) -> GroupedMatrix:
    parts = _split(values)
    if parts is None:
        raise HwgenError("checkpoint", f"{where} is not ternary in groups of {GROUP} inputs, as the first matrix is", _FIX)
    return GroupedMatrix.of(parts[0].astype(np.int8), parts[1])


def is_grouped(tensors: TensorSet) -> bool:
    """Whether the first matrix of a checkpoint of floats is ternary in groups: only such weights are by chance nowhere else."""
    name = "model.layers.0.self_attn.q_proj.weight"
    if name not in tensors or tensors.kind(name) not in ("F32", "F16", "BF16") or len(tensors.shape(name)) != 2:
        return False
    return _split(tensors.first_rows(name, _ROWS)) is not None


def is_grouped_gguf(file: GgufFile) -> bool:
    """Whether the matrices of a file are ternary in groups: by their type, or as the first one of floats is."""
    name = "blk.0.attn_q.weight"
    if name not in file or len(file.shape(name)) != 2 or not all(file.shape(name)) or file.shape(name)[1] % GROUP:
        return False
    kind = file.kind(name)
    return kind in _TYPES or (kind in ("F32", "F16", "BF16") and _split(file.first_rows(name, _ROWS)) is not None)


def load_weights(
    directory: Path, config: dict[str, Any], shape: ModelShape, layer: DecoderLayer,
    progress: Callable[[str], None] = lambda text: None, keep: Keep = as_stored,
) -> ModelWeights:
    """Weights of a checkpoint directory of floats, every matrix of which is ternary in groups."""
    parts = read_checkpoint(
        TensorSet(directory), layer, shape, GAIN_PLACES,
        lambda tensors, place, size: _of_floats(tensors.floats(tensors.find(f"{place}.weight"), size), f"tensor {place}.weight"),
        progress, keep,
    )
    return assemble(*parts, layer=layer)


def gguf_matrix(file: GgufFile, name: str, place: str, shape: ModelShape) -> GroupedMatrix:
    """A matrix with the rows of queries and keys in half-split order. Blocks of 64 are halves of groups that have one scale."""
    matrix = file.matrix(f"{place}.weight", LLAMA.matrices(shape)[name])
    where = f"{file.path}: tensor {place}.weight"
    if isinstance(matrix, BlockMatrix):
        if matrix.midpoint is not None or np.abs(matrix.codes).max(initial=0) > 1:
            raise HwgenError("checkpoint", f"{where} has a code that is not -1, 0 or 1", _FIX)
        grouped = _of_blocks(matrix, where)
    else:
        grouped = _of_floats(matrix, where)
    order = half_split(file, name, shape)
    return grouped if order is None else GroupedMatrix(grouped.trits[order], grouped.codes[order], grouped.scale)


def _of_blocks(matrix: BlockMatrix, where: str) -> GroupedMatrix:
    parts = matrix.scale.reshape(matrix.shape[0], -1, GROUP // matrix.group)
    if not (parts == parts[..., :1]).all():
        # A block of zeros may have any scale, so that it is the weights that decide.
        return _of_floats(matrix.dense(), where)
    return GroupedMatrix.of(matrix.codes, parts[..., 0])


def assemble(
    shape: ModelShape, layers: list[LayerWeights], norm: Float, embedding: Float, head: Float | None, *, layer: DecoderLayer
) -> ModelWeights:
    """The model of parts as a file has them: floats flushed, the embedding rounded to bfloat16. A head that is ternary in groups is
    taken as that, before anything of it is rounded.
    """
    grouped_head = _grouped_rows(embedding if head is None else head)
    return replace(bitnet.assemble(shape, layers, norm, embedding, head, layer=layer), grouped_head=grouped_head)


def _grouped_rows(rows: Float) -> GroupedMatrix | None:
    """A large matrix of floats in groups, or None where it is not; without a second copy in floats."""
    trits = np.empty(rows.shape, np.int8)
    scale = np.empty((len(rows), rows.shape[1] // GROUP), np.float32)
    for first in range(0, len(rows), _ROWS_AT_A_TIME):
        part = slice(first, first + _ROWS_AT_A_TIME)
        parts = _split(rows[part])
        if parts is None:
            return None
        trits[part], scale[part] = parts
    return GroupedMatrix.of(trits, scale)
