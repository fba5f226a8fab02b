"""Llama checkpoints: those of ``transformers``, and what ``hwgen quantize`` writes; GGUF matrices."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...decoder import LLAMA, QWEN3, DecoderLayer
from ...errors import HwgenError
from ...formats import Float
from ...int4 import BlockMatrix, Int4Matrix, pack_nibbles
from ...shape import ModelShape
from ...weights import LayerWeights, Matrix, ModelWeights
from .checkpoint import read_checkpoint
from .config_json import MATRIX_PLACES, config_of
from .fields import Fields
from .four_bits import Keep, as_stored
from .gguf_classes import fused_in
from .gguf_file import GgufFile
from .int4_checkpoint import QUANT_METHOD, read_quantization
from .key_centers import CENTERS, write_centers
from .llama_classes import read_class_shape
from .multipliers import fold_multipliers, read_multipliers
from .tensors import TensorSet, write_tensors
from .tokenizer import Tokenizer

__all__ = [
    "GAIN_PLACES", "assemble", "check_output", "gguf_matrix", "half_split", "half_split_rows", "load_weights", "read_shape",
    "save_llama",
]

#: Gain -> place in a layer, where it is not its name.
GAIN_PLACES = {name: (f"self_attn.{name}",) for name in QWEN3.head_norms}

Stored = dict[str, tuple[str, npt.NDArray[Any]]]


def read_shape(config: dict[str, Any]) -> ModelShape:
    """Shape from the fields of ``config.json``; an option that the machine does not have is refused."""
    fields = Fields(config, "config.json")
    read_quantization(fields)
    return read_class_shape(config, fields)


def assemble(
    shape: ModelShape, layers: list[LayerWeights], norm: Float, embedding: Float, head: Float | None, *,
    layer: DecoderLayer = LLAMA, **kinds: Any,
) -> ModelWeights:
    """The model of parts as a file has them. ``kinds``: formats of cache and queries."""
    return ModelWeights(
        shape=shape, layer=layer, layers=tuple(layers), norm=norm, embedding=embedding, head=head, grouped_head=None, **kinds,
    )


#: Matrix -> the one that Phi-3 has in its place, and the matrices in that, from above.
_FUSED = {
    **dict.fromkeys(("q", "k", "v"), ("self_attn.qkv_proj", ("q", "k", "v"))),
    **dict.fromkeys(("gate", "up"), ("mlp.gate_up_proj", ("gate", "up"))),
}


def _fused_matrix(tensors: TensorSet, place: str, sizes: Mapping[str, tuple[int, int]]) -> Matrix:
    """The part of a fused matrix that ``place`` names."""
    name = next(name for name, end in MATRIX_PLACES.items() if place.endswith(end))
    if name not in _FUSED:
        return tensors.floats(tensors.find(f"{place}.weight"), sizes[name])
    fused, parts = _FUSED[name]
    rows = sum(sizes[part][0] for part in parts)
    whole = tensors.floats(tensors.find(f"{place.removesuffix(MATRIX_PLACES[name])}{fused}.weight"), (rows, sizes[name][1]))
    first = sum(sizes[part][0] for part in parts[: parts.index(name)])
    return whole[first : first + sizes[name][0]].copy()


def load_weights(
    directory: Path, config: dict[str, Any], shape: ModelShape, layer: DecoderLayer = LLAMA,
    progress: Callable[[str], None] = lambda text: None, keep: Keep = as_stored,
) -> ModelWeights:
    """Weights of a checkpoint directory, with what its class has beside a llama's folded into them."""
    stored = read_quantization(config)

    def matrix(tensors: TensorSet, place: str, size: tuple[int, int]) -> Matrix:
        if config.get("model_type") == "phi3":
            return _fused_matrix(tensors, place, layer.matrices(shape))
        return stored.read(tensors, place, size)

    read = read_checkpoint(TensorSet(directory), layer, shape, GAIN_PLACES, matrix, progress, keep)
    shape, layers, norm, embedding, head = read
    if config.get("model_type") == "granite":
        layers, norm = fold_multipliers(read_multipliers(Fields(config, "config.json")), shape, layers, norm)
    try:
        return assemble(shape, layers, norm, embedding, head, layer=layer, **stored.kinds)
    except ValueError as error:
        raise HwgenError("checkpoint", f"{directory / 'config.json'}: {error}", "quantise the model again") from error


def half_split_rows(rows: int, head_dim: int) -> npt.NDArray[np.int64]:
    """Where the rows of a matrix in half-split order are in one with interleaved rotary pairs (as llama GGUF files have them)."""
    return np.arange(rows).reshape(-1, head_dim // 2, 2).swapaxes(1, 2).reshape(-1)


#: GGUF architectures that have rotary pairs one beside the other.
_INTERLEAVED = ("llama", "smollm3", "granite")


def half_split(file: GgufFile, name: str, shape: ModelShape) -> npt.NDArray[np.int64] | None:
    """Where the rows of matrix ``name`` in half-split order are in the file; None where they lie so."""
    if name not in ("q", "k") or file.require("general.architecture") not in _INTERLEAVED:
        return None
    return half_split_rows(LLAMA.matrices(shape)[name][0], shape.head_dim)


def gguf_matrix(file: GgufFile, name: str, place: str, shape: ModelShape) -> Matrix:
    """A matrix in float32 or 4-bit blocks, with the rows of queries and keys in half-split order; or its part of a fused one."""
    sizes = LLAMA.matrices(shape)
    fused = fused_in(file.require("general.architecture"), name)
    if fused is not None:
        before = fused[1][: fused[1].index(name)]
        first, size = sum(sizes[part][0] for part in before), sizes[name]
        whole = file.matrix(f"{place}.weight", (sum(sizes[part][0] for part in fused[1]), size[1]))
        return _rows(whole, np.arange(first, first + size[0]))
    matrix = file.matrix(f"{place}.weight", sizes[name])
    order = half_split(file, name, shape)
    return matrix if order is None else _rows(matrix, order)


def _rows(matrix: Float | BlockMatrix, order: npt.NDArray[np.int64]) -> Float | BlockMatrix:
    """Rows of a matrix."""
    if not isinstance(matrix, BlockMatrix):
        return matrix[order]
    midpoint = None if matrix.midpoint is None else matrix.midpoint[order]
    return BlockMatrix(matrix.codes[order], matrix.group, matrix.scale[order], midpoint)


def check_output(out: Path) -> None:
    """Refuse a directory that holds something already."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise HwgenError("usage", f"{out} exists and is not empty", "give a new directory to --out")


def _tensors(weights: ModelWeights) -> tuple[Stored, int]:
    tensors: Stored = {
        "model.embed_tokens.weight": ("F32", weights.embedding),
        "model.norm.weight": ("F32", weights.norm),
    }
    group = 0
    for i, layer in enumerate(weights.layers):
        prefix = f"model.layers.{i}"
        for name, matrix in layer.matrices.items():
            place = f"{prefix}.{MATRIX_PLACES[name]}"
            if not isinstance(matrix, Int4Matrix):
                raise ValueError(f"layer {i} {name} must be an Int4Matrix, not {type(matrix).__name__}")
            group = matrix.group
            tensors[f"{place}.weight_codes"] = ("U8", pack_nibbles(matrix.codes))
            tensors[f"{place}.weight_scales"] = ("U8", matrix.scales)
            if matrix.midpoints is not None:
                tensors[f"{place}.weight_midpoints"] = ("I8", matrix.midpoints)
            tensors[f"{place}.row_scale"] = ("F32", matrix.row_scale)
        for name, gain in layer.norms.items():
            tensors[f"{prefix}.{GAIN_PLACES.get(name, (name,))[0]}.weight"] = ("F32", gain)
        for name, bias in weights.layer.bias_of.items():
            tensors[f"{prefix}.{MATRIX_PLACES[name]}.bias"] = ("F32", layer.biases[bias])
    if weights.head is not None:
        tensors["lm_head.weight"] = ("F32", weights.head)
    return tensors, group


def save_llama(
    weights: ModelWeights, out: Path, *, recipe: str, tokenizer: Tokenizer | None = None, stop_tokens: tuple[int, ...] = ()
) -> None:
    """Write ``weights`` to the new directory ``out``, whole or not at all; loading it again gives the same bits."""
    check_output(out)
    tensors, group = _tensors(weights)
    begin = None if tokenizer is None else tokenizer.begin
    rotated = [int(i not in weights.shape.unrotated) for i in range(weights.shape.layers)]
    config = {
        "model_type": "smollm3" if weights.shape.unrotated else weights.layer.name,
        **config_of(weights.shape),
        **({"no_rope_layers": rotated} if weights.shape.unrotated else {}),
        "bos_token_id": begin,
        "eos_token_id": list(stop_tokens),
        "quantization_config": {
            "quant_method": QUANT_METHOD,
            "group": group,
            "recipe": recipe,
            "kv": weights.kv,
            "query": weights.query,
        },
    }
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as folder:
            ready = Path(folder) / "ready"
            ready.mkdir()
            write_tensors(ready / "model.safetensors", tensors)
            if weights.key_centers is not None:
                write_centers(ready / CENTERS, weights.key_centers)
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
