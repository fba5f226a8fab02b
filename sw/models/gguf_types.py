"""Types of GGUF tensors: how many bytes they have, their values as floats, and as 4-bit blocks where the machine has their form.

Layouts are those of llama.cpp (ggml-common.h), bitnet.cpp (I2_S) and PrismML's llama.cpp (PQ2_0, PTQ1_0, and Q2_0 before the
type got its present size).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ...formats import Float
from ...int4 import BlockMatrix, affine_blocks

__all__ = ["I2_S", "Q2_0", "TILES", "WIDE_Q2_0", "TensorType", "name_of", "size_of", "type_of"]

Bytes = npt.NDArray[np.uint8]

#: Numbers of types that the format's own library does not know.
I2_S, Q2_0, PQ2_0, PTQ1_0 = 36, 42, 142, 143

#: Types of bitnet.cpp whose tiles are described by a file that is not inside, by their numbers there.
TILES = {38: "TL1", 39: "TL2"}

#: Bytes behind the digits of an I2_S tensor: its scale, padded.
_I2_S_TAIL = 32


def _signed_blocks(codes: npt.NDArray[np.int8], d: Float, group: int) -> BlockMatrix:
    """``w = d code`` with small codes; where d is negative they change their signs."""
    negative = np.repeat(d < 0, group, axis=1)
    return BlockMatrix(np.where(negative, -codes, codes).astype(np.int8), group, np.abs(d).astype(np.float32))


def _halves(part: Bytes) -> Float:
    """Numbers of half precision ``[..., 2 n]`` -> ``[..., n]``."""
    return np.ascontiguousarray(part).view(np.float16).astype(np.float32)


def _nibbles(packed: Bytes) -> Bytes:
    """Low nibbles first, then the high ones, of every run of bytes ``[..., n]``: ``[..., 2 n]``."""
    return np.concatenate((packed & 15, packed >> 4), axis=-1)


def _q4_0(blocks: Bytes) -> BlockMatrix:
    rows, d = len(blocks), _halves(blocks[..., :2])[..., 0]
    return affine_blocks(_nibbles(blocks[..., 2:]).reshape(rows, -1), d, -8 * d)


def _q4_1(blocks: Bytes) -> BlockMatrix:
    rows, n = len(blocks), _halves(blocks[..., :4])
    return affine_blocks(_nibbles(blocks[..., 4:]).reshape(rows, -1), n[..., 0], n[..., 1])


def _six_bits(packed: Bytes) -> tuple[Bytes, Bytes]:
    """Scales and minimums 0..63 ``[..., 8]`` of the eight groups in 12 bytes: those of groups 0 to 3 are the low six bits of bytes
    0 to 3 and 4 to 7; of the others the low four bits are the nibbles of bytes 8 to 11, the high two the top bits of those before.
    """
    first, second, third = packed[..., :4], packed[..., 4:8], packed[..., 8:]
    scales = np.concatenate((first & 63, third & 15 | first >> 6 << 4), axis=-1)
    minimums = np.concatenate((second & 63, third >> 4 | second >> 6 << 4), axis=-1)
    return scales, minimums


def _q4_k(blocks: Bytes) -> BlockMatrix:
    """``w = d scale q - dmin minimum``: nibbles of 32 bytes are two groups of 32."""
    rows, n = len(blocks), _halves(blocks[..., :4])
    scales, minimums = _six_bits(blocks[..., 4:16])
    q = _nibbles(blocks[..., 16:].reshape(rows, -1, 4, 32))
    d, m = n[..., :1] * scales, -n[..., 1:] * minimums
    return affine_blocks(q.reshape(rows, -1), d.reshape(rows, -1), m.reshape(rows, -1))


def _pairs_of_bits(packed: Bytes) -> npt.NDArray[np.int8]:
    """Digits 0..3 of every byte from its low bits on, minus 1: ``[..., n]`` -> ``[..., 4 n]``."""
    digits = np.stack([packed >> shift & 3 for shift in (0, 2, 4, 6)], axis=-1)
    codes: npt.NDArray[np.int8] = digits.reshape(*packed.shape[:-1], -1).astype(np.int8) - np.int8(1)
    return codes


def _q2_0(blocks: Bytes) -> BlockMatrix:
    codes = _pairs_of_bits(blocks[..., 2:])
    return _signed_blocks(codes.reshape(len(blocks), -1), _halves(blocks[..., :2])[..., 0], codes.shape[-1])


def _trits(packed: Bytes, count: int) -> npt.NDArray[np.int8]:
    """The first ``count`` trits of every byte: all their first ones, all their second ones, ..., ``[..., count n]``."""
    powers = np.array([3**n for n in range(count)], np.uint8)[:, None]
    digits = (packed[..., None, :] * powers).astype(np.uint16) * 3 >> 8  # the product wraps at 256: the leading digits are gone
    return digits.reshape(*packed.shape[:-1], -1).astype(np.int8) - np.int8(1)


def _ptq1_0(blocks: Bytes) -> BlockMatrix:
    parts = _trits(blocks[..., :16], 5), _trits(blocks[..., 16:24], 5), _trits(blocks[..., 24:26], 4)
    codes = np.concatenate(parts, axis=-1).reshape(len(blocks), -1)
    return _signed_blocks(codes, _halves(blocks[..., 26:])[..., 0], 128)


def _tq1_0(blocks: Bytes) -> BlockMatrix:
    parts = _trits(blocks[..., :32], 5), _trits(blocks[..., 32:48], 5), _trits(blocks[..., 48:52], 4)
    codes = np.concatenate(parts, axis=-1).reshape(len(blocks), -1)
    return _signed_blocks(codes, np.repeat(_halves(blocks[..., 52:])[..., 0], 2, axis=1), 128)


def _tq2_0(blocks: Bytes) -> BlockMatrix:
    packed = blocks[..., :64].reshape(len(blocks), -1, 2, 32)
    digits = np.stack([packed >> shift & 3 for shift in (0, 2, 4, 6)], axis=-2)
    codes = digits.reshape(len(blocks), -1).astype(np.int8) - np.int8(1)
    return _signed_blocks(codes, np.repeat(_halves(blocks[..., 64:])[..., 0], 2, axis=1), 128)


@dataclass(frozen=True)
class TensorType:
    """A type of tensor."""

    name: str
    #: Number in a file.
    number: int
    #: Elements of a row that are stored together, and their bytes.
    block: int
    bytes: int
    #: Blocks of the rows ``[rows, blocks, bytes]`` as a 4-bit matrix of the same values, where the machine has that form.
    to_blocks: Callable[[Bytes], BlockMatrix] | None = None
    #: Its bytes ``[rows, bytes of a row]`` as floats, by the format's own library. None: ``to_blocks`` knows the values.
    to_floats: Callable[[Bytes], Float] | None = None

    def floats(self, data: Bytes, shape: tuple[int, ...]) -> Float:
        """Values of a tensor."""
        rows = data.reshape(math.prod(shape[:-1]), -1)
        if self.to_floats is not None:
            return np.asarray(self.to_floats(rows), np.float32).reshape(shape)
        assert self.to_blocks is not None
        return self.to_blocks(rows.reshape(len(rows), -1, self.bytes)).dense().reshape(shape)

    def matrix(self, data: Bytes, shape: tuple[int, int]) -> Float | BlockMatrix:
        """A matrix in 4-bit blocks if its type has that form, else as floats."""
        return self.floats(data, shape) if self.to_blocks is None else self.to_blocks(data.reshape(shape[0], -1, self.bytes))


#: Types of other programs. I2_S is taken apart by :mod:`.gguf_i2s`.
_FOREIGN = {
    kind.number: kind for kind in (
        TensorType("I2_S", I2_S, 4, 1), TensorType("Q2_0", Q2_0, 64, 18, _q2_0), TensorType("PQ2_0", PQ2_0, 128, 34, _q2_0),
        TensorType("PTQ1_0", PTQ1_0, 128, 28, _ptq1_0),
    )
}

#: Q2_0 of Prism's older files.
WIDE_Q2_0 = replace(_FOREIGN[Q2_0], block=128, bytes=34)

_BLOCKS = {"Q4_0": _q4_0, "Q4_1": _q4_1, "Q4_K": _q4_k, "TQ1_0": _tq1_0, "TQ2_0": _tq2_0}


def type_of(number: int) -> TensorType | None:
    """The type of a number; None where nobody knows its values."""
    import gguf

    if number in _FOREIGN:
        return _FOREIGN[number]
    try:
        kind: Any = gguf.GGMLQuantizationType(number)
        gguf.dequantize(np.zeros((1, gguf.GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
    except (ValueError, NotImplementedError):  # a number, or a type, that the library does not know
        return None
    block, size = gguf.GGML_QUANT_SIZES[kind]
    return TensorType(
        str(kind.name), number, int(block), int(size), _BLOCKS.get(kind.name), lambda rows: np.asarray(gguf.dequantize(rows, kind))
    )


def name_of(number: int) -> str:
    """The name of a type that has no values here."""
    import gguf

    known = {int(kind): str(kind.name) for kind in gguf.GGMLQuantizationType}
    return TILES.get(number) or known.get(number, "unknown")


def size_of(kind: TensorType, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor."""
    count = math.prod(shape)
    return count // 4 + _I2_S_TAIL if kind.number == I2_S else count // kind.block * kind.bytes
