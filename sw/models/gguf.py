"""Models from GGUF files: llama with float or 4-bit matrices, BitNet with ternary ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import HwgenError
from ...int4 import BlockMatrix
from ...llama import LlamaLayer, LlamaWeights
from ...shape import ModelShape
from ...weights import LayerWeights, ModelWeights, TernaryMatrix, flush, gain_sizes, matrix_shapes, round_bf16
from ..progress import Ticker
from .bitnet import LoadedModel
from .gguf_file import GgufFile
from .gguf_tokenizer import stop_tokens, tokenizer_from_gguf
from .llama import LoadedLlama

__all__ = ["half_split_rows", "load_gguf", "ternary_matrix"]

#: Matrix or gain -> tensor of a layer.
_PLACES = {
    "q": "attn_q",
    "k": "attn_k",
    "v": "attn_v",
    "o": "attn_output",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
    "input_layernorm": "attn_norm",
    "attn_sub_norm": "attn_sub_norm",
    "post_attention_layernorm": "ffn_norm",
    "ffn_sub_norm": "ffn_sub_norm",
}

#: Architecture -> gate function.
_ARCHITECTURES = {"llama": "silu", "bitnet": "silu"}


def _refuse(file: GgufFile, what: str) -> HwgenError:
    return HwgenError("architecture", f"{file.path}: {what}", "choose a llama or BitNet model with supported options")


def _single(file: GgufFile, name: str, default: Any) -> int:
    """A field that may hold one value a layer; all must be equal."""
    value = file.get(name, default)
    values = set(value) if isinstance(value, list) else {value}
    if len(values) != 1:
        raise _refuse(file, f"{name} differs between layers")
    return int(values.pop())


def _decimal(value: float) -> float:
    """A float32 field as the short decimal number it was made of, which is what config.json has."""
    return float(str(np.float32(value)))


def read_gguf_shape(file: GgufFile) -> ModelShape:
    """Shape from the fields of the file; an option that the machine does not have is refused."""
    arch = file.require("general.architecture")
    if arch not in _ARCHITECTURES:
        raise _refuse(file, f"architecture {arch!r} is not supported; supported: {', '.join(_ARCHITECTURES)}")
    if file.get(f"{arch}.expert_count"):
        raise _refuse(file, "mixtures of experts are not supported")
    scaling = file.get(f"{arch}.rope.scaling.type", "none")
    if scaling != "none" or file.get(f"{arch}.rope.scale_linear", 1.0) != 1.0:
        raise _refuse(file, f"rotary positions are scaled ({scaling!r}), which is not supported")
    if "rope_freqs.weight" in file and (file.floats("rope_freqs.weight", file.shape("rope_freqs.weight")) != 1).any():
        raise _refuse(file, "rotary frequencies have factors of their own (Llama 3.1 scaling), which are not supported")
    biased = [name for name in file.names() if name.endswith(".bias")]
    if biased:
        raise _refuse(file, f"tensor {biased[0]}: linear layers with biases are not supported")
    heads = _single(file, f"{arch}.attention.head_count", file.require(f"{arch}.attention.head_count"))
    hidden = int(file.require(f"{arch}.embedding_length"))
    head_dim = int(file.get(f"{arch}.attention.key_length", hidden // heads))
    values: dict[str, Any] = {
        "hidden": hidden,
        "layers": int(file.require(f"{arch}.block_count")),
        "heads": heads,
        "kv_heads": _single(file, f"{arch}.attention.head_count_kv", heads),
        "head_dim": head_dim,
        "ffn": _single(file, f"{arch}.feed_forward_length", file.require(f"{arch}.feed_forward_length")),
        "vocab": file.shape("token_embd.weight")[0],
        "activation": _ARCHITECTURES[arch],
        "max_context": int(file.get(f"{arch}.context_length", 2048)),
        "rope_theta": _decimal(file.get(f"{arch}.rope.freq_base", 10000.0)),
        "rms_eps": _decimal(file.get(f"{arch}.attention.layer_norm_rms_epsilon", 1e-5)),
        "tied": "output.weight" not in file,
    }
    for name in ("attention.value_length", "rope.dimension_count"):
        if file.get(f"{arch}.{name}", head_dim) != head_dim:
            raise _refuse(file, f"{arch}.{name} is {file.get(f'{arch}.{name}')}, only the head dimension {head_dim} is supported")
    try:
        return ModelShape(**values)
    except ValueError as error:
        raise _refuse(file, str(error)) from error


def half_split_rows(rows: int, head_dim: int) -> npt.NDArray[np.int64]:
    """Where the rows of a matrix in half-split order are in one with interleaved rotary pairs (as llama GGUF files have them)."""
    return np.arange(rows).reshape(-1, head_dim // 2, 2).swapaxes(1, 2).reshape(-1)


def _reorder(matrix: npt.NDArray[np.float32] | BlockMatrix, order: npt.NDArray[np.int64]) -> npt.NDArray[np.float32] | BlockMatrix:
    if not isinstance(matrix, BlockMatrix):
        return matrix[order]
    midpoint = None if matrix.midpoint is None else matrix.midpoint[order]
    return BlockMatrix(matrix.codes[order], matrix.group, matrix.scale[order], midpoint)


def ternary_matrix(file: GgufFile, name: str, shape: tuple[int, int]) -> TernaryMatrix:
    """A matrix of -s, 0 and s, whatever type it is stored in, times the tensor ``.scale`` beside it if there is one."""
    values = file.floats(f"{name}.weight", shape)
    scale = np.abs(values).max()
    trits = np.sign(values).astype(np.int8)
    if not np.array_equal(trits * scale, values):
        raise HwgenError(
            "checkpoint", f"{file.path}: tensor {name}.weight has more than one scale, so it is not ternary",
            "take a file with TQ1_0 or TQ2_0 matrices made from the ternary checkpoint",
        )
    if f"{name}.scale" in file:
        scale = scale * file.floats(f"{name}.scale", (1,))[0]
    return TernaryMatrix(trits, float(flush(scale)))


def _gain(file: GgufFile, layer: int, name: str, size: int) -> npt.NDArray[np.float32]:
    return file.floats(f"blk.{layer}.{_PLACES[name]}.weight", (size,))


def _llama(file: GgufFile, shape: ModelShape, tick: Callable[[str], None]) -> LlamaWeights:
    layers = []
    orders = {"q": half_split_rows(shape.q_rows, shape.head_dim), "k": half_split_rows(shape.kv_rows, shape.head_dim)}
    for i in range(shape.layers):
        tick(f"reading layer {i + 1} of {shape.layers}")
        parts: dict[str, Any] = {}
        for name, size in matrix_shapes(shape).items():
            matrix = file.matrix(f"blk.{i}.{_PLACES[name]}.weight", size)
            parts[name] = _reorder(matrix, orders[name]) if name in orders else matrix
        for name in ("input_layernorm", "post_attention_layernorm"):
            parts[name] = _gain(file, i, name, shape.hidden)
        layers.append(LlamaLayer(**parts))
    table = (shape.vocab, shape.hidden)
    return LlamaWeights(
        shape=shape,
        layers=tuple(layers),
        norm=file.floats("output_norm.weight", (shape.hidden,)),
        embedding=file.floats("token_embd.weight", table),
        head=None if shape.tied else file.floats("output.weight", table),
    )


def _bitnet(file: GgufFile, shape: ModelShape, tick: Callable[[str], None]) -> ModelWeights:
    layers = []
    for i in range(shape.layers):
        tick(f"reading layer {i + 1} of {shape.layers}")
        parts: dict[str, Any] = {
            name: ternary_matrix(file, f"blk.{i}.{_PLACES[name]}", size) for name, size in matrix_shapes(shape).items()
        }
        parts |= {name: flush(_gain(file, i, name, size)) for name, size in gain_sizes(shape).items()}
        layers.append(LayerWeights(**parts))
    table = (shape.vocab, shape.hidden)
    return ModelWeights(
        shape=shape,
        layers=tuple(layers),
        norm=flush(file.floats("output_norm.weight", (shape.hidden,))),
        embedding=round_bf16(file.floats("token_embd.weight", table)),
        head=None if shape.tied else flush(file.floats("output.weight", table)),
    )


def load_gguf(
    path: Path, progress: Callable[[str], None] = lambda text: None, name: str | None = None
) -> LoadedModel | LoadedLlama:
    """The model of a GGUF file with the tokenizer inside it."""
    file = GgufFile(path)
    shape = read_gguf_shape(file)
    tokenizer, stop = tokenizer_from_gguf(file), stop_tokens(file)
    tick = Ticker(progress).tick
    label = name or path.stem
    if file.get("general.architecture") == "llama":
        return LoadedLlama(name=label, path=path, weights=_llama(file, shape, tick), tokenizer=tokenizer, stop_tokens=stop)
    return LoadedModel(name=label, path=path, weights=_bitnet(file, shape, tick), tokenizer=tokenizer, stop_tokens=stop)
