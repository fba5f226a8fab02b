"""4-bit matrices of float ones while a model is read, a matrix at a time, kept under the cache directory by their content."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...errors import HwgenError
from ...files import cache_directory, replacing
from ...formats import Float
from ...int4 import GROUPS, Int4Matrix, pack_nibbles, round_to_nearest, unpack_nibbles
from ...weights import Matrix
from .tensors import TensorFile, write_tensors

__all__ = ["RECIPE", "Keep", "OnTheFly", "as_stored"]

#: What is done to a float matrix, in words; changes with what is done, for it is part of the name under which a result is kept.
RECIPE = "to nearest in groups of {group} with scale and midpoint"

#: What becomes of a matrix that was read: its place for people (``layer 3 down``), what it is stored as, and the matrix.
Keep = Callable[[str, str, Matrix], Matrix]


def as_stored(where: str, kind: str, matrix: Matrix) -> Matrix:
    """Leaves every matrix as it is."""
    return matrix


@dataclass
class OnTheFly:
    """Makes 4-bit matrices of float ones. ``group``: inputs that share a scale."""

    group: int = 32
    progress: Callable[[str], None] = lambda text: None
    #: Matrices that had floats, by what they are stored as.
    kinds: Counter[str] = field(default_factory=Counter)
    #: |W - W'|^2 and |W|^2 of all of them.
    lost: float = 0.0
    whole: float = 0.0
    #: How many came out of the cache.
    found: int = 0

    def __call__(self, where: str, kind: str, matrix: Matrix) -> Matrix:
        if not isinstance(matrix, np.ndarray):
            return matrix
        self.kinds[kind] += 1
        try:
            stored = self._cached(np.ascontiguousarray(matrix))
        except ValueError as error:
            raise HwgenError(
                "architecture", f"{where} cannot be made 4-bit: {error}",
                f"choose a model whose sizes are multiples of {min(GROUPS)}",
            ) from error
        difference = stored.dense()
        difference -= matrix
        self.lost += float(np.vdot(difference, difference))
        self.whole += float(np.vdot(matrix, matrix))
        return stored

    def _cached(self, w: Float) -> Int4Matrix:
        digest = hashlib.sha256(f"{RECIPE} {self.group} {w.shape}".encode())
        digest.update(w.data)
        path = cache_directory() / "int4" / f"{digest.hexdigest()}.safetensors"
        if path.exists():
            try:
                file = TensorFile(path)
                parts: list[Any] = [file.stored(name) for name in ("codes", "scales", "midpoints", "row_scale")]
                matrix = Int4Matrix(unpack_nibbles(parts[0]), self.group, *parts[1:])
            except (HwgenError, KeyError, ValueError):
                path.unlink(missing_ok=True)  # damaged: made again
            else:
                self.found += 1
                return matrix
        matrix = round_to_nearest(w, self.group, midpoints=True)
        assert matrix.midpoints is not None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as part:
                write_tensors(part, {
                    "codes": ("U8", pack_nibbles(matrix.codes)), "scales": ("U8", matrix.scales),
                    "midpoints": ("I8", matrix.midpoints), "row_scale": ("F32", matrix.row_scale),
                })
        except OSError as error:  # the result is as good without
            self.progress(f"the cache {path.parent} cannot be written ({error.strerror}); set HWGEN_CACHE to another directory")
        return matrix

    def report(self) -> None:
        """Says what was done, if anything was."""
        if not self.kinds:
            return
        kinds = ", ".join(f"{count} of {kind}" for kind, count in sorted(self.kinds.items()))
        loss = (self.lost / self.whole) ** 0.5 if self.whole else 0.0
        kept = f"; {self.found} of them from {cache_directory() / 'int4'}" if self.found else ""
        self.progress(
            f"{self.kinds.total()} matrices ({kinds}) made 4-bit {RECIPE.format(group=self.group)}: relative error of the weights "
            f"{loss:.2%}{kept}"
        )
