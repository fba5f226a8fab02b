"""Layout of data in memory: segments, ternary packing, KV blocks. Host side, numpy only.

A *segment* of N beats at address A is ``N * beat_bytes`` consecutive bytes, beat ``i`` at ``A + i * beat_bytes``. A is a multiple
of ``beat_bytes``, N of ``groups``.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from .config import TRITS_PER_BYTE, BuildConfig
from .descriptors import Descriptor, Format
from .formats import four_bit_codes, four_bit_elements
from .int4 import pack_nibbles, unpack_nibbles
from .rounding import align, ceil_div

__all__ = [
    "Int4Layout", "KV_FORMATS", "KvBlockLayout", "arrange_ternary", "key_mixing_strides", "kv_format_name", "lane_strides",
    "matrix_beats", "mixing_strides",
    "pack_head", "pack_ternary", "pack_trits", "pad_beats", "unpack_ternary", "unpack_trits", "vectors_of",
]

Bytes = npt.NDArray[np.uint8]

#: The five trits of every byte; only the first 3**5 bytes are ever written.
_DIGITS = np.stack([np.arange(256) // 3**j % 3 - 1 for j in range(TRITS_PER_BYTE)], axis=-1).astype(np.int8)

#: Blocks of the LM head that are arranged at a time: large heads are not copied whole.
_HEAD_BLOCKS = 64

#: The byte of five zero trits.
ZERO_BYTE = sum(3**j for j in range(TRITS_PER_BYTE))


def vectors_of(config: BuildConfig, elements: int) -> int:
    """Vectors that hold ``elements`` float32 values."""
    return ceil_div(elements, config.width)


def pad_beats(config: BuildConfig, beats: int) -> int:
    """``beats`` rounded up to a whole number of ring rows (``groups`` beats)."""
    return align(beats, config.groups)


def blob_beats(config: BuildConfig, data: Bytes, beats: int = 0) -> Bytes:
    """Bytes -> ``[n, beat_bytes]`` with zeros up to a whole number of ring rows, ``beats`` at least."""
    beats = max(beats, pad_beats(config, ceil_div(data.size, config.beat_bytes)))
    out = np.zeros(beats * config.beat_bytes, np.uint8)
    out[: data.size] = data.reshape(-1)
    return out.reshape(beats, config.beat_bytes)


def matrix_shape(config: BuildConfig, rows: int, inputs: int) -> tuple[int, int]:
    """``(slices, row_blocks)`` of a ternary matrix; rows are padded to a multiple of ``block_step`` row blocks."""
    slices = ceil_div(inputs, config.slice_inputs)
    step = config.block_step
    return slices, ceil_div(rows, config.rows * step) * step


def matrix_beats(config: BuildConfig, rows: int, inputs: int) -> int:
    """Beats of a packed ternary matrix."""
    slices, blocks = matrix_shape(config, rows, inputs)
    return slices * blocks


def pack_trits(trits: npt.NDArray[np.int8]) -> Bytes:
    """Rows of -1, 0, 1 ``[rows, inputs]`` -> bytes ``[rows, ceil(inputs / 5)]``: five consecutive inputs a byte,
    ``sum((w_j + 1) * 3^j)``; missing inputs are zero trits.
    """
    rows, inputs = trits.shape
    size = ceil_div(inputs, TRITS_PER_BYTE)
    full = np.ones((rows, size * TRITS_PER_BYTE), np.uint8)
    full[:, :inputs] = trits
    full[:, :inputs] += 1  # uint8: -1 was stored as 255 and wraps to 0
    digits = full.reshape(rows, size, TRITS_PER_BYTE)
    packed = np.zeros((rows, size), np.uint8)
    for j in range(TRITS_PER_BYTE):
        packed += digits[..., j] * np.uint8(3**j)
    return packed


def unpack_trits(packed: Bytes) -> npt.NDArray[np.int8]:
    """Inverse of :func:`pack_trits` along the last dimension, with the missing inputs."""
    trits: npt.NDArray[np.int8] = _DIGITS[packed].reshape(*packed.shape[:-1], -1)
    return trits


def arrange_ternary(config: BuildConfig, packed: Bytes, inputs: int) -> Bytes:
    """Rows of packed trits ``[rows, ceil(inputs / 5)]`` -> beats ``[slices * row_blocks, beat_bytes]``.

    Beat order: slices of the input dimension outermost, row blocks inside. Row ``r`` of a block takes bytes
    ``[r, r + 1) * beat_bytes / rows``. Missing rows and inputs are zero trits.
    """
    rows, size = packed.shape
    slices, blocks = matrix_shape(config, rows, inputs)
    share = config.beat_bytes // config.rows
    full = np.full((blocks * config.rows, slices * share), ZERO_BYTE, np.uint8)
    full[:rows, :size] = packed
    ordered = full.reshape(blocks, config.rows, slices, share).transpose(2, 0, 1, 3)
    return np.ascontiguousarray(ordered).reshape(slices * blocks, config.beat_bytes)


def pack_ternary(config: BuildConfig, trits: npt.NDArray[np.int8]) -> Bytes:
    """Ternary matrix ``[rows, inputs]`` of -1, 0, 1 -> beats (:func:`pack_trits`, :func:`arrange_ternary`)."""
    return arrange_ternary(config, pack_trits(trits), trits.shape[1])


def unpack_ternary(config: BuildConfig, beats: Bytes, rows: int, inputs: int) -> npt.NDArray[np.int8]:
    """Inverse of :func:`pack_ternary`: ``[rows, inputs]`` int8."""
    slices, blocks = matrix_shape(config, rows, inputs)
    by_row = beats.reshape(slices, blocks, config.rows, -1).transpose(1, 2, 0, 3)
    return unpack_trits(by_row.reshape(blocks * config.rows, -1))[:rows, :inputs]


class Int4Layout:
    """A panel of ``rows`` rows of an INT4 matrix with groups of ``group`` inputs, as the INT4 engine reads it.

    Beats, for every group of inputs: scale beats, then the weight beats of its slices (``int4_slice_inputs`` inputs each,
    slices outermost, row blocks inside). A weight beat holds ``config.rows`` rows, each the codes of a slice two a byte, the
    even one in the low nibble. A scale beat holds ``beat_bytes / 2`` rows, each a byte D (unsigned) and a byte M (signed);
    scale beats are padded to whole ring rows. Missing rows and inputs are zero.
    """

    def __init__(self, config: BuildConfig, rows: int, inputs: int, group: int) -> None:
        self.config, self.rows, self.inputs, self.group = config, rows, inputs, group
        size = config.int4_slice_inputs
        if group % size:
            raise ValueError(f"group must be a multiple of {size} (inputs of a slice), not {group!r}")
        step = config.block_step
        #: Slices of the input dimension, those of one group, groups, and row blocks.
        self.slices = ceil_div(inputs, size)
        self.shared = group // size
        self.groups = ceil_div(self.slices, self.shared)
        self.row_blocks = ceil_div(rows, config.rows * step) * step
        #: Scale beats of one group.
        self.scale_beats = pad_beats(config, ceil_div(2 * self.row_blocks * config.rows, config.beat_bytes))
        #: Beats of the panel.
        self.beats = self.groups * self.scale_beats + self.slices * self.row_blocks

    @classmethod
    def of(cls, config: BuildConfig, d: Descriptor) -> Int4Layout:
        """The panel that a LINEAR operator with FP8 reads."""
        size = config.int4_slice_inputs
        return cls(config, d.row_blocks * config.rows, d.slices * size, d.vectors * size)

    def pack(self, codes: npt.NDArray[np.int8], scales: Bytes, midpoints: npt.NDArray[np.int8] | None) -> Bytes:
        """Codes -8..7 ``[rows, inputs]``, scales and midpoints ``[rows, groups]`` -> beats ``[beats, beat_bytes]``."""
        c, size = self.config, self.config.int4_slice_inputs
        padded = np.zeros((self.row_blocks * c.rows, self.slices * size), np.int8)
        padded[: self.rows, : self.inputs] = codes
        by_slice = padded.reshape(self.row_blocks, c.rows, self.slices, size).transpose(2, 0, 1, 3)
        weights = pack_nibbles(np.ascontiguousarray(by_slice)).reshape(self.slices, self.row_blocks, c.beat_bytes)
        pairs = np.zeros((self.groups, self.scale_beats * c.beat_bytes // 2, 2), np.uint8)
        pairs[:, : self.rows, 0] = scales.T
        if midpoints is not None:
            pairs[:, : self.rows, 1] = midpoints.T.view(np.uint8)
        heads = pairs.reshape(self.groups, self.scale_beats, c.beat_bytes)
        parts = []
        for g in range(self.groups):
            parts += [heads[g], weights[g * self.shared : (g + 1) * self.shared].reshape(-1, c.beat_bytes)]
        return np.concatenate(parts)

    def unpack(self, beats: Bytes) -> tuple[npt.NDArray[np.int8], Bytes, npt.NDArray[np.int8]]:
        """The inverse of :meth:`pack`: codes, scales and midpoints."""
        c, size = self.config, self.config.int4_slice_inputs
        codes = np.zeros((self.slices, self.row_blocks * c.rows, size), np.int8)
        pairs = np.zeros((self.groups, self.scale_beats * c.beat_bytes // 2, 2), np.uint8)
        at = 0
        for g in range(self.groups):
            pairs[g] = beats[at : at + self.scale_beats].reshape(-1, 2)
            at += self.scale_beats
            for s in range(g * self.shared, min(self.slices, (g + 1) * self.shared)):
                codes[s] = unpack_nibbles(beats[at : at + self.row_blocks].reshape(-1, size // 2))
                at += self.row_blocks
        by_row = codes.transpose(1, 0, 2).reshape(codes.shape[1], -1)
        scales, midpoints = pairs[:, : self.rows, 0].T, pairs[:, : self.rows, 1].T.view(np.int8)
        return by_row[: self.rows, : self.inputs], np.ascontiguousarray(scales), np.ascontiguousarray(midpoints)


#: Formats of cached keys and values by name: what the operators of attention say of them.
KV_FORMATS: Mapping[str, Format] = {
    "k8v8": Format.NONE,
    "k8v4": Format.INT4_VALUES,
    "k4v4": Format.INT4_KEYS | Format.INT4_VALUES,
}


def kv_format_name(format: Format) -> str:
    """Name of the format of cached keys and values among an operator's formats."""
    of_kv = format & (Format.INT4_KEYS | Format.INT4_VALUES)
    return next(name for name, value in KV_FORMATS.items() if value == of_kv)


#: Times that heads are mixed at most.
MIXES = 3


def mixing_strides(config: BuildConfig, head_dim: int) -> tuple[int, ...]:
    """Distances of the elements that are mixed with each other, in this order: an eighth, a quarter and a half of a head, as far
    as these are whole vectors.
    """
    strides: list[int] = []
    vectors = head_dim // config.width
    while vectors % 2 == 0 and len(strides) < MIXES:
        vectors //= 2
        strides.append(vectors * config.width)
    return tuple(reversed(strides))


def key_mixing_strides(config: BuildConfig, head_dim: int) -> tuple[int, ...]:
    """The same of keys, whose errors cost more: a quarter and a half of a vector first."""
    return *lane_strides(config), *mixing_strides(config, head_dim)


def lane_strides(config: BuildConfig) -> tuple[int, ...]:
    """Distances at which the vector unit mixes elements of the same vector."""
    return config.width // 4, config.width // 2


class KvBlockLayout:
    """One block of the KV cache: ``kv_block`` keys and values of one key/value head.

    Beats: header (bf16 scales of all keys, then of all values), keys, values, padding to whole ring rows. Key beat ``d``
    holds, for every key slot ``s``, elements ``[d, d + 1) * key_bytes`` at bytes ``[s, s + 1) * key_bytes``; value beats alike.
    Of elements of 4 bits beat ``d`` has the codes (`hwgen.formats.four_bit_codes`) of what would be beats ``2 d`` (as low nibbles)
    and ``2 d + 1``.
    Keys are kind 0, values kind 1.
    """

    def __init__(self, config: BuildConfig, head_dim: int, format: Format = Format.NONE) -> None:
        self.header_beats = config.header_beats
        #: Whether keys, and values, have 4 bits.
        self.packed = Format.INT4_KEYS in format, Format.INT4_VALUES in format
        #: Beats of the keys, and of the values, of one block.
        self.data_beats = tuple(head_dim // config.key_bytes // (2 if packed else 1) for packed in self.packed)
        #: First beat of the keys, and of the values.
        self.first_beats = config.header_beats, config.header_beats + self.data_beats[0]
        #: Beats of a block with padding.
        self.beats = pad_beats(config, self.header_beats + sum(self.data_beats))
        #: Bytes of a block.
        self.bytes = self.beats * config.beat_bytes
        self._shape = config.kv_block, config.key_bytes

    def beats_of(self, kind: int) -> slice:
        """Where in a block the beats of keys or of values are."""
        return slice(self.first_beats[kind], self.first_beats[kind] + self.data_beats[kind])

    def join(self, kind: int, elements: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
        """Elements ``[..., slots, head_dim]`` of keys or of values -> what their data beats hold ``[..., data_beats, slots,
        key_bytes]``; any number of slots.
        """
        key_bytes = self._shape[1]
        pieces = elements.reshape(*elements.shape[:-1], elements.shape[-1] // key_bytes, key_bytes).swapaxes(-3, -2)
        if self.packed[kind]:
            codes = four_bit_codes(pieces)
            pieces = (codes[..., 0::2, :, :] | codes[..., 1::2, :, :] << 4).view(np.int8)
        return pieces

    def split(self, kind: int, beats: Bytes) -> npt.NDArray[np.int8]:
        """Inverse of :meth:`join` for whole data beats ``[..., data_beats, beat_bytes]``: ``[..., kv_block, head_dim]``."""
        pieces = beats.view(np.int8).reshape(*beats.shape[:-1], *self._shape)
        if self.packed[kind]:
            bits = pieces.view(np.uint8)
            pieces = four_bit_elements(np.stack((bits & 15, bits >> 4), axis=-3))
            pieces = pieces.reshape(*beats.shape[:-2], 2 * beats.shape[-2], *self._shape)
        slots, key_bytes = self._shape
        return pieces.swapaxes(-3, -2).reshape(*beats.shape[:-2], slots, pieces.shape[-3] * key_bytes)


def head_block_beats(config: BuildConfig, inputs: int) -> int:
    """Beats of one block of the short list: header, then ``kv_block`` rows as key beats, padded to whole ring rows."""
    return pad_beats(config, config.header_beats + vectors_of(config, inputs) * config.width // config.key_bytes)


def pack_head(config: BuildConfig, rows: npt.NDArray[np.int8], scales: npt.NDArray[np.uint16]) -> Bytes:
    """int8 rows of the head ``[vocab, inputs]`` with bf16 scales ``[vocab]`` -> beats, one KV-like block per ``kv_block`` rows.

    Header: bf16 scales of the block's rows (the value half is zero); then key beats. Missing rows and inputs are zero.
    """
    vocab, inputs = rows.shape
    block = config.kv_block
    blocks = ceil_div(vocab, block)
    padded_inputs = vectors_of(config, inputs) * config.width
    header = np.zeros((blocks, 2 * block), np.uint16)
    flat = np.zeros(blocks * block, np.uint16)
    flat[:vocab] = scales
    header[:, :block] = flat.reshape(blocks, block)
    beats = head_block_beats(config, inputs)
    out = np.zeros((blocks, beats, config.beat_bytes), np.uint8)
    first = config.header_beats
    out[:, :first] = header.view(np.uint8).reshape(blocks, first, config.beat_bytes)
    for low in range(0, blocks, _HEAD_BLOCKS):
        part = rows[low * block : (low + _HEAD_BLOCKS) * block]
        count = ceil_div(len(part), block)
        full = np.zeros((count * block, padded_inputs), np.int8)
        full[: len(part), :inputs] = part
        data = full.reshape(count, block, -1, config.key_bytes).transpose(0, 2, 1, 3).reshape(count, -1, config.beat_bytes)
        out[low : low + count, first : first + data.shape[1]] = data.view(np.uint8)
    return out.reshape(-1, config.beat_bytes)
