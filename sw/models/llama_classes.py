"""Classes of ``transformers`` whose layers are a llama's: what a field means that is absent, and fields of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ...errors import HwgenError
from ...shape import ModelShape
from .config_json import shape_from_config, unsupported
from .fields import Fields
from .multipliers import read_multipliers

__all__ = ["CLASSES", "read_class_shape"]


def _same(fields: Fields, shape: ModelShape) -> ModelShape:
    return shape


def _unrotated(fields: Fields, shape: ModelShape) -> ModelShape:
    """SmolLM3: every fourth layer is not rotated, or those with 0 in ``no_rope_layers``."""
    interval, rotated = fields.get("no_rope_layer_interval", 4), fields.get("no_rope_layers")
    if type(interval) is not int or interval < 1:
        raise unsupported("no_rope_layer_interval", interval, "a positive integer")
    if rotated is None:
        rotated = [int((i + 1) % interval != 0) for i in range(shape.layers)]
    if not isinstance(rotated, list) or len(rotated) < shape.layers or any(type(r) not in (int, bool) for r in rotated):
        raise unsupported("no_rope_layers", rotated, f"a list of {shape.layers} of 0 and 1")
    return replace(shape, unrotated=tuple(i for i in range(shape.layers) if not rotated[i]))


def _multiplied(fields: Fields, shape: ModelShape) -> ModelShape:
    """Granite: what the multipliers change of the constants of a llama; `multipliers` changes its weights."""
    return replace(shape, rms_eps=shape.rms_eps / read_multipliers(fields).embedding ** 2)


@dataclass(frozen=True)
class LlamaClass:
    """What is not as in LlamaConfig."""

    default_theta: float = 10000.0
    default_eps: float = 1e-6
    default_tied: bool = False
    #: Sliding windows count only where ``use_sliding_window`` says so.
    window_asked: bool = False
    #: Fields for which the class has defaults of its own, that fit one model.
    wanted: tuple[str, ...] = ()
    #: Fields that others may not have.
    own: frozenset[str] = frozenset()
    #: What those make of the shape.
    finish: Callable[[Fields, ModelShape], ModelShape] = _same


_SIZES = ("num_key_value_heads", "max_position_embeddings")

#: By ``model_type``.
CLASSES: Mapping[str, LlamaClass] = {
    "llama": LlamaClass(),
    "mistral": LlamaClass(wanted=("sliding_window", *_SIZES)),
    "smollm3": LlamaClass(
        default_theta=2000000.0, default_tied=True, window_asked=True, wanted=_SIZES, own=frozenset({"no_rope_layers"}),
        finish=_unrotated,
    ),
    "phi3": LlamaClass(default_eps=1e-5, wanted=("max_position_embeddings", "original_max_position_embeddings")),
    "granite": LlamaClass(
        own=frozenset({"embedding_multiplier", "attention_multiplier", "residual_multiplier", "logits_scaling"}),
        finish=_multiplied,
    ),
    "qwen2": LlamaClass(window_asked=True, wanted=_SIZES),
    "qwen3": LlamaClass(window_asked=True, wanted=("head_dim", *_SIZES)),
}


def read_class_shape(config: Mapping[str, Any], fields: Fields) -> ModelShape:
    """Shape of a model of these classes, from ``config.json`` and its ``fields``; an option that the machine does not have is
    refused.
    """
    model_type = config.get("model_type")
    of = CLASSES.get(model_type, CLASSES["llama"]) if isinstance(model_type, str) else CLASSES["llama"]
    for name in of.wanted:
        if name not in config:
            raise HwgenError("architecture", f"config.json has no {name}", "complete config.json from the model's own page")
    return of.finish(fields, shape_from_config(
        fields, activations=("silu",), default_activation="silu", default_theta=of.default_theta, default_eps=of.default_eps,
        default_tied=of.default_tied, own=of.own, window_asked=of.window_asked,
    ))
