"""Models from GGUF files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...errors import HwgenError
from ...shape import ModelShape
from ...weights import LayerWeights, ModelWeights
from ..progress import Ticker
from .families import FAMILIES, Family, family_of_gguf
from .gguf_classes import finish_shape, finish_weights, read_rotary
from .gguf_file import GgufFile
from .gguf_tokenizer import stop_tokens, tokenizer_from_gguf
from .model import Model, check_tokens

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

#: Types of matrices with one scale.
_TERNARY_TYPES = ("I2_S", "TQ1_0", "TQ2_0")

#: Names of gate functions in the format.
_ACTIVATIONS = {"relu2": "relu2", "relu_sqr": "relu2", "silu": "silu", "swish": "silu"}


def _refuse(file: GgufFile, what: str) -> HwgenError:
    return HwgenError("architecture", f"{file.path}: {what}", "choose a llama or BitNet model with supported options")


def _family(file: GgufFile) -> Family:
    if file.get("general.type", "model") != "model":
        raise _refuse(file, f"it holds no model, but {file.get('general.type')!r}")
    arch = file.require("general.architecture")
    first = "blk.0.ffn_up.weight"
    family = family_of_gguf(arch, first in file and file.kind(first) in _TERNARY_TYPES)
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
    head_dim = file.single(f"{arch}.attention.key_length", hidden // heads)
    vocab = file.shape("token_embd.weight")[0]
    _refuse_options(file, arch, head_dim, context, vocab)
    rotary = read_rotary(file, arch, head_dim, context)
    values: dict[str, Any] = {
        "hidden": hidden,
        "layers": file.single(f"{arch}.block_count"),
        "heads": heads,
        "kv_heads": file.single(f"{arch}.attention.head_count_kv", heads),
        "head_dim": head_dim,
        "ffn": file.single(f"{arch}.feed_forward_length"),
        "vocab": vocab,
        "activation": _activation(file, arch, family),
        "max_context": context,
        "rope_theta": rotary.theta,
        "rope_factors": rotary.factors,
        "rope_scale": rotary.scale,
        "rms_eps": file.number(f"{arch}.attention.layer_norm_rms_epsilon"),
        "tied": "output.weight" not in file,
    }
    try:
        return finish_shape(file, arch, ModelShape(**values))
    except ValueError as error:
        raise _refuse(file, str(error)) from error


def _refuse_tensors(file: GgufFile, family: Family, shape: ModelShape) -> None:
    """Refuse tensors that no layer of the family has, before any is read."""
    ends = [f"{_PLACES[name]}.weight" for name in (*family.layer.matrices(shape), *family.layer.norms(shape))]
    ends += [f"{_PLACES[name]}.bias" for name in family.layer.bias_of]
    if family.engine == "ternary":
        ends += [f"{_PLACES[name]}.scale" for name in family.layer.matrices(shape)]
    known = {f"blk.{i}.{end}" for i in range(shape.layers) for end in ends}
    known |= {"token_embd.weight", "output_norm.weight", "output.weight", "rope_freqs.weight"}
    stray = [name for name in file.names() if name not in known]
    if stray:
        more = f", and {len(stray) - 1} more" if len(stray) > 1 else ""
        raise _refuse(file, f"tensor {stray[0]}{more} is no part of a {family.name} model of {shape.layers} layers")


def _weights(file: GgufFile, family: Family, shape: ModelShape, tick: Callable[[str], None]) -> ModelWeights:
    layers, loader = [], family.loader()
    for i in range(shape.layers):
        tick(f"reading layer {i + 1} of {shape.layers}")
        names = family.layer.matrices(shape)
        matrices = {name: loader.gguf_matrix(file, name, f"blk.{i}.{_PLACES[name]}", shape) for name in names}
        norms = family.layer.norms(shape).items()
        gains = {name: file.floats(f"blk.{i}.{_PLACES[name]}.weight", (size,)) for name, size in norms}
        rows = {bias: (name, family.layer.biases(shape)[bias]) for name, bias in family.layer.bias_of.items()}
        biases = {bias: file.floats(f"blk.{i}.{_PLACES[name]}.bias", (size,)) for bias, (name, size) in rows.items()}
        layers.append(LayerWeights(matrices=matrices, norms=gains, biases=biases))
    norm, table = file.floats("output_norm.weight", (shape.hidden,)), (shape.vocab, shape.hidden)
    head = None if shape.tied else file.floats("output.weight", table)
    layers, norm = finish_weights(file, file.require("general.architecture"), shape, layers, norm)
    return loader.assemble(shape, layers, norm, file.floats("token_embd.weight", table), head, layer=family.layer)


def load_gguf(path: Path, progress: Callable[[str], None] = lambda text: None, name: str | None = None) -> Model:
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
    weights = _weights(file, family, shape, Ticker(progress).tick)
    return Model(name=name or path.stem, path=path, family=family, weights=weights, tokenizer=tokenizer, stop_tokens=stop)
