"""The KV cache as arrays: pages of an image to keys, values and scales by layer, head and position, and back."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ...descriptors import Opcode
from ...errors import HwgenError
from ...layout import KV_FORMATS, KvBlockLayout
from ...rounding import ceil_div
from ..compiler.image import Image
from ..compiler.placement import cache_pages

__all__ = ["KvArrays", "pack_pages", "unpack_pages", "with_cache_tokens"]

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class KvArrays:
    """Keys and values of a sequence. First index 0 is keys, 1 values."""

    #: int8 ``[2, layers, kv_heads, positions, head_dim]``; levels of `hwgen.numerics` where they have 4 bits.
    elements: npt.NDArray[np.int8]
    #: bf16 bits ``[2, layers, kv_heads, positions]``.
    scales: npt.NDArray[np.uint16]


def with_cache_tokens(image: Image, tokens: int) -> Image:
    """The same image with KV pages for ``tokens`` tokens, shared by all sessions."""
    if tokens < image.context:
        raise HwgenError(
            "usage",
            f"a KV cache of {tokens} tokens is smaller than the context of {image.context} tokens",
            f"give the cache {image.context} tokens or more",
        )
    return replace(image, pages=cache_pages(image.config, tokens))


def _block_offsets(image: Image) -> npt.NDArray[np.int64]:
    """Where the block of every layer and head begins in a page, ``[layers, kv_heads]``: as the program writes it."""
    writes = sorted((d for d in image.descriptors if d.opcode is Opcode.KV_WRITE), key=lambda d: d.layer)
    return np.array([[d.stream_address + h * d.head_stride for h in range(d.kv_heads)] for d in writes])


def _shape(image: Image, positions: int) -> tuple[int, int, int, int, int]:
    s = image.shape
    return 2, s.layers, s.kv_heads, positions, s.head_dim


def unpack_pages(image: Image, pages: Bytes, positions: int, layer: int | None = None) -> KvArrays:
    """Keys and values of the first ``positions`` tokens of ``pages [pages, page_bytes]``, of all layers or of one (then ``layers``
    of the result is 1).
    """
    c, layout = image.config, KvBlockLayout(image.config, image.shape.head_dim, KV_FORMATS[image.kv])
    offsets = _block_offsets(image) if layer is None else _block_offsets(image)[layer : layer + 1]
    shape = (2, len(offsets), *_shape(image, len(pages) * c.kv_block)[2:])
    elements, scales = np.empty(shape, np.int8), np.empty(shape[:-1], np.uint16)
    header = layout.header_beats * c.beat_bytes
    for (row, head), offset in np.ndenumerate(offsets):
        start = offset + header
        block_scales = np.ascontiguousarray(pages[:, offset:start]).view(np.uint16).reshape(-1, 2, c.kv_block)
        scales[:, row, head] = block_scales.swapaxes(0, 1).reshape(2, -1)
        block = pages[:, offset : offset + layout.bytes].reshape(-1, layout.beats, c.beat_bytes)
        for kind in range(2):
            beats = np.ascontiguousarray(block[:, layout.beats_of(kind)])
            elements[kind, row, head] = layout.split(kind, beats).reshape(-1, image.shape.head_dim)
    return KvArrays(elements[..., :positions, :], scales[..., :positions])


def pack_pages(image: Image, arrays: KvArrays) -> Bytes:
    """Inverse of :func:`unpack_pages`; positions behind the last are zero."""
    c, layout = image.config, KvBlockLayout(image.config, image.shape.head_dim, KV_FORMATS[image.kv])
    positions = arrays.scales.shape[-1]
    pages = np.zeros((ceil_div(positions, c.kv_block), image.page_bytes), np.uint8)
    shape = _shape(image, len(pages) * c.kv_block)
    elements, scales = np.zeros(shape, np.int8), np.zeros(shape[:-1], np.uint16)
    elements[..., :positions, :], scales[..., :positions] = arrays.elements, arrays.scales
    header = layout.header_beats * c.beat_bytes
    by_page = 2, len(pages), c.kv_block
    for (layer, head), offset in np.ndenumerate(_block_offsets(image)):
        start = offset + header
        block_scales = np.ascontiguousarray(scales[:, layer, head].reshape(by_page).swapaxes(0, 1))
        pages[:, offset:start] = block_scales.view(np.uint8).reshape(-1, header)
        for kind in range(2):
            beats = layout.join(kind, elements[kind, layer, head].reshape(*by_page[1:], image.shape.head_dim))
            first, size = offset + layout.first_beats[kind] * c.beat_bytes, layout.data_beats[kind] * c.beat_bytes
            pages[:, first : first + size] = np.ascontiguousarray(beats).view(np.uint8).reshape(-1, size)
    return pages
