"""One GGUF file: its fields and its tensors as floats or as 4-bit blocks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import HwgenError
from ...formats import Float
from ...int4 import BlockMatrix
from . import gguf_i2s
from .fields import Fields
from .gguf_reader import AGAIN as _FIX
from .gguf_reader import GgufTensor, open_parts
from .gguf_types import I2_S

__all__ = ["GgufFile"]

#: Fields that the reader itself makes or uses, and those of split files, which are used here.
_OWN = ("GGUF.", "split.", "general.alignment")


class _Lazy:
    """A field that is decoded when it is asked for, and shown by its value."""

    def __init__(self, entry: Any) -> None:
        self.contents = entry.contents

    def __repr__(self) -> str:
        return repr(self.contents())


class GgufFile:
    """A GGUF file, or the parts of a split one. What is damaged or missing is reported as a bad checkpoint."""

    def __init__(self, path: Path) -> None:
        self.path = path
        fields, self._tensors = open_parts(path)
        self.fields = Fields({n: _Lazy(f) for n, f in fields.items() if not n.startswith(_OWN)}, str(path))
        #: How digits of I2_S tensors lie, which no field says.
        self.i2_s = gguf_i2s.PUBLISHED

    # ---- fields --------------------------------------------------------------------------------------------------
    def get(self, name: str, default: Any = None) -> Any:
        """A field, or ``default``."""
        entry = self.fields.get(name)
        return default if entry is None else entry.contents()

    def require(self, name: str) -> Any:
        """A field that must be there."""
        value = self.get(name)
        if value is None:
            raise HwgenError("checkpoint", f"{self.path} has no field {name}", _FIX)
        return value

    def listed(self, name: str, kind: type, default: list[Any] | None = None) -> list[Any]:
        """An array of texts or whole numbers. Without a ``default`` it must be there."""
        value = self.require(name) if default is None else self.get(name, default)
        if not isinstance(value, list) or not all(type(item) is kind for item in value):
            raise HwgenError("checkpoint", f"{self.path}: {name} must be an array of {kind.__name__}", _FIX)
        return value

    def token_id(self, name: str) -> int | None:
        """A field with the number of a token, or None where there is none."""
        value = self.get(name)
        if value is not None and (type(value) is not int or value < 0):
            raise HwgenError("checkpoint", f"{self.path}: {name} must be a token id, not {value!r}", _FIX)
        return value

    def single(self, name: str, default: Any = None) -> int:
        """A whole number that may be given for each layer; all must be equal. Without a ``default`` it must be there."""
        value = self.require(name) if default is None else self.get(name, default)
        values = set(value) if isinstance(value, list) else {value}
        found = values.pop() if len(values) == 1 else None
        if isinstance(found, bool) or not isinstance(found, int):
            raise HwgenError(
                "architecture", f"{self.path}: {name} must be one number for all layers, not {value!r}",
                "choose a model whose layers are alike",
            )
        return found

    def number(self, name: str) -> float:
        """A float32 field that must be there, as the short decimal number it was made of, which is what config.json has."""
        value = self.require(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= np.finfo(np.float32).max:
            raise HwgenError("checkpoint", f"{self.path}: {name} must be a number, not {value!r}", _FIX)
        return float(str(np.float32(value)))

    # ---- tensors -------------------------------------------------------------------------------------------------
    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def names(self) -> list[str]:
        return list(self._tensors)

    def kind(self, name: str) -> str:
        """GGML type of a tensor, such as ``"Q4_1"``."""
        return self._find(name).kind.name

    def _find(self, name: str) -> GgufTensor:
        if name not in self._tensors:
            raise HwgenError("checkpoint", f"{self.path} has no tensor {name}", _FIX)
        return self._tensors[name]

    def _checked(self, name: str, shape: tuple[int, ...]) -> GgufTensor:
        tensor = self._find(name)
        if tensor.shape != shape:
            raise HwgenError(
                "checkpoint", f"{self.path}: tensor {name} has shape {tensor.shape}, {shape} expected",
                "the fields and the tensors of the file belong to different models",
            )
        return tensor

    def shape(self, name: str) -> tuple[int, ...]:
        """Rows first, as numpy has it."""
        return self._find(name).shape

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.bytes for tensor in self._tensors.values())

    def stored(self, name: str) -> npt.NDArray[np.uint8]:
        """The bytes of a tensor."""
        return self._find(name).stored()

    def _not_finite(self, name: str) -> HwgenError:
        return HwgenError("checkpoint", f"{self.path}: tensor {name} holds values that are not finite", _FIX)

    def floats(self, name: str, shape: tuple[int, ...]) -> Float:
        """A tensor of any type in float32."""
        tensor = self._checked(name, shape)
        if tensor.kind.number == I2_S:
            rows, inputs = shape if len(shape) == 2 else (1, shape[0])
            try:
                trits, scale = gguf_i2s.read(tensor.stored(), rows, inputs, self.i2_s)
            except ValueError as error:
                raise HwgenError(
                    "checkpoint", f"{self.path}: tensor {name} of type I2_S {error}", "take TQ1_0, TQ2_0 or the safetensors"
                ) from error
            values = (trits * scale).reshape(shape)
        else:
            values = tensor.kind.floats(tensor.stored(), shape)
        if not np.isfinite(values).all():
            raise self._not_finite(name)
        return values

    def first_rows(self, name: str, rows: int) -> Float:
        """The first rows of a matrix in float32."""
        tensor = self._find(name)
        count, inputs = min(rows, tensor.shape[0]), tensor.shape[1]
        return tensor.kind.floats(tensor.stored()[: inputs // tensor.kind.block * tensor.kind.bytes * count], (count, inputs))

    def matrix(self, name: str, shape: tuple[int, int]) -> Float | BlockMatrix:
        """A linear layer: types with 4-bit blocks as those, everything else in float32."""
        tensor = self._checked(name, shape)
        if tensor.kind.to_blocks is None:
            return self.floats(name, shape)
        try:
            return tensor.kind.matrix(tensor.stored(), shape)
        except ValueError as error:  # a scale that is not finite
            raise self._not_finite(name) from error
