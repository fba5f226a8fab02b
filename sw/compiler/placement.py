"""Where a compiled model keeps things: segments in memory, vectors of a pass on chip."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...config import BuildConfig
from ...decoder import DecoderLayer
from ...descriptors import Buffers
from ...errors import HwgenError
from ...layout import vectors_of
from ...rounding import align, ceil_div
from ...shape import ModelShape

__all__ = [
    "FRAME_BYTES", "REGION_ALIGNMENT", "SEGMENT_ALIGNMENT", "Region", "ScratchPlan", "SegmentPlan", "bias_vectors", "check_fit",
    "cache_pages", "contiguous_bytes", "pages_together", "parameter_place", "plan_scratch", "whole_rounds",
]

Bytes = npt.NDArray[np.uint8]

#: Alignment of every segment, and of everything that lies at a stride, in bytes: the bursts that ports fetch on most boards, and
#: the largest beat.
SEGMENT_ALIGNMENT = 256

#: Alignment of buffers and of their large regions, in bytes.
REGION_ALIGNMENT = 4096

#: Unit of the page table: entry ``b`` is the address of the page of block ``b`` in units of this many bytes. So pages may lie
#: anywhere, in buffers of their own.
FRAME_BYTES = 4096

#: Smallest buffer of contiguous memory: XRT gives no smaller one (pynq's `allocate_bo`).
LEAST_BUFFER = 8192

#: Linux aligns contiguous memory to its size, rounded up to a power of two, and to this at most (CONFIG_CMA_ALIGNMENT = 8,
#: kernel/dma/contiguous.c).
CMA_ALIGNMENT = 1 << 20

#: Contiguous memory that a buffer of KV pages may take, for every byte of its pages.
PAGE_OVERHEAD = 1.2


def contiguous_bytes(size: int) -> int:
    """Contiguous memory that a buffer of ``size`` bytes takes: what lies before the next aligned place is lost to large ones."""
    size = align(max(size, LEAST_BUFFER), REGION_ALIGNMENT)
    return align(size, min(CMA_ALIGNMENT, 1 << (size - 1).bit_length()))


def cache_pages(config: BuildConfig, tokens: int) -> int:
    """KV pages of so many tokens, with those of summaries in builds that choose among blocks."""
    blocks = ceil_div(tokens, config.kv_block)
    return blocks + (ceil_div(blocks * config.summary_rows, config.kv_block) if config.kv_budget else 0)


def pages_together(page_bytes: int) -> int:
    """KV pages that share a buffer. Few, because cache maintenance walks whole buffers; enough to waste little of the contiguous
    memory.
    """
    count = 1
    while contiguous_bytes(count * page_bytes) > PAGE_OVERHEAD * count * page_bytes:
        count += 1
    return count


@dataclass(frozen=True)
class Region:
    """Bytes ``[offset, offset + bytes)`` from the start of the constants."""

    offset: int
    bytes: int


#: What a model needs of a build, by the maximum that must hold it.
_NEEDS = {
    "max_inputs": "inputs of the widest linear layer",
    "max_query": "query elements of a token",
    "max_heads": "query heads",
    "max_kv_heads": "key/value heads",
    "max_shared": "query heads a key/value head",
    "max_head_dim": "elements of a head",
}


def maxima_of(shape: ModelShape) -> dict[str, int]:
    """The maxima of a build that holds a model, before they are rounded up to whole vectors."""
    return {
        "max_inputs": max(shape.hidden, shape.q_rows, shape.ffn),
        "max_query": shape.q_rows,
        "max_heads": shape.heads,
        "max_kv_heads": shape.kv_heads,
        "max_shared": shape.group,
        "max_head_dim": shape.head_dim,
    }


def check_fit(config: BuildConfig, shape: ModelShape) -> None:
    """Refuse a model that does not fit the build: which maximum, its value, what to set."""
    w = config.width
    for name, needed in maxima_of(shape).items():
        value = align(needed, w) if name in ("max_inputs", "max_query") else needed
        if value > getattr(config, name):
            raise HwgenError(
                "model",
                f"the model needs {value} {_NEEDS[name]}, build {config.name!r} has {name}={getattr(config, name)}",
                f"build with {name}={value} or more",
            )
    if shape.head_dim % (2 * w):
        raise HwgenError(
            "model",
            f"head_dim is {shape.head_dim}, build {config.name!r} needs a multiple of {2 * w} (two vectors)",
            f"build with beat_bytes={max(16, 2 * config.beat_vectors * (shape.head_dim & -shape.head_dim))} or less",
        )


@dataclass(frozen=True)
class ScratchPlan:
    """Where one pass keeps its vectors. Token ``t`` of a region is at ``base + t * stride``."""

    #: Tokens of a pass.
    chunk: int
    #: Residual stream and its stride.
    x: int
    x_stride: int
    #: Biases of the queries, keys and values of a layer, and the row that is added to keys, the same for all tokens; nothing where
    #: there are none.
    bias: int
    #: Queries | keys | values, and their stride.
    qkv: int
    qkv_stride: int
    #: Attention output, and its stride.
    a: int
    a_stride: int
    #: Feed-forward product (laid over the two before), and its stride.
    g: int
    g_stride: int
    #: Parameter memory: rotary rows at 0, then two places for gains: one norm's is loaded while another's is used. Norms of the
    #: residual stream and those of attention output and feed-forward product take turns, each with a place of its own.
    gains: tuple[int, int]


def whole_rounds(tokens: int, lanes: int) -> int:
    """Tokens of a pass when there is room for ``tokens``: whole rounds of lanes, but two rounds that are at least three
    quarters full rather than one, since one round is normed and drained while the engine works on the other.
    """
    if lanes < tokens < 2 * lanes:
        return tokens // 2 * 2 if 2 * tokens >= 3 * lanes else lanes
    return tokens - tokens % lanes if tokens > lanes else tokens


def parameter_place(number: int) -> Buffers:
    """Which of two places for parameters, 0 or 1, the gains of a norm or the scales of rows have."""
    return Buffers.PARAMETER if number else Buffers.NONE


def bias_vectors(config: BuildConfig, shape: ModelShape, layer: DecoderLayer) -> int:
    """Vectors of scratch that the biases of a layer take."""
    q, kv = (vectors_of(config, n) for n in (shape.q_rows, shape.kv_rows))
    return q + 2 * kv if layer.bias_of else 0


def token_vectors(config: BuildConfig, shape: ModelShape) -> int:
    """Vectors of scratch that a token takes: its residual stream, and attention or the feed-forward product over it."""
    hidden, ffn, q, kv = (vectors_of(config, n) for n in (shape.hidden, shape.ffn, shape.q_rows, shape.kv_rows))
    return hidden + max(2 * q + 2 * kv, ffn)


def plan_scratch(config: BuildConfig, shape: ModelShape, gains: int | None = None, biases: int = 0) -> ScratchPlan:
    """Regions of scratch and parameter memory, for as many tokens as fit (a whole number of rounds where that is possible).
    ``gains``: vectors of parameters besides rotary rows. ``biases``: of scratch, besides those of tokens.
    """
    hidden, ffn = vectors_of(config, shape.hidden), vectors_of(config, shape.ffn)
    q, kv, head = (vectors_of(config, n) for n in (shape.q_rows, shape.kv_rows, shape.head_dim))
    qkv, token = q + 2 * kv, token_vectors(config, shape)
    gains = hidden + max(q, ffn) if gains is None else gains
    chunk = min(config.chunk, max(0, config.scratch_vectors - biases) // token, max(0, config.param_vectors - gains) // head)
    if chunk < 1:
        whole = token + biases
        name, need = ("scratch_vectors", whole) if config.scratch_vectors < whole else ("param_vectors", gains + head)
        raise HwgenError(
            "model",
            f"one token needs {need} vectors, build {config.name!r} has {name}={getattr(config, name)}",
            f"build with {name}={need} or more",
        )
    chunk = whole_rounds(chunk, config.tokens)
    base = chunk * hidden + biases
    return ScratchPlan(
        chunk=chunk,
        x=0,
        x_stride=hidden,
        bias=chunk * hidden,
        qkv=base,
        qkv_stride=qkv,
        a=base + chunk * qkv,
        a_stride=q,
        g=base,
        g_stride=ffn,
        gains=(chunk * head, chunk * head + hidden),
    )


@dataclass(frozen=True)
class Segment:
    """Bytes of the image that are made when it is written."""

    region: Region
    make: Callable[[], Bytes]


class SegmentPlan:
    """Lays segments one behind the other and remembers where they are; their bytes come later, or never."""

    def __init__(self) -> None:
        self.segments: dict[str, Segment] = {}
        self.end = 0

    def align(self, step: int) -> None:
        self.end = align(self.end, step)

    def add(self, name: str, size: int, make: Callable[[], Bytes]) -> int:
        """Place ``size`` bytes, which ``make`` returns flat; their offset."""
        self.align(SEGMENT_ALIGNMENT)
        offset = self.end
        self.end += size
        self.segments[name] = Segment(Region(offset, size), make)
        return offset
