"""Keys of the cache moved to other positions: turned back and forth by the host as the machine would have turned them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ...descriptors import Format
from ...formats import pack_bf16, to_four_bits, widen_bf16
from ...layout import KV_FORMATS, key_mixing_strides
from ..compiler.image import Image
from .kv_arrays import KvArrays

__all__ = ["moved", "quantised_keys"]

Floats = npt.NDArray[np.float32]


def _turned(x: Floats, stride: int, cos: Floats | np.float32, sin: Floats | np.float32) -> Floats:
    """The pairs (j, j + stride) of every 2 * stride elements of ``x [..., d]`` turned by ``cos`` and ``sin [stride]``."""
    pairs = x.reshape(*x.shape[:-1], -1, 2, stride)
    first, second = pairs[..., 0, :], pairs[..., 1, :]
    out = np.empty_like(pairs)
    out[..., 0, :] = first * cos - second * sin
    out[..., 1, :] = second * cos + first * sin
    return out.reshape(x.shape)


def quantised_keys(keys: Floats, four_bits: bool) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.uint16]]:
    """Keys ``[..., d]`` as the cache has them (docs/numerics.md, ROPE): their elements, and bits of their scales."""
    bits = pack_bf16(np.abs(keys).max(axis=-1) * np.float32(1 / 127))
    scale = widen_bf16(bits)[..., None]
    inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale != 0)
    codes = np.clip(np.rint(keys * inverse), -127, 127).astype(np.int8)
    return to_four_bits(codes) if four_bits else codes, bits


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
    cos, sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
    elements, scales = arrays.elements.copy(), arrays.scales.copy()
    for layer in layers:  # one at a time stays in the processor's cache
        keys = elements[0, layer].astype(np.float32) * widen_bf16(scales[0, layer])[..., None]
        for stride in strides:
            keys = _turned(keys, stride, np.float32(0.5), np.float32(-0.5))
        keys = _turned(keys, angle.size, cos, sin)
        for stride in strides:
            keys = _turned(keys, stride, np.float32(1), np.float32(1))
        elements[0, layer], scales[0, layer] = quantised_keys(keys, four_bits)
    return KvArrays(elements, scales)
