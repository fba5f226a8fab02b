"""Centers of keys (`hwgen.key_centers`) in a file beside the weights of a model: measured once, used with keys of 4 bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...errors import HwgenError
from ...files import replacing
from ...formats import is_finite
from ...key_centers import KeyCenters
from ...shape import ModelShape
from .tensors import TensorFile, write_tensors

__all__ = ["CENTERS", "SUFFIX", "centers_path", "read_centers", "write_centers"]

#: What the name of the file ends with, behind that of a GGUF file; and its name in a checkpoint directory. A safetensors file,
#: with a name that nobody takes for weights.
SUFFIX = ".centers"
CENTERS = f"keys{SUFFIX}"

_NAMES = ("mean", "first")

#: Sums of as many elements as a head has are far from overflowing.
_LARGEST = 1e30


def centers_path(model: Path) -> Path:
    """Where the centers of the model in a directory or a GGUF file are, or would be."""
    return model / CENTERS if model.is_dir() else model.with_name(model.name + SUFFIX)


def write_centers(path: Path, centers: KeyCenters) -> None:
    """Whole or not at all."""
    try:
        with replacing(path) as part:
            write_tensors(part, {name: ("F32", getattr(centers, name)) for name in _NAMES})
    except OSError as error:
        raise HwgenError("model", f"{path} cannot be written: {error.strerror}", "check its permissions") from error


def read_centers(path: Path, shape: ModelShape) -> KeyCenters:
    """Those of a model of ``shape``."""
    fix = f"measure them again: hwgen model center, or remove {path.name}"
    file, size = TensorFile(path), (shape.layers, shape.kv_rows)
    found = {name: (file.kind(name), file.shape(name)) for name in file.names()}
    if found != dict.fromkeys(_NAMES, ("F32", size)):
        raise HwgenError("checkpoint", f"{path} is not of this model, whose keys are two tensors of F32 {size}", fix)
    values = [file.stored(name) for name in _NAMES]
    if not all(is_finite(array) and np.abs(array).max() < _LARGEST for array in values):
        raise HwgenError("checkpoint", f"{path} holds values that are no keys: not finite, or {_LARGEST:g} and more", fix)
    return KeyCenters(*values)
