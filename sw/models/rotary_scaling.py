"""Scaling of rotary positions as ``config.json`` and GGUF files describe it, as divisors of the frequencies."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...errors import HwgenError
from .fields import Fields

__all__ = ["FACTORS_FIX", "ROPE_FACTORS", "linear_factors", "llama3_factors", "read_rotary"]

FACTORS_FIX = "choose a checkpoint whose positions are unscaled, or scaled by 'linear' or 'llama3'"

#: ``rope_type`` of what ``hwgen quantize`` writes: divisors as they are, whatever they were made of.
ROPE_FACTORS = "hwgen_factors"

_KINDS = ("default", "linear", "llama3")


def linear_factors(factor: float, head_dim: int) -> tuple[float, ...]:
    """Every frequency divided by ``factor``; none for 1.0, which changes nothing."""
    return () if factor == 1.0 else (float(factor),) * (head_dim // 2)


def llama3_factors(
    *, factor: float, low: float, high: float, original: float, theta: float, head_dim: int
) -> tuple[float, ...]:
    """Divisors of Llama 3.1: 1 for waves shorter than ``original / high`` positions, ``factor`` for those longer than
    ``original / low``, between them the frequency that is interpolated linearly in ``original / wave``.
    """
    frequency = theta ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    wave = 2 * math.pi / frequency
    smooth = np.clip((original / wave - low) / (high - low), 0, 1)
    return tuple((1 / ((1 - smooth) / factor + smooth)).tolist())


def _number(options: Fields, name: str, default: float | None = None) -> float:
    value = options.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value <= 0:
        raise HwgenError("architecture", f"{options.where}: {name} must be a positive number, not {value!r}", FACTORS_FIX)
    return float(value)


def _said(config: Fields) -> dict[str, Any]:
    """Rotary options of both spellings as one mapping: ``rope_theta`` with ``rope_scaling``, and ``rope_parameters``."""
    said: dict[str, Any] = {}

    def say(place: str, name: str, value: Any) -> None:
        if said.setdefault(name, value) != value:
            raise HwgenError(
                "architecture", f"{config.where}: {name} is {said[name]!r}, but {value!r} in {place}", "correct config.json"
            )

    for place in ("rope_parameters", "rope_scaling"):
        options = config.get(place, {})
        if not isinstance(options, dict):
            raise HwgenError("architecture", f"{config.where}: {place} is {options!r}; an object is expected", FACTORS_FIX)
        for name, value in options.items():
            if value is not None:
                say(place, "rope_type" if name == "type" else name, value)
    for name in ("rope_theta", "partial_rotary_factor"):
        if name in config:
            say("config.json itself", name, config[name])
    if "original_max_position_embeddings" in config:  # transformers takes this one first
        said["original_max_position_embeddings"] = config["original_max_position_embeddings"]
    return said


def _llama3(options: Fields, theta: float, head_dim: int, max_context: int) -> tuple[float, ...]:
    low, high = (_number(options, f"{name}_freq_factor") for name in ("low", "high"))
    if low >= high:
        raise HwgenError(
            "architecture", f"{options.where}: low_freq_factor {low} is not below high_freq_factor {high}", FACTORS_FIX
        )
    return llama3_factors(
        factor=_number(options, "factor"), low=low, high=high, theta=theta, head_dim=head_dim,
        original=_number(options, "original_max_position_embeddings", max_context),
    )


def read_rotary(config: Fields, head_dim: int, max_context: int, default_theta: float) -> tuple[float, tuple[float, ...]]:
    """``(theta, factors)`` of a ``config.json``. Refused: a kind of scaling that is not implemented, an option that nobody
    knows, two spellings that differ.
    """
    said = _said(config)
    options = Fields(said, f"{config.where}: rotary options")
    theta = _number(options, "rope_theta", default_theta)
    kind = options.get("rope_type", "default")
    if kind == "default" and options.get("factor", 1.0) != 1.0:  # transformers takes it for unscaled, llama.cpp for linear
        raise HwgenError(
            "architecture", f"{options.where}: factor is {said['factor']!r} without a rope_type", 'add "rope_type": "linear"'
        )
    if options.get("partial_rotary_factor", 1.0) != 1.0:
        raise HwgenError(
            "architecture", f"{options.where}: partial_rotary_factor is {said['partial_rotary_factor']!r}; supported: 1.0",
            FACTORS_FIX,
        )
    factors: tuple[float, ...] = ()
    if kind == "linear":
        factors = linear_factors(_number(options, "factor"), head_dim)
    elif kind == "llama3":
        factors = _llama3(options, theta, head_dim, max_context)
    elif kind == ROPE_FACTORS:
        factors = tuple(map(float, options.get("factors", ())))
    elif kind != "default":
        raise HwgenError(
            "architecture", f"{options.where}: rope_type is {kind!r}; supported: {', '.join(map(repr, _KINDS))}", FACTORS_FIX
        )
    options.refuse_left({"original_max_position_embeddings": "only llama3 and yarn read it"}, FACTORS_FIX)
    return theta, factors
