"""One GGUF file: its fields and its tensors as floats or as 4-bit blocks. Reading is the ``gguf`` package's."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import HwgenError
from ...int4 import BlockMatrix
from ...packages import needs
from .fields import Fields

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


#: Fields that the reader itself makes or uses, and those of split files, which are used here.
_OWN = ("GGUF.", "split.", "general.alignment")

#: Types of matrices that are not in the format's own library, with what to do.
_FOREIGN = {
    36: ("I2_S", "take the safetensors checkpoint, or a file with TQ1_0 or TQ2_0 matrices"),
    38: ("TL1", "its tiles are described by a file of bitnet.cpp that is not inside; take TQ1_0, TQ2_0 or the safetensors"),
    42: ("Q2_0", "take the safetensors checkpoint, or a file with TQ1_0 or TQ2_0 matrices"),
    142: ("PQ2_0", "take the safetensors checkpoint"),
    143: ("PTQ1_0", "take the safetensors checkpoint"),
}

#: Name of a part of a split file.
_PART = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.IGNORECASE | re.DOTALL)


def _open_reader(path: Path) -> Any:
    """The library's reader of one file."""
    with needs("reading GGUF files", "hwgen[gguf]"):
        import gguf
    try:
        with path.open("rb") as file:
            start = file.read(1 << 12)
        foreign_maker = b"bitnet-" in start
        if start[:4] == b"GGUF" and len(start) >= 8 and start[4:6] == b"\0\0":  # the version, 2 or 3, of a big-endian file
            raise HwgenError(
                "checkpoint", f"{path} is a big-endian GGUF file; a little-endian one is wanted",
                "convert it with `gguf-convert-endian FILE little`",
            )
        return gguf.GGUFReader(path)
    except OSError as error:
        raise HwgenError("checkpoint", f"{path} cannot be read: {error.strerror}", _FIX) from error
    except HwgenError:
        raise
    except Exception as error:  # the reader lets numpy's errors through
        foreign = re.search(r"(\d+) is not a valid GGMLQuantizationType", str(error))
        if foreign:
            number = int(foreign[1])
            name, fix = _FOREIGN.get(number, ("unknown", "take a file with Q4_0, Q4_1, Q8_0, F16, BF16 or F32 tensors"))
            raise HwgenError(
                "architecture", f"{path}: tensors of type {number} ({name}) are not supported", fix
            ) from error
        tiles = ", or its matrices are of type TL2 of bitnet.cpp (take TQ1_0, TQ2_0 or the safetensors)" if foreign_maker else ""
        raise HwgenError("checkpoint", f"{path} is truncated{tiles or ' or no GGUF file'}: {error}", _FIX) from error


def _part_paths(path: Path, count: int) -> list[Path]:
    """The files of a split model, of which ``path`` is one."""
    named = _PART.fullmatch(path.name)
    if named is None or int(named["count"]) != count:
        raise HwgenError(
            "checkpoint", f"{path} is one of {count} files of a split model, but its name lacks -0000N-of-{count:05}.gguf",
            "give the parts their names back, or merge them with `llama-gguf-split --merge`",
        )
    paths = [path.with_name(f"{named['stem']}-{i + 1:05}-of-{count:05}.gguf") for i in range(count)]
    for part in paths:
        if not part.exists():
            raise HwgenError("checkpoint", f"{part} is missing, one of {count} files of a split model", "download every part")
    return paths


class _Lazy:
    """A field that is decoded when it is asked for, and shown by its value."""

    def __init__(self, entry: Any) -> None:
        self.contents = entry.contents

    def __repr__(self) -> str:
        return repr(self.contents())


class GgufFile:
    """A GGUF file, or the parts of a split one, mapped read-only. What is damaged or missing is reported as a bad checkpoint.
    """

    def __init__(self, path: Path) -> None:
        with needs("reading GGUF files", "hwgen[gguf]"):
            import gguf
        self.path = path
        reader = _open_reader(path)
        self._tensors: dict[str, Any] = {}
        self._dequantize = gguf.dequantize
        count = self._contents(reader, "split.count", 1)
        readers = [reader] if count <= 1 else [_open_reader(part) for part in _part_paths(path, count)]
        for number, part in enumerate(readers):
            if count > 1 and (self._contents(part, "split.no", -1), self._contents(part, "split.count", -1)) != (number, count):
                raise HwgenError("checkpoint", f"{path}: part {number + 1} of {count} is a part of another model", _FIX)
            for tensor in part.tensors:
                if tensor.name in self._tensors:
                    raise HwgenError("checkpoint", f"{path}: two parts have a tensor {tensor.name}", _FIX)
                self._tensors[tensor.name] = tensor
        expected = self._contents(readers[0], "split.tensors.count", len(self._tensors))
        if count > 1 and expected != len(self._tensors):
            raise HwgenError("checkpoint", f"{path}: the parts hold {len(self._tensors)} tensors, {expected} expected", _FIX)
        #: Fields of the first part, which has all of them.
        self.fields = Fields({n: _Lazy(f) for n, f in readers[0].fields.items() if not n.startswith(_OWN)}, str(path))

    @staticmethod
    def _contents(reader: Any, name: str, default: int) -> int:
        entry = reader.fields.get(name)
        return default if entry is None else int(entry.contents())

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
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not np.isfinite(value):
            raise HwgenError("checkpoint", f"{self.path}: {name} must be a number, not {value!r}", _FIX)
        return float(str(np.float32(value)))

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
