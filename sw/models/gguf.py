"""Models from GGUF files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import HwgenError
from ...formats import Float
from ...shape import ModelShape
from ...weights import LayerWeights, ModelWeights
from ..progress import Ticker
from . import gguf_i2s
from .decisions import decisions_of_gguf, describe_kinds
from .families import FAMILIES, Family, family_of_gguf
from .four_bits import Keep
from .gguf_classes import LONG_FACTORS, SHORT_FACTORS, finish_shape, finish_weights, fused_in, read_rotary
from .gguf_file import GgufFile
from .gguf_tokenizer import stop_tokens, tokenizer_from_gguf
from .grouped_llama import is_grouped_gguf
from .model import ModelFiles, check_tokens

__all__ = ["open_gguf"]

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
    "q_norm": "attn_q_norm",
    "k_norm": "attn_k_norm",
}


#: Fields that no result depends on, with the reason; ``ARCH`` stands for the architecture.
_HARMLESS = {
    "general.*": "who made it of what", "quantize.*": "how it was quantised",
    "ARCH.tensor_data_layout": "who wrote the rows", "ARCH.attention.layer_norm_epsilon": "of norms that the family does not have",
    "ARCH.rope.scaling.original_context_length": "of YaRN, which reads it",
    "ARCH.rope.scaling.finetuned": "a note of its makers", "ARCH.expert_used_count": "of experts, which are refused",
    "tokenizer.chat_template.*": "templates for other purposes", "tokenizer.chat_templates": "names of those",
    "tokenizer.huggingface.json": "the same tokenizer in another form", "tokenizer.ggml.unknown_token_id": "bytes stand for it",
    "tokenizer.ggml.padding_token_id": "batches are never padded", "tokenizer.ggml.mask_token_id": "encoders only",
    "tokenizer.ggml.seperator_token_id": "encoders only", "tokenizer.ggml.cls_token_id": "encoders only",
    "tokenizer.ggml.scores": "of SentencePiece", "tokenizer.ggml.remove_extra_whitespaces": "of unigram tokenizers",
    "tokenizer.ggml.fim_*": "for filling in the middle", "tokenizer.ggml.prefix_token_id": "for filling in the middle",
    "tokenizer.ggml.suffix_token_id": "for filling in the middle", "tokenizer.ggml.middle_token_id": "for filling in the middle",
    "tokenizer.ggml.bos_token_id": "put before a text only where add_bos_token says so",
}

#: No head of a model is longer.
_LONGEST_HEAD = 1 << 16

#: Types of matrices with one scale.
_TERNARY_TYPES = ("I2_S", "TQ1_0", "TQ2_0")

#: Names of gate functions in the format.
_ACTIVATIONS = {"relu2": "relu2", "relu_sqr": "relu2", "silu": "silu", "swish": "silu"}


def _place(arch: str, name: str) -> str:
    """Tensor of a layer that has a matrix or a gain."""
    fused = fused_in(arch, name)
    return _PLACES[name] if fused is None else fused[0]


def _refuse(file: GgufFile, what: str) -> HwgenError:
    return HwgenError("architecture", f"{file.path}: {what}", "choose a llama or BitNet model with supported options")


def _family(file: GgufFile) -> Family:
    if file.get("general.type", "model") != "model":
        raise _refuse(file, f"it holds no model, but {file.get('general.type')!r}")
    arch = file.require("general.architecture")
    if not isinstance(arch, str):
        raise _refuse(file, f"general.architecture is {arch!r}, no name")
    first = "blk.0.ffn_up.weight"
    engine = "ternary" if first in file and file.kind(first) in _TERNARY_TYPES else "int4"
    if is_grouped_gguf(file) and family_of_gguf(arch, "grouped") is not None:
        engine = "grouped"
    family = family_of_gguf(arch, engine)
    if family is None:
        known = ", ".join(dict.fromkeys(name for f in FAMILIES for name in f.gguf))
        raise _refuse(file, f"architecture {arch!r} is not supported; supported: {known}")
    return family


def _activation(file: GgufFile, arch: str, family: Family) -> str:
    """The gate function: what the file says, else what its architecture means."""
    said = file.get(f"{arch}.hidden_activation")
    if said is None:
        return family.gguf[arch]
    supported = [name for name, kind in _ACTIVATIONS.items() if kind in family.activations]
    if said not in supported:
        raise _refuse(file, f"{arch}.hidden_activation is {said!r}; supported: {', '.join(supported)}")
    return _ACTIVATIONS[said]


def _refuse_options(file: GgufFile, arch: str, head_dim: int, context: int, vocab: int) -> None:
    """Refuse values that the machine does not have; every field that can have one is asked for here or in the shape."""
    if file.get(f"{arch}.expert_count"):
        raise _refuse(file, "mixtures of experts are not supported")
    if not file.get(f"{arch}.attention.causal", True):
        raise _refuse(file, "attention that sees later tokens is not supported")
    for name in ("attention.value_length", "rope.dimension_count"):
        if file.single(f"{arch}.{name}", head_dim) != head_dim:
            raise _refuse(file, f"{arch}.{name} is {file.get(f'{arch}.{name}')}, only the head dimension {head_dim} is supported")
    window = file.get(f"{arch}.attention.sliding_window", 0)
    if window and (not isinstance(window, int) or window < context):
        raise _refuse(file, f"{arch}.attention.sliding_window is {window!r}, shorter than the context of {context}")
    if file.single(f"{arch}.vocab_size", vocab) != vocab:
        raise _refuse(file, f"{arch}.vocab_size is {file.get(f'{arch}.vocab_size')}, but the embedding has {vocab} rows")


def read_gguf_shape(file: GgufFile, arch: str, family: Family) -> ModelShape:
    """Shape from the fields of the file; an option that the machine does not have is refused. Only what llama.cpp has a default
    for may be absent.
    """
    heads = file.single(f"{arch}.attention.head_count")
    hidden, context = file.single(f"{arch}.embedding_length"), file.single(f"{arch}.context_length")
    if heads < 1:
        raise _refuse(file, f"{arch}.attention.head_count is {heads}")
    head_dim, layers = file.single(f"{arch}.attention.key_length", hidden // heads), file.single(f"{arch}.block_count")
    if head_dim > _LONGEST_HEAD or layers > len(file.names()):  # a damaged number, from which lists would be made
        raise _refuse(file, f"{layers} layers and heads of {head_dim} are more than its {len(file.names())} tensors can hold")
    vocab = file.shape("token_embd.weight")[0]
    _refuse_options(file, arch, head_dim, context, vocab)
    rotary = read_rotary(file, arch, head_dim, context)
    eps = file.number(f"{arch}.attention.layer_norm_rms_epsilon")
    if not 0 <= eps < 1:
        raise _refuse(file, f"{arch}.attention.layer_norm_rms_epsilon is {eps}, a number from 0 to 1 is wanted")
    values: dict[str, Any] = {
        "hidden": hidden,
        "layers": layers,
        "heads": heads,
        "kv_heads": file.single(f"{arch}.attention.head_count_kv", heads),
        "head_dim": head_dim,
        "ffn": file.single(f"{arch}.feed_forward_length"),
        "vocab": vocab,
        "activation": _activation(file, arch, family),
        "max_context": context if rotary.limit is None else min(context, rotary.limit),
        "rope_theta": rotary.theta,
        "rope_factors": rotary.factors,
        "rope_scale": rotary.scale,
        "rms_eps": eps,
        "tied": "output.weight" not in file,
    }
    try:
        return finish_shape(file, arch, ModelShape(**values))
    except ValueError as error:
        raise _refuse(file, str(error)) from error


def _refuse_tensors(file: GgufFile, family: Family, shape: ModelShape) -> None:
    """Refuse tensors that no layer of the family has, before any is read."""
    arch = file.require("general.architecture")
    ends = [f"{_place(arch, name)}.weight" for name in (*family.layer.matrices(shape), *family.layer.norms(shape))]
    ends += [f"{_PLACES[name]}.bias" for name in family.layer.bias_of]
    if family.engine == "ternary":
        ends += [f"{_PLACES[name]}.scale" for name in family.layer.matrices(shape)]
    known = {f"blk.{i}.{end}" for i in range(shape.layers) for end in ends}
    known |= {"token_embd.weight", "output_norm.weight", "output.weight", "rope_freqs.weight", SHORT_FACTORS, LONG_FACTORS}
    stray = [name for name in file.names() if name not in known]
    if stray:
        more = f", and {len(stray) - 1} more" if len(stray) > 1 else ""
        raise _refuse(file, f"tensor {stray[0]}{more} is no part of a {family.name} model of {shape.layers} layers")


#: Norm whose output a matrix multiplies, by its place.
_BEFORE = {
    "attn_q": "attn_norm", "attn_k": "attn_norm", "attn_v": "attn_norm", "attn_output": "attn_sub_norm", "ffn_gate": "ffn_norm",
    "ffn_up": "ffn_norm", "ffn_down": "ffn_sub_norm",
}

#: Layers whose matrices tell how digits of I2_S lie.
_LAYERS_TO_TELL = 4


def _find_i2_s(file: GgufFile, layers: int, progress: Callable[[str], None]) -> None:
    """Finds out how the digits of I2_S tensors lie, and says so."""

    def matrices() -> Iterator[tuple[npt.NDArray[np.uint8], int, int, Float]]:
        for i in range(min(layers, _LAYERS_TO_TELL)):
            for place, norm in _BEFORE.items():
                name, gain = f"blk.{i}.{place}.weight", f"blk.{i}.{norm}.weight"
                if name in file and gain in file and file.kind(name) == "I2_S" and len(file.shape(name)) == 2:
                    rows, inputs = file.shape(name)
                    yield file.stored(name), rows, inputs, file.floats(gain, (inputs,))

    found = gguf_i2s.find_layout(matrices())
    file.i2_s = found or file.i2_s
    why = "found by the zeros of its columns" if found else (
        "taken because published files have it: neither a field nor the weights say which it is; if the answers make no sense, "
        "take TQ1_0, TQ2_0 or the safetensors"
    )
    progress(f"I2_S in the layout {file.i2_s!r}, {why}")


def _read(file: GgufFile, family: Family, shape: ModelShape, tick: Callable[[str], None], keep: Keep) -> ModelWeights:
    layers, loader = [], family.loader()
    for i in range(shape.layers):
        tick(f"reading layer {i + 1} of {shape.layers}")
        matrices = {}
        for name in family.layer.matrices(shape):
            place = f"blk.{i}.{_place(file.require('general.architecture'), name)}"
            matrix = loader.gguf_matrix(file, name, place, shape)
            matrices[name] = keep(f"layer {i} {name}", file.kind(f"{place}.weight"), matrix)
        norms = family.layer.norms(shape).items()
        gains = {name: file.floats(f"blk.{i}.{_PLACES[name]}.weight", (size,)) for name, size in norms}
        rows = {bias: (name, family.layer.biases(shape)[bias]) for name, bias in family.layer.bias_of.items()}
        biases = {bias: file.floats(f"blk.{i}.{_PLACES[name]}.bias", (size,)) for bias, (name, size) in rows.items()}
        layers.append(LayerWeights(matrices=matrices, norms=gains, biases=biases))
    norm, table = file.floats("output_norm.weight", (shape.hidden,)), (shape.vocab, shape.hidden)
    head = None if shape.tied else file.floats("output.weight", table)
    layers, norm = finish_weights(file, file.require("general.architecture"), shape, layers, norm)
    return loader.assemble(shape, layers, norm, file.floats("token_embd.weight", table), head, layer=family.layer)


def _weights(
    file: GgufFile, family: Family, shape: ModelShape, progress: Callable[[str], None], keep: Keep
) -> ModelWeights:
    if any(file.kind(tensor) == "I2_S" for tensor in file.names()):
        _find_i2_s(file, shape.layers, progress)
    return _read(file, family, shape, Ticker(progress).tick, keep)


def open_gguf(path: Path, name: str | None = None) -> ModelFiles:
    """The model of a GGUF file with the tokenizer inside it."""
    file = GgufFile(path)
    family = _family(file)
    arch = file.require("general.architecture")
    shape = read_gguf_shape(file, arch, family)
    tokenizer, stop = tokenizer_from_gguf(file), stop_tokens(file)
    check_tokens(tokenizer, stop, shape.vocab, str(path))
    harmless = {key.replace("ARCH", arch): reason for key, reason in _HARMLESS.items()}
    file.fields.refuse_left(harmless, "choose a file without it: what it asks for is not implemented")
    _refuse_tensors(file, family, shape)
    matrices = [n for n in file.names() if n.startswith("blk.") and len(file.shape(n)) == 2]
    return ModelFiles(
        name=name or path.stem, path=path, family=family, shape=shape, tokenizer=tokenizer, stop_tokens=stop,
        format=f"GGUF, {describe_kinds(map(file.kind, matrices))}", bytes=file.size,
        decisions=decisions_of_gguf(file, arch, family, shape, tokenizer, stop),
        read=lambda progress, keep: _weights(file, family, shape, progress, keep),
    )
