"""Keys of the cache moved to other positions: turned back and forth by the host as the machine would have turned them."""

from __future__ import annotations

import numpy as np

from ...descriptors import Format
from ...formats import quantised_keys, turned_pairs, widen_bf16
from ...layout import KV_FORMATS, key_mixing_strides
from ...rotary import cos_and_sin
from ..compiler.image import Image
from .kv_arrays import KvArrays

__all__ = ["moved"]

def moved(image: Image, arrays: KvArrays, distance: int) -> KvArrays:
    """Keys and values as they are ``distance`` positions later (earlier where it is negative): keys are dequantised, rotated by
    that, and quantised again as the machine does it (docs/numerics.md, ROPE); values, and keys of layers without rotation, have
    no position and stay as they are, and so does everything where the distance is 0.
    """
    layers = [layer for layer in range(image.shape.layers) if layer not in image.shape.unrotated]
    if not distance or not layers:
        return arrays
    four_bits = Format.INT4_KEYS in KV_FORMATS[image.kv]
    strides = key_mixing_strides(image.config, image.shape.head_dim) if four_bits else ()
    angle = distance * image.shape.rotary_frequencies()
    cos, sin = (values.astype(np.float32) for values in cos_and_sin(angle))
    elements, scales = arrays.elements.copy(), arrays.scales.copy()
    for layer in layers:  # one at a time stays in the processor's cache
        keys = elements[0, layer].astype(np.float32) * widen_bf16(scales[0, layer])[..., None]
        for stride in strides:
            keys = turned_pairs(keys, stride, np.float32(0.5), np.float32(-0.5))
        added = 0 if image.key_rows is None else widen_bf16(image.key_rows[layer]).reshape(image.shape.kv_heads, 1, -1)
        keys = turned_pairs(keys - added, angle.size, cos, sin) + added
        for stride in strides:
            keys = turned_pairs(keys, stride, np.float32(1), np.float32(1))
        elements[0, layer], scales[0, layer] = quantised_keys(keys, four_bits)
    return KvArrays(elements, scales)
