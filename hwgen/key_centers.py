"""What the keys of a head have in common, and is left out of keys of 4 bits.

Softmax does not see a vector that is taken from all keys of a head: it moves all scores of a query alike. Behind their rotation
keys have much in common, and of what is left a scale of 4 bits loses less (the mean of keys, as in SageAttention, Zhang et al.
2025, section 4.2; there of the keys at hand, here measured once, because keys that are cached stay as they are). To the key of the
first position most heads attend, whatever stands there (StreamingLLM, Xiao et al. 2024, section 3): the center is moved by less
than a step of the levels, to where this key is one that 4 bits have.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .config import BuildConfig
from .descriptors import Format
from .formats import Float, is_finite, pack_bf16, quantised_keys, turned_pairs, widen_bf16
from .layout import KV_FORMATS, key_mixing_strides

__all__ = ["KeyCenters", "key_rows"]


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
    mixed = first - mean
    for stride in strides:
        mixed = turned_pairs(mixed, stride, np.float32(1), np.float32(1))
    codes, bits = quantised_keys(mixed, four_bits=True)
    kept = codes.astype(np.float32) * widen_bf16(bits)[..., None]
    for stride in strides:
        kept = turned_pairs(kept, stride, np.float32(0.5), np.float32(-0.5))
    return pack_bf16(kept - first).reshape(shape.layers, -1)
