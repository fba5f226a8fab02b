"""BitNet b1.58 checkpoints: float masters or packed ternary weights in Hugging Face layout, read and written; GGUF matrices."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...decoder import BITNET, DecoderLayer
from ...errors import HwgenError
from ...formats import Float, flush, is_finite, round_bf16
from ...rounding import ceil_div
from ...shape import ACTIVATIONS, ModelShape
from ...ternary import TernaryMatrix, quantize_ternary
from ...weights import LayerWeights, ModelWeights
from .checkpoint import MISMATCH, read_checkpoint
from .config_json import MATRIX_PLACES, config_of, shape_from_config, unsupported
from .fields import Fields
from .four_bits import Keep, as_stored
from .gguf_file import GgufFile
from .tensors import TensorSet, write_tensors

__all__ = [
    "GAIN_PLACES", "Quantization", "assemble", "gguf_matrix", "load_weights", "pack_trits", "read_quantization",
    "read_shape", "save_model", "unpack_trits", "weights_from_state",
]

#: Trits in one byte of the packed Hugging Face format.
TRITS_PER_PACKED_BYTE = 4

#: Gain -> places in a layer, the names of bitnet_b1_58-large last.
GAIN_PLACES = {
    "input_layernorm": ("input_layernorm",),
    "attn_sub_norm": ("self_attn.attn_sub_norm", "self_attn.inner_attn_ln"),
    "post_attention_layernorm": ("post_attention_layernorm",),
    "ffn_sub_norm": ("mlp.ffn_sub_norm", "mlp.ffn_layernorm"),
    "q_norm": ("self_attn.q_norm",),
    "k_norm": ("self_attn.k_norm",),
}


Stored = dict[str, tuple[str, npt.NDArray[Any]]]


def read_shape(config: dict[str, Any]) -> ModelShape:
    """Shape from the fields of ``config.json``; an option that the machine does not have is refused."""
    fields = Fields(config, "config.json")
    fields.get("weight_bits"), fields.get("input_bits")
    read_quantization(fields)
    # a file without a field means the default of its own class: BitNetConfig, or that of bitnet_b1_58-large, a llama's
    if config.get("model_type") == "bitnet":
        return shape_from_config(
            fields, activations=ACTIVATIONS, default_activation="relu2", default_theta=500000.0, default_eps=1e-5,
            default_kv_heads=None if "num_key_value_heads" in config else 5,
        )
    return shape_from_config(
        fields, activations=ACTIVATIONS, default_activation="silu", default_theta=10000.0, default_eps=1e-6
    )


def assemble(
    shape: ModelShape, layers: list[LayerWeights], norm: Float, embedding: Float, head: Float | None, *,
    layer: DecoderLayer = BITNET,
) -> ModelWeights:
    """The model of parts as a file has them: floats flushed, the embedding rounded to bfloat16; one beyond its range is refused."""
    table = round_bf16(embedding)
    if not is_finite(table.reshape(-1)):
        raise HwgenError(
            "checkpoint", "the embedding has values beyond the range of bfloat16", "download or export the checkpoint again"
        )
    flushed = [
        LayerWeights(
            matrices=of.matrices, norms={name: flush(gain) for name, gain in of.norms.items()},
            biases={name: flush(bias) for name, bias in of.biases.items()},
        )
        for of in layers
    ]
    return ModelWeights(
        shape=shape, layer=layer, layers=tuple(flushed), norm=flush(norm), embedding=table,
        head=None if head is None else flush(head),
    )


def unpack_trits(packed: npt.NDArray[np.uint8], rows: int) -> npt.NDArray[np.int8]:
    """Packed Hugging Face matrix ``[ceil(rows / 4), inputs]`` -> trits ``[rows, inputs]``.

    Bits ``[2i, 2i + 2)`` of packed row ``r`` hold the trit, plus one, of row ``i * ceil(rows / 4) + r``.
    """
    digits = np.concatenate([(packed >> (2 * i)) & 3 for i in range(TRITS_PER_PACKED_BYTE)])[:rows]
    if digits.size and digits.max() > 2:
        raise HwgenError(
            "checkpoint",
            "a packed matrix holds the digit 3; ternary digits are 0, 1 and 2",
            "download the checkpoint again",
        )
    ternary: npt.NDArray[np.int8] = digits.astype(np.int8) - np.int8(1)
    return ternary


@dataclass(frozen=True)
class Quantization:
    """What ``quantization_config`` says. Without one the weights are float masters."""

    #: ``weight_scale`` divides (class ``bitlinear``) or multiplies (``autobitlinear``).
    divides: bool = False
    #: Weights are float masters that every layer makes ternary (``online``), not stored digits.
    online: bool = True
    #: There is a ``quantization_config``.
    said: bool = False


def read_quantization(config: Mapping[str, Any]) -> Quantization:
    """``quantization_config``; what transformers does not know is refused."""
    options = config.get("quantization_config")
    if options is None:
        return Quantization()
    name = "quantization_config"
    if not isinstance(options, dict):
        raise unsupported(name, options, "an object")
    fields = Fields(options, f"config.json: {name}")
    if fields.get("quant_method", "bitnet") != "bitnet":
        raise unsupported(f"{name}.quant_method", fields["quant_method"], "'bitnet'")
    linear, mode = fields.get("linear_class", "bitlinear"), fields.get("quantization_mode", "offline")
    if linear not in ("bitlinear", "autobitlinear"):
        raise unsupported(f"{name}.linear_class", linear, "'bitlinear' or 'autobitlinear'")
    if mode not in ("offline", "online") or (linear == "bitlinear" and mode == "online"):
        raise unsupported(f"{name}.quantization_mode", mode, "'offline', or 'online' of autobitlinear")
    if fields.get("use_rms_norm"):
        raise unsupported(f"{name}.use_rms_norm", True, "false")
    kept = fields.get("modules_to_not_convert", [])
    if not isinstance(kept, list) or any(m not in ("lm_head", "model.embed_tokens") for m in kept):
        raise unsupported(f"{name}.modules_to_not_convert", kept, "a list of 'lm_head' and 'model.embed_tokens'")
    fields.refuse_left({"rms_norm_eps": "of use_rms_norm"}, "choose a checkpoint that says what transformers knows")
    return Quantization(linear == "bitlinear", mode == "online", True)


def _read_matrix(tensors: TensorSet, quantization: Quantization, place: str, shape: tuple[int, int]) -> TernaryMatrix:
    """A ternary matrix: packed with its scale, ternary floats with a scale, or float masters."""
    name = tensors.find(f"{place}.weight")
    rows, inputs = shape
    packed = tensors.kind(name) == "U8"
    expected = (ceil_div(rows, TRITS_PER_PACKED_BYTE), inputs) if packed else shape
    if tensors.shape(name) != expected:
        raise HwgenError("checkpoint", f"tensor {name} has shape {tensors.shape(name)}, {expected} expected", MISMATCH)
    scaled = f"{place}.weight_scale" in tensors
    if not packed and not scaled:
        if not quantization.online:
            raise HwgenError(
                "architecture", f"tensor {name} has float masters, but config.json says quantization_mode 'offline'",
                'packed weights are wanted, or quantization_mode "online" with linear_class "autobitlinear"',
            )
        return quantize_ternary(tensors.floats(name, shape))
    if not quantization.said:
        raise HwgenError(
            "architecture", "config.json has no quantization_config, but the weights have scales or are packed",
            'add quantization_config with linear_class "bitlinear" or "autobitlinear"',
        )
    if quantization.online:
        raise HwgenError(
            "architecture", f"tensor {name} is stored as digits, but config.json says quantization_mode 'online'",
            "take config.json of the same checkpoint",
        )
    if packed:
        trits = unpack_trits(tensors.stored(name), rows)
    else:
        values = tensors.floats(name, shape)
        trits = np.clip(values, -1, 1).astype(np.int8)
        if not np.array_equal(trits, values):
            raise HwgenError(
                "checkpoint",
                f"tensor {name} has a weight_scale, but its values are not ternary",
                "use the float master checkpoint, or the packed one",
            )
    stored = tensors.floats(f"{place}.weight_scale").reshape(-1)
    smallest = np.finfo(np.float32).tiny  # 1 / x of a smaller one is infinite
    scale = 0.0
    if stored.size == 1 and stored[0] >= smallest:
        scale = float(flush(np.float32(1) / stored[0] if quantization.divides else stored[0]))
    if not scale:  # for the machine
        raise HwgenError(
            "checkpoint", f"tensor {place}.weight_scale must be one positive number, and none that is 0 in the machine's float32",
            "download the checkpoint again",
        )
    return TernaryMatrix(trits, scale)


def load_weights(
    directory: Path, config: dict[str, Any], shape: ModelShape, layer: DecoderLayer = BITNET,
    progress: Callable[[str], None] = lambda text: None, keep: Keep = as_stored,
) -> ModelWeights:
    """Weights of a checkpoint directory: float masters quantised by absmean, or packed ternary matrices."""
    quantization = read_quantization(config)
    parts = read_checkpoint(
        TensorSet(directory), layer, shape, GAIN_PLACES,
        lambda tensors, place, size: _read_matrix(tensors, quantization, place, size), progress, keep,
    )
    return assemble(*parts, layer=layer)


def gguf_matrix(file: GgufFile, name: str, place: str, shape: ModelShape) -> TernaryMatrix:
    """A matrix of -s, 0 and s, whatever type it is stored in, times the tensor ``.scale`` beside it if there is one."""
    values = file.floats(f"{place}.weight", BITNET.matrices(shape)[name])
    scale = np.abs(values).max()
    trits = np.sign(values).astype(np.int8)
    if not np.array_equal(trits * scale, values):
        raise HwgenError(
            "checkpoint", f"{file.path}: tensor {place}.weight has more than one scale, so it is not ternary",
            "take a file with TQ1_0 or TQ2_0 matrices made from the ternary checkpoint",
        )
    if f"{place}.scale" in file:
        scale = scale * file.floats(f"{place}.scale", (1,))[0]
    return TernaryMatrix(trits, float(flush(scale)))


def pack_trits(trits: npt.NDArray[np.int8]) -> npt.NDArray[np.uint8]:
    """Trits ``[rows, inputs]`` -> packed Hugging Face matrix ``[ceil(rows / 4), inputs]`` (see :func:`unpack_trits`)."""
    rows, inputs = trits.shape
    stored = ceil_div(rows, TRITS_PER_PACKED_BYTE)
    digits = np.zeros((TRITS_PER_PACKED_BYTE * stored, inputs), np.uint8)
    digits[:rows] = (trits + 1).astype(np.uint8)
    packed = np.zeros((stored, inputs), np.uint8)
    for i in range(TRITS_PER_PACKED_BYTE):
        packed |= digits[i * stored : (i + 1) * stored] << np.uint8(2 * i)
    return packed


def save_model(
    weights: ModelWeights, out: Path, tokenizer: Path | None = None, *, end_token: int | None = None
) -> None:
    """Write ``weights`` to directory ``out``; loading it again gives the same bits. ``tokenizer`` is a file to copy."""
    out.mkdir(parents=True, exist_ok=True)
    # transformers casts nothing of a packed checkpoint, so that all of its floats must have one type
    tensors: Stored = {
        "model.embed_tokens.weight": ("F32", weights.embedding),
        "model.norm.weight": ("F32", weights.norm),
    }
    for i, layer in enumerate(weights.layers):
        prefix = f"model.layers.{i}"
        for name, matrix in layer.matrices.items():
            if not isinstance(matrix, TernaryMatrix):
                raise ValueError(f"layer {i} {name} must be a TernaryMatrix, not {type(matrix).__name__}")
            place = MATRIX_PLACES[name]
            tensors[f"{prefix}.{place}.weight"] = ("U8", pack_trits(matrix.trits))
            tensors[f"{prefix}.{place}.weight_scale"] = ("F32", np.array([matrix.scale], np.float32))
        for name, gain in layer.norms.items():
            tensors[f"{prefix}.{GAIN_PLACES[name][0]}.weight"] = ("F32", gain)
    if weights.head is not None:
        tensors["lm_head.weight"] = ("F32", weights.head)
    write_tensors(out / "model.safetensors", tensors)
    config = {
        "architectures": ["BitNetForCausalLM"],
        "model_type": "bitnet",
        **config_of(weights.shape),
        "bos_token_id": end_token,
        "eos_token_id": end_token,
        "torch_dtype": "float32",
        # weight_scale multiplies; the class "bitlinear" would divide by it
        "quantization_config": {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "offline"},
    }
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    generation = {"bos_token_id": end_token, "eos_token_id": end_token, "do_sample": False}
    (out / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    if tokenizer is not None and tokenizer.resolve() != (out / "tokenizer.json").resolve():
        shutil.copyfile(tokenizer, out / "tokenizer.json")


def weights_from_state(shape: ModelShape, state: dict[str, npt.NDArray[np.float32]]) -> ModelWeights:
    """Quantise the float masters of a state dict (names of ``golden.float_bitnet.BitNet``)."""
    layers = []
    for i in range(shape.layers):
        prefix = f"model.layers.{i}"
        matrices = {
            name: quantize_ternary(state[f"{prefix}.{MATRIX_PLACES[name]}.weight"]) for name in BITNET.matrices(shape)
        }
        gains = {name: state[f"{prefix}.{GAIN_PLACES[name][0]}.weight"] for name in BITNET.norms(shape)}
        layers.append(LayerWeights(matrices=matrices, norms=gains))
    head = None if shape.tied else state["lm_head.weight"]
    return assemble(shape, layers, state["model.norm.weight"], state["model.embed_tokens.weight"], head)
