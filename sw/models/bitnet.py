"""Models from disk: BitNet b1.58 checkpoints in Hugging Face layout, shipped ones by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import HwgenError
from ...rounding import ceil_div
from ...shape import ACTIVATIONS, ModelShape
from ...weights import (
    LayerWeights,
    ModelWeights,
    TernaryMatrix,
    flush,
    gain_sizes,
    matrix_shapes,
    quantize_ternary,
    round_bf16,
)
from ..progress import Ticker
from .tensors import TensorSet
from .tokenizer import Tokenizer

__all__ = ["LoadedModel", "find_model", "load_model", "load_weights", "read_shape", "shipped_models", "unpack_trits"]

_MODELS = Path(__file__).parent

#: Trits in one byte of the packed Hugging Face format.
TRITS_PER_PACKED_BYTE = 4

#: Matrix -> place in a layer of the checkpoint.
MATRIX_PLACES = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}

#: Gain -> places in a layer, the names of bitnet_b1_58-large last.
GAIN_PLACES = {
    "input_layernorm": ("input_layernorm",),
    "attn_sub_norm": ("self_attn.attn_sub_norm", "self_attn.inner_attn_ln"),
    "post_attention_layernorm": ("post_attention_layernorm",),
    "ffn_sub_norm": ("mlp.ffn_sub_norm", "mlp.ffn_layernorm"),
}


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model ready to compile."""

    #: Name printed in reports.
    name: str
    #: Directory it came from.
    path: Path
    weights: ModelWeights
    tokenizer: Tokenizer
    #: Token ids that end a generation.
    stop_tokens: tuple[int, ...] = field(default=())


def shipped_models() -> list[str]:
    """Names of the models inside the package."""
    if not _MODELS.is_dir():
        return []
    return sorted(p.name for p in _MODELS.iterdir() if (p / "config.json").exists())


def find_model(name: str | Path) -> Path:
    """Directory of a model given by shipped name or path."""
    path = Path(name)
    shipped = _MODELS / str(name)
    if not path.exists() and path.name == str(name) and shipped.is_dir():
        return shipped
    if not path.exists():
        raise HwgenError(
            "checkpoint",
            f"model {str(name)!r} is neither a directory nor a shipped model",
            f"shipped models: {', '.join(shipped_models()) or 'none'}; or give a directory in Hugging Face layout",
        )
    if not path.is_dir():
        raise HwgenError(
            "checkpoint",
            f"{path} is a file; a model is a directory in Hugging Face layout",
            "give the directory that holds config.json",
        )
    return path


def read_config(directory: Path, name: str = "config.json") -> dict[str, Any]:
    path = directory / name
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise HwgenError(
            "checkpoint", f"{path} is missing", "give a directory with config.json, *.safetensors and tokenizer.json"
        ) from error
    except ValueError as error:
        raise HwgenError("checkpoint", f"{path} is not valid JSON: {error}", "download the file again") from error
    if not isinstance(values, dict):
        raise HwgenError("checkpoint", f"{path} is not a JSON object", "download the file again")
    return values


def _unsupported(name: str, value: object, supported: str) -> HwgenError:
    return HwgenError(
        "architecture",
        f"config.json: {name} is {value!r}; supported: {supported}",
        "choose a checkpoint with a supported value",
    )


def read_shape(config: dict[str, Any]) -> ModelShape:
    """Shape from the fields of ``config.json``; a model that is not a supported BitNet b1.58 decoder is refused."""
    kind = config.get("model_type")
    architectures = [str(a).lower() for a in config.get("architectures") or []]
    # bitnet_b1_58-large calls itself a llama and tells the truth in its architecture
    if kind not in ("bitnet", "bitnet_b1_58") and not any(a.startswith("bitnet") for a in architectures):
        raise _unsupported("model_type", kind, "'bitnet' (or an architecture BitNetForCausalLM)")
    # a file without a base means the default of its own family
    default_theta = 500000.0 if kind == "bitnet" else 10000.0
    return shape_from_config(config, activations=ACTIVATIONS, default_activation="relu2", default_theta=default_theta)


def shape_from_config(
    config: dict[str, Any], *, activations: tuple[str, ...], default_activation: str, default_theta: float
) -> ModelShape:
    """Shape from the fields that both families share; an option that the machine does not have is refused."""
    missing = [
        n
        for n in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
        if n not in config
    ]
    if missing:
        raise HwgenError(
            "architecture", f"config.json has no {missing[0]}", "complete config.json from the model's own page"
        )
    activation = config.get("hidden_act", default_activation)
    if activation not in activations:
        raise _unsupported("hidden_act", activation, " or ".join(repr(a) for a in activations))
    for name in ("attention_bias", "mlp_bias"):
        if config.get(name):
            raise _unsupported(name, config[name], "false")
    rope = config.get("rope_parameters") or {}
    scaling = config.get("rope_scaling") or {}
    rope_type = scaling.get("rope_type", scaling.get("type", rope.get("rope_type", "default")))
    if rope_type != "default":
        raise _unsupported("rope_scaling.rope_type", rope_type, "'default'")
    heads = config["num_attention_heads"]
    values: dict[str, Any] = {
        "hidden": config["hidden_size"],
        "layers": config["num_hidden_layers"],
        "heads": heads,
        "kv_heads": config.get("num_key_value_heads") or heads,
        "head_dim": config.get("head_dim")
        or (config["hidden_size"] // heads if isinstance(heads, int) and heads > 0 else 0),
        "ffn": config["intermediate_size"],
        "vocab": config["vocab_size"],
        "activation": activation,
        "max_context": config.get("max_position_embeddings", 2048),
        "rope_theta": float(config.get("rope_theta") or rope.get("rope_theta") or default_theta),
        "rms_eps": float(config.get("rms_norm_eps", 1e-5)),
        "tied": bool(config.get("tie_word_embeddings", False)),
    }
    try:
        return ModelShape(**values)
    except ValueError as error:
        raise HwgenError(
            "architecture", f"config.json: {error}", "choose a supported checkpoint"
        ) from error


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


def _scale_divides(config: dict[str, Any]) -> bool:
    """Whether ``weight_scale`` divides (class ``bitlinear``) or multiplies (``autobitlinear``)."""
    quantization = config.get("quantization_config")
    if not isinstance(quantization, dict):
        raise HwgenError(
            "architecture",
            "config.json has no quantization_config, but the weights are packed",
            'add quantization_config with linear_class "bitlinear" or "autobitlinear"',
        )
    linear = quantization.get("linear_class", "bitlinear")
    if linear not in ("bitlinear", "autobitlinear"):
        raise _unsupported("quantization_config.linear_class", linear, "'bitlinear' or 'autobitlinear'")
    if quantization.get("use_rms_norm"):
        raise _unsupported("quantization_config.use_rms_norm", True, "false")
    return bool(linear == "bitlinear")


def _read_matrix(tensors: TensorSet, config: dict[str, Any], place: str, shape: tuple[int, int]) -> TernaryMatrix:
    """A ternary matrix: packed with its scale, ternary floats with a scale, or float masters."""
    name = tensors.find(f"{place}.weight")
    rows, inputs = shape
    packed = tensors.kind(name) == "U8"
    expected = (ceil_div(rows, TRITS_PER_PACKED_BYTE), inputs) if packed else shape
    if tensors.shape(name) != expected:
        raise HwgenError(
            "checkpoint",
            f"tensor {name} has shape {tensors.shape(name)}, {expected} expected",
            "config.json and the weights belong to different models",
        )
    if not packed and f"{place}.weight_scale" not in tensors:
        master = tensors.floats(name)
        if not np.isfinite(master).all():
            raise HwgenError(
                "checkpoint", f"tensor {name} holds values that are not finite", "download the checkpoint again"
            )
        return quantize_ternary(master)
    if packed:
        trits = unpack_trits(tensors.stored(name), rows)
    else:
        values = tensors.floats(name)
        trits = np.clip(values, -1, 1).astype(np.int8)
        if not np.array_equal(trits, values):
            raise HwgenError(
                "checkpoint",
                f"tensor {name} has a weight_scale, but its values are not ternary",
                "use the float master checkpoint, or the packed one",
            )
    stored = tensors.floats(tensors.find(f"{place}.weight_scale")).reshape(-1)
    if stored.size != 1 or not np.isfinite(stored[0]) or stored[0] <= 0:
        raise HwgenError(
            "checkpoint", f"tensor {place}.weight_scale must be one positive number", "download the checkpoint again"
        )
    scale = np.float32(1) / stored[0] if _scale_divides(config) else stored[0]
    return TernaryMatrix(trits, float(flush(scale)))


def _read_floats(tensors: TensorSet, names: tuple[str, ...], shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    name = tensors.find(*names)
    values = flush(tensors.floats(name))
    if values.shape != shape:
        raise HwgenError(
            "checkpoint",
            f"tensor {name} has shape {values.shape}, {shape} expected",
            "config.json and the weights belong to different models",
        )
    if not np.isfinite(values).all():
        raise HwgenError(
            "checkpoint", f"tensor {name} holds values that are not finite", "download the checkpoint again"
        )
    return values


def load_weights(directory: Path, progress: Callable[[str], None] = lambda text: None) -> ModelWeights:
    """Weights of a checkpoint directory: float masters quantised by absmean, or packed ternary matrices."""
    config = read_config(directory)
    shape = read_shape(config)
    tensors = TensorSet(directory)
    layers = []
    ticker = Ticker(progress)
    for i in range(shape.layers):
        ticker.tick(f"reading layer {i + 1} of {shape.layers}")
        prefix = f"model.layers.{i}"
        matrices = {
            name: _read_matrix(tensors, config, f"{prefix}.{MATRIX_PLACES[name]}", size)
            for name, size in matrix_shapes(shape).items()
        }
        gains = {
            name: _read_floats(tensors, tuple(f"{prefix}.{place}.weight" for place in GAIN_PLACES[name]), (size,))
            for name, size in gain_sizes(shape).items()
        }
        layers.append(LayerWeights(**matrices, **gains))  # type: ignore[arg-type]  # split by name, not by type
    table = (shape.vocab, shape.hidden)
    head = None if shape.tied else _read_floats(tensors, ("lm_head.weight",), table)
    return ModelWeights(
        shape=shape,
        layers=tuple(layers),
        norm=_read_floats(tensors, ("model.norm.weight",), (shape.hidden,)),
        embedding=round_bf16(_read_floats(tensors, ("model.embed_tokens.weight",), table)),
        head=head,
    )


def token_ids(value: object) -> tuple[int, ...]:
    """``eos_token_id`` of a configuration: absent, one number or a list."""
    if isinstance(value, int):
        return (value,)
    return tuple(v for v in value if isinstance(v, int)) if isinstance(value, list) else ()


def load_model(name: str | Path, progress: Callable[[str], None] = lambda text: None) -> LoadedModel:
    """A ternary model: a shipped one by name, a checkpoint directory or a GGUF file, with its tokenizer."""
    if Path(name).is_file() or not (Path(name).exists() or (_MODELS / str(name)).is_dir()):
        from .open import open_ternary

        return open_ternary(name, progress)
    path = find_model(name)
    config = read_config(path)
    read_shape(config)  # an unsupported model is refused before anything large is read
    generation = read_config(path, "generation_config.json") if (path / "generation_config.json").exists() else {}
    begin = token_ids(generation.get("bos_token_id", config.get("bos_token_id")))
    tokenizer = Tokenizer.load(path, begin=begin[0] if begin else None)
    weights = load_weights(path, progress)
    stop = token_ids(generation.get("eos_token_id", config.get("eos_token_id")))
    return LoadedModel(name=path.name, path=path, weights=weights, tokenizer=tokenizer, stop_tokens=stop)
