"""Models from GGUF files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import HwgenError
from ...shape import ModelShape
from ...weights import LayerWeights, ModelWeights
from ..progress import Ticker
from .families import FAMILIES, Family, family_of_gguf
from .gguf_file import GgufFile
from .gguf_tokenizer import stop_tokens, tokenizer_from_gguf
from .model import Model

__all__ = ["load_gguf"]

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


def _family(file: GgufFile) -> Family:
    arch = file.require("general.architecture")
    family = family_of_gguf(arch)
    if family is None:
        raise _refuse(file, f"architecture {arch!r} is not supported; supported: {', '.join(f.name for f in FAMILIES)}")
    return family


def read_gguf_shape(file: GgufFile, arch: str, activation: str) -> ModelShape:
    """Shape from the fields of the file; an option that the machine does not have is refused."""
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
        "activation": activation,
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


def _weights(file: GgufFile, family: Family, shape: ModelShape, tick: Callable[[str], None]) -> ModelWeights:
    layers, loader = [], family.loader()
    for i in range(shape.layers):
        tick(f"reading layer {i + 1} of {shape.layers}")
        names = family.layer.matrices(shape)
        matrices = {name: loader.gguf_matrix(file, name, f"blk.{i}.{_PLACES[name]}", shape) for name in names}
        norms = family.layer.norms(shape).items()
        gains = {name: file.floats(f"blk.{i}.{_PLACES[name]}.weight", (size,)) for name, size in norms}
        layers.append(LayerWeights(matrices=matrices, norms=gains))
    norm, table = file.floats("output_norm.weight", (shape.hidden,)), (shape.vocab, shape.hidden)
    head = None if shape.tied else file.floats("output.weight", table)
    return loader.assemble(shape, layers, norm, file.floats("token_embd.weight", table), head)


def load_gguf(path: Path, progress: Callable[[str], None] = lambda text: None, name: str | None = None) -> Model:
    """The model of a GGUF file with the tokenizer inside it."""
    file = GgufFile(path)
    family = _family(file)
    shape = read_gguf_shape(file, family.name, family.gguf_activation)
    tokenizer, stop = tokenizer_from_gguf(file), stop_tokens(file)
    weights = _weights(file, family, shape, Ticker(progress).tick)
    return Model(name=name or path.stem, path=path, family=family, weights=weights, tokenizer=tokenizer, stop_tokens=stop)
