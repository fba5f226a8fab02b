"""Scaling of rotary positions as ``config.json`` and GGUF files describe it, as divisors of the frequencies."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import HwgenError
from ...rotary import logarithm, plain_frequencies
from .fields import Fields

__all__ = [
    "FACTORS_FIX", "ROPE_FACTORS", "Rotary", "linear_factors", "llama3_factors", "read_rotary", "yarn_attention", "yarn_factors",
]

FACTORS_FIX = "choose a checkpoint whose positions are unscaled, or scaled by 'linear', 'llama3' or 'yarn'"

#: ``rope_type`` of what ``hwgen quantize`` writes: divisors as they are, whatever they were made of.
ROPE_FACTORS = "hwgen_factors"

_KINDS = ("default", "linear", "llama3", "yarn", "longrope")


@dataclass(frozen=True)
class Rotary:
    """How positions are rotated."""

    theta: float
    #: Divisors of the frequencies, or none.
    factors: tuple[float, ...] = ()
    #: Factor of what is rotated.
    scale: float = 1.0
    #: Tokens from which on the factors would be others, None where they never are.
    limit: int | None = None


def linear_factors(factor: float, head_dim: int) -> tuple[float, ...]:
    """Every frequency divided by ``factor``; none for 1.0, which changes nothing."""
    return () if factor == 1.0 else (float(factor),) * (head_dim // 2)


def llama3_factors(
    *, factor: float, low: float, high: float, original: float, theta: float, head_dim: int
) -> tuple[float, ...]:
    """Divisors of Llama 3.1: 1 for waves shorter than ``original / high`` positions, ``factor`` for those longer than
    ``original / low``, between them the frequency that is interpolated linearly in ``original / wave``.
    """
    wave = 2 * math.pi / plain_frequencies(theta, head_dim)
    smooth = np.clip((original / wave - low) / (high - low), 0, 1)
    return tuple((1 / ((1 - smooth) / factor + smooth)).tolist())


def yarn_factors(
    *, factor: float, fast: float, slow: float, original: float, theta: float, head_dim: int, truncate: bool = True
) -> tuple[float, ...]:
    """Divisors of YaRN (arXiv 2309.00071): 1 for pairs that turn more than ``fast`` times in ``original`` positions, ``factor``
    for those that turn less than ``slow`` times, between them the frequency interpolated linearly in the number of the pair.
    """
    def pair(turns: float) -> float:
        return head_dim * logarithm(original / (turns * 2 * math.pi)) / (2 * logarithm(theta))

    low, high = pair(fast), pair(slow)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    ramp = np.clip((np.arange(head_dim // 2) - low) / (high - low or 0.001), 0, 1)
    return tuple((1 / (ramp / factor + 1 - ramp)).tolist())


def yarn_attention(factor: float, mscale: float = 1.0) -> float:
    """Factor of queries and of keys that YaRN's authors found best."""
    return 0.1 * mscale * logarithm(factor) + 1.0 if factor > 1 else 1.0


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


def _yarn(options: Fields, theta: float, head_dim: int, max_context: int) -> Rotary:
    factor = _number(options, "factor")
    truncate = options.get("truncate", True)
    if not isinstance(truncate, bool):
        raise HwgenError("architecture", f"{options.where}: truncate is {truncate!r}; true or false is expected", FACTORS_FIX)
    if theta <= 1:
        raise HwgenError("architecture", f"{options.where}: rope_theta {theta} must be above 1 for yarn", FACTORS_FIX)
    factors = yarn_factors(
        factor=factor, fast=_number(options, "beta_fast", 32.0), slow=_number(options, "beta_slow", 1.0), theta=theta,
        original=_number(options, "original_max_position_embeddings", max_context), head_dim=head_dim, truncate=truncate,
    )
    scales = [options.get(name) for name in ("mscale", "mscale_all_dim")]
    if all(scales):
        above, below = (yarn_attention(factor, _number(options, name)) for name in ("mscale", "mscale_all_dim"))
        default = above / below
    else:
        default = yarn_attention(factor)
    return Rotary(theta, factors, _number(options, "attention_factor", default))


def _factors(options: Fields, name: str, head_dim: int) -> tuple[float, ...]:
    """A list of a divisor for every pair."""
    factors = options.get(name)
    if not isinstance(factors, list) or len(factors) != head_dim // 2 or not all(
        isinstance(f, (int, float)) and not isinstance(f, bool) and 0 < f < math.inf for f in factors
    ):
        raise HwgenError("architecture", f"{options.where}: {name} must be {head_dim // 2} positive numbers", FACTORS_FIX)
    return tuple(map(float, factors))


def _longrope(options: Fields, theta: float, head_dim: int, max_context: int) -> Rotary:
    """The short factors, which hold for ``original_max_position_embeddings`` tokens; the long ones are of longer texts."""
    original = _number(options, "original_max_position_embeddings", max_context)
    factors = _factors(options, "short_factor", head_dim)
    options.get("long_factor")
    factor = _number(options, "factor", max_context / original)
    if original <= 1:
        raise HwgenError("architecture", f"{options.where}: original_max_position_embeddings is {original}", FACTORS_FIX)
    default = math.sqrt(1 + logarithm(factor) / logarithm(original)) if factor > 1 else 1.0
    return Rotary(theta, factors, _number(options, "attention_factor", default), int(original))


def read_rotary(config: Fields, head_dim: int, max_context: int, default_theta: float) -> Rotary:
    """What a ``config.json`` says. Refused: a kind of scaling that is not implemented, an option that nobody knows, two
    spellings that differ.
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
    rotary = Rotary(theta)
    if kind == "linear":
        rotary = Rotary(theta, linear_factors(_number(options, "factor"), head_dim))
    elif kind == "llama3":
        rotary = Rotary(theta, _llama3(options, theta, head_dim, max_context))
    elif kind == "yarn":
        rotary = _yarn(options, theta, head_dim, max_context)
    elif kind == "longrope":
        rotary = _longrope(options, theta, head_dim, max_context)
    elif kind == ROPE_FACTORS:
        factors = _factors(options, "factors", head_dim) if options.get("factors", []) != [] else ()
        rotary = Rotary(theta, factors, _number(options, "scale", 1.0))
    elif kind != "default":
        raise HwgenError(
            "architecture", f"{options.where}: rope_type is {kind!r}; supported: {', '.join(map(repr, _KINDS))}", FACTORS_FIX
        )
    options.refuse_left({"original_max_position_embeddings": "only llama3 and yarn read it"}, FACTORS_FIX)
    return rotary
