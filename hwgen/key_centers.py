"""What the keys of a head have in common, and is left out of keys of 4 bits.

Softmax does not see a vector that is taken from all keys of a head: it moves all scores of a query alike. Behind their rotation
keys have much in common, and of what is left a scale of 4 bits loses less (the mean of keys, as in SageAttention, Zhang et al.
2025, section 4.2; there of the keys at hand, here measured once, because keys that are cached stay as they are). One key is far
from the others, that of the first position, which most heads attend to for want of anything better (Xiao et al. 2024, section 3),
and the same in every text: the center is moved by less than a step of the levels, to where this key is one that 4 bits have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .config import BuildConfig
from .descriptors import Format
from .formats import Float, is_finite, pack_bf16, to_four_bits, widen_bf16
from .layout import KV_FORMATS, key_mixing_strides

__all__ = ["KeyCenters", "key_rows", "quantised_keys"]


@dataclass(frozen=True, eq=False)
class KeyCenters:
    """Rotated keys of every layer and key/value head, float32 ``[layers, kv_heads * head_dim]`` each."""

    #: The mean over positions.
    mean: Float
    #: The key of the first position.
    first: Float

    def of_layers(self, layers: int) -> KeyCenters:
        """Those of the first ``layers`` layers."""
        return KeyCenters(self.mean[:layers], self.first[:layers])

    def check(self, layers: int, rows: int) -> None:
        """Raises ValueError where these are not for ``layers`` layers with ``rows`` elements of keys."""
        for name, values in (("mean", self.mean), ("first", self.first)):
            if values.dtype != np.float32 or values.shape != (layers, rows):
                raise ValueError(f"{name} must be float32 {(layers, rows)}, not {values.dtype} {values.shape}")
            if not is_finite(values):
                raise ValueError(f"{name} must be finite")


def _pairs(x: Float, strides: Sequence[int], cos: float, sin: float) -> Float:
    """The pairs (j, j + s) of every 2s elements of ``x [..., d]`` turned by one angle, for every stride s."""
    for stride in strides:
        pairs = x.reshape(*x.shape[:-1], -1, 2, stride)
        first, second = pairs[..., 0, :], pairs[..., 1, :]
        turned = np.float32(cos) * first - np.float32(sin) * second, np.float32(cos) * second + np.float32(sin) * first
        x = np.stack(turned, axis=-2).reshape(x.shape)
    return x


def quantised_keys(keys: Float, four_bits: bool) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.uint16]]:
    """Keys ``[..., d]`` as the cache has them (docs/numerics.md, ROPE): int8 elements, and bf16 bits of their scales."""
    bits = pack_bf16(np.abs(keys).max(axis=-1) * np.float32(1 / 127))
    scale = widen_bf16(bits)[..., None]
    inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale != 0)
    codes = np.clip(np.rint(keys * inverse), -127, 127).astype(np.int8)
    return to_four_bits(codes) if four_bits else codes, bits


def key_rows(config: BuildConfig, weights: Any) -> npt.NDArray[np.uint16] | None:
    """What is added to rotated keys: their centers, negative, as bf16 bits ``[layers, kv_heads * head_dim]``, of a model in
    `hwgen.weights.ModelWeights` or what stands for it; None where keys have 8 bits or nothing is known of them.
    """
    centers: KeyCenters | None = weights.key_centers
    if centers is None or Format.INT4_KEYS not in KV_FORMATS[weights.kv]:
        return None
    shape = weights.shape
    strides = key_mixing_strides(config, shape.head_dim)
    first, mean = (rows.reshape(shape.layers, shape.kv_heads, shape.head_dim) for rows in (centers.first, centers.mean))
    codes, bits = quantised_keys(_pairs(first - mean, strides, 1.0, 1.0), four_bits=True)
    kept = codes.astype(np.float32) * widen_bf16(bits)[..., None]
    return pack_bf16(_pairs(kept, strides, 0.5, -0.5) - first).reshape(shape.layers, -1)
