"""One GGUF file: its fields and its tensors as floats or as 4-bit blocks. Reading is the ``gguf`` package's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import HwgenError
from ...int4 import BlockMatrix
from ...packages import needs

__all__ = ["GgufFile", "blocks_from_gguf"]

_FIX = "download the file again, or export it again"

Numbers = npt.NDArray[np.float32]

#: Elements of a 4-bit block.
_BLOCK = 32

#: Types whose blocks the machine takes as they are: numbers of half precision in front of the codes, and ``d`` and ``m`` of
#: ``w = d q + m`` from those numbers ``[..., number]``. Source: llama.cpp, ggml-common.h, ``block_q4_0`` and ``block_q4_1``.
_BLOCKS: dict[str, tuple[int, Callable[[Numbers], tuple[Numbers, Numbers]]]] = {
    "Q4_0": (1, lambda n: (n[..., 0], -8 * n[..., 0])),
    "Q4_1": (2, lambda n: (n[..., 0], n[..., 1])),
}


def blocks_from_gguf(q: npt.NDArray[np.uint8], d: npt.NDArray[np.float32], m: npt.NDArray[np.float32]) -> BlockMatrix:
    """``w = d q + m`` with ``q [rows, inputs]`` in 0..15, ``d`` and ``m [rows, inputs / 32]``, as codes -8..7 around a midpoint.

    Where d is negative the codes are mirrored, so that every scale is positive. The values do not change.
    """
    negative = d < 0
    mirrored = np.repeat(negative, _BLOCK, axis=1)
    codes = np.where(mirrored, 7 - q.astype(np.int8), q.astype(np.int8) - 8).astype(np.int8)
    midpoint = np.where(negative, m + 7 * d, m + 8 * d).astype(np.float32)
    return BlockMatrix(codes, _BLOCK, np.abs(d).astype(np.float32), midpoint if midpoint.any() else None)


class GgufFile:
    """A GGUF file, mapped read-only. What is damaged or missing is reported as a bad checkpoint."""

    def __init__(self, path: Path) -> None:
        with needs("reading GGUF files", "hwgen[gguf]"):
            import gguf
        self.path = path
        try:
            reader = gguf.GGUFReader(path)
        except OSError as error:
            raise HwgenError("checkpoint", f"{path} cannot be read: {error.strerror}", _FIX) from error
        except Exception as error:  # the reader lets numpy's errors through
            raise HwgenError("checkpoint", f"{path} is truncated or no GGUF file: {error}", _FIX) from error
        self._fields = reader.fields
        self._tensors = {tensor.name: tensor for tensor in reader.tensors}
        self._dequantize = gguf.dequantize

    # ---- fields --------------------------------------------------------------------------------------------------
    def get(self, name: str, default: Any = None) -> Any:
        """A field, or ``default``."""
        entry = self._fields.get(name)
        return default if entry is None else entry.contents()

    def require(self, name: str) -> Any:
        """A field that must be there."""
        value = self.get(name)
        if value is None:
            raise HwgenError("checkpoint", f"{self.path} has no field {name}", _FIX)
        return value

    # ---- tensors -------------------------------------------------------------------------------------------------
    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def names(self) -> list[str]:
        return list(self._tensors)

    def kind(self, name: str) -> str:
        """GGML type of a tensor, such as ``"Q4_1"``."""
        return str(self._find(name).tensor_type.name)

    def _find(self, name: str) -> Any:
        if name not in self._tensors:
            raise HwgenError("checkpoint", f"{self.path} has no tensor {name}", _FIX)
        return self._tensors[name]

    def _check(self, name: str, actual: tuple[int, ...], expected: tuple[int, ...]) -> None:
        if actual != expected:
            raise HwgenError(
                "checkpoint", f"{self.path}: tensor {name} has shape {actual}, {expected} expected",
                "the fields and the tensors of the file belong to different models",
            )

    def shape(self, name: str) -> tuple[int, ...]:
        """Rows first, as numpy has it."""
        return tuple(int(n) for n in reversed(self._find(name).shape))

    def floats(self, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """A tensor of any type in float32."""
        tensor = self._find(name)
        self._check(name, self.shape(name), shape)
        try:
            values = np.array(self._dequantize(tensor.data, tensor.tensor_type), np.float32)
        except NotImplementedError as error:
            raise HwgenError(
                "checkpoint", f"{self.path}: tensor {name} has type {self.kind(name)}, which is not supported",
                "take a file with F32, F16, BF16, Q8_0, Q4_0, Q4_1, TQ1_0 or TQ2_0 tensors",
            ) from error
        if not np.isfinite(values).all():
            raise HwgenError("checkpoint", f"{self.path}: tensor {name} holds values that are not finite", _FIX)
        return values.reshape(shape)

    def matrix(self, name: str, shape: tuple[int, int]) -> npt.NDArray[np.float32] | BlockMatrix:
        """A linear layer: types with 4-bit blocks as those, everything else in float32."""
        if self.kind(name) not in _BLOCKS:
            return self.floats(name, shape)
        self._check(name, self.shape(name), shape)
        numbers, of = _BLOCKS[self.kind(name)]
        header = 2 * numbers
        blocks = np.asarray(self._find(name).data).reshape(shape[0], shape[1] // _BLOCK, header + _BLOCK // 2)
        scales = np.ascontiguousarray(blocks[..., :header]).view(np.float16).astype(np.float32)
        if not np.isfinite(scales).all():
            raise HwgenError("checkpoint", f"{self.path}: tensor {name} holds values that are not finite", _FIX)
        packed = blocks[..., header:]
        q = np.concatenate((packed & 15, packed >> 4), axis=-1).reshape(shape)
        return blocks_from_gguf(q, *of(scales))
