"""GGUF architectures whose layers are a llama's: what their files say beside it, or leave to the reader."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ...errors import HwgenError
from ...formats import Float
from ...shape import ModelShape
from ...weights import LayerWeights
from .gguf_file import GgufFile
from .multipliers import Multipliers, fold_multipliers
from .rotary_scaling import Rotary, linear_factors, yarn_attention, yarn_factors

__all__ = ["LONG_FACTORS", "SHORT_FACTORS", "finish_shape", "finish_weights", "fused_in", "read_rotary"]

#: Tensors of Phi-3 in which several matrices lie one above the other: of each matrix its tensor, and what that holds.
_FUSED = {
    **dict.fromkeys(("q", "k", "v"), ("attn_qkv", ("q", "k", "v"))), **dict.fromkeys(("gate", "up"), ("ffn_up", ("gate", "up"))),
}

#: Rotary divisors of Phi-3 for contexts up to the original one, and for longer ones.
SHORT_FACTORS, LONG_FACTORS = "rope_factors_short.weight", "rope_factors_long.weight"

#: llama.cpp has it in its code: every so many layers one is not rotated.
_SMOLLM3_INTERVAL = 4


def _refuse(file: GgufFile, what: str) -> HwgenError:
    return HwgenError("architecture", f"{file.path}: {what}", "choose a model with supported options")


def _number(file: GgufFile, name: str, default: float) -> float:
    """A positive number, ``default`` where the field is absent; a float32 is the decimal that it was."""
    value = default if file.get(name) is None else file.number(name)
    if value <= 0:
        raise _refuse(file, f"{name} is {value}, a positive number is wanted")
    return value


def fused_in(arch: str, name: str) -> tuple[str, tuple[str, ...]] | None:
    """The tensor of a layer in which matrix ``name`` lies with others, and those, from above; None where it has its own."""
    return _FUSED.get(name) if arch == "phi3" else None


def _multipliers(file: GgufFile) -> Multipliers:
    names = ("embedding_scale", "residual_scale", "attention.scale", "logit_scale")
    return Multipliers(*(_number(file, f"granite.{name}", 1.0) for name in names))


def finish_shape(file: GgufFile, arch: str, shape: ModelShape) -> ModelShape:
    """The shape with what is not a field of every architecture."""
    if arch == "smollm3":
        return replace(shape, unrotated=tuple(range(_SMOLLM3_INTERVAL - 1, shape.layers, _SMOLLM3_INTERVAL)))
    if arch == "granite":
        return replace(shape, rms_eps=shape.rms_eps / _multipliers(file).embedding ** 2)
    return shape


def finish_weights(
    file: GgufFile, arch: str, shape: ModelShape, layers: list[LayerWeights], norm: Float
) -> tuple[list[LayerWeights], Float]:
    """Layers and final gain with what is folded into them."""
    return fold_multipliers(_multipliers(file), shape, layers, norm) if arch == "granite" else (layers, norm)


def _yarn(file: GgufFile, place: str, factor: float, theta: float, head_dim: int, context: int) -> Rotary:
    if theta <= 1:
        raise _refuse(file, f"the base of rotary frequencies is {theta}, yarn wants one above 1")
    factors = yarn_factors(
        factor=factor, fast=_number(file, f"{place}.yarn_beta_fast", 32.0), slow=_number(file, f"{place}.yarn_beta_slow", 1.0),
        original=_number(file, f"{place}.original_context_length", float(context)), theta=theta, head_dim=head_dim,
    )
    attention = _number(file, f"{place}.attn_factor", _number(file, f"{place}.yarn_attn_factor", 1.0))
    return Rotary(theta, factors, attention * yarn_attention(factor))


def _longrope(file: GgufFile, place: str, theta: float, head_dim: int) -> Rotary:
    """The short factors, for a context of the original length; what is rotated grows by ``attn_factor``, whatever the context."""
    if file.get(f"{place}.type", "longrope") != "longrope":
        raise _refuse(file, f"{place}.type is {file.get(f'{place}.type')!r}, but there is a tensor {SHORT_FACTORS}")
    factors = file.floats(SHORT_FACTORS, (head_dim // 2,))
    if (factors <= 0).any():
        raise _refuse(file, f"{SHORT_FACTORS} has factors that are not above 0")
    limit = file.single(f"{place}.original_context_length")
    return Rotary(theta, tuple(factors.astype(np.float64).tolist()), _number(file, f"{place}.attn_factor", 1.0), limit)


def read_rotary(file: GgufFile, arch: str, head_dim: int, context: int) -> Rotary:
    """How positions are rotated: scaled in a line or by YaRN, times ``rope_freqs.weight``. A factor says which it is of: llama.cpp
    takes one without a type for linear, but converters have left the types of others out.
    """
    place, base = f"{arch}.rope.scaling", f"{arch}.rope.freq_base"
    theta = _number(file, base, 10000.0)
    if SHORT_FACTORS in file:
        return _longrope(file, place, theta, head_dim)
    said = {name: file.get(name) for name in (f"{place}.factor", f"{arch}.rope.scale_linear")}
    name = next((name for name, value in said.items() if value is not None), base)
    factor = 1.0 if said.get(name) in (None, 0.0) else _number(file, name, 1.0)  # 0 means none in llama.cpp
    kind = file.get(f"{place}.type", "linear")
    if f"{place}.type" not in file.fields and f"{place}.factor" in file.fields and factor != 1.0:
        raise HwgenError(
            "architecture", f"{file.path}: {place}.factor is {factor:g}, but there is no {place}.type",
            "convert the model again with a converter that writes the type",
        )
    if kind not in ("none", "linear", "yarn"):
        raise _refuse(file, f"{place}.type is {kind!r}; supported: 'none', 'linear', 'yarn'")
    if kind != "yarn" and file.get(f"{place}.attn_factor", 1.0) != 1.0:
        raise _refuse(file, f"{place}.attn_factor is {file.get(f'{place}.attn_factor')}; supported: 1.0")
    if kind == "yarn":
        rotary = _yarn(file, place, factor, theta, head_dim, context)
    else:
        rotary = Rotary(theta, linear_factors(factor if kind == "linear" else 1.0, head_dim))
    if "rope_freqs.weight" not in file:
        return rotary
    own = file.floats("rope_freqs.weight", (head_dim // 2,))
    if (own <= 0).any():
        raise _refuse(file, "rope_freqs.weight has factors that are not above 0")
    if not rotary.factors and (own == 1).all():
        return rotary
    return replace(rotary, factors=tuple((own * np.asarray(rotary.factors or 1.0, np.float64)).tolist()))
