"""A model ready to compile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ...errors import HwgenError
from ...shape import ModelShape
from ...weights import ModelWeights
from .families import Family
from .four_bits import Keep, as_stored
from .key_centers import centers_path, read_centers
from .tokenizer import Tokenizer

__all__ = ["Decision", "Model", "ModelFiles", "check_tokens"]


@dataclass(frozen=True, kw_only=True)
class Model:
    """Weights of a model with its tokenizer."""

    #: Name printed in reports.
    name: str
    #: Directory or file it came from.
    path: Path
    family: Family
    weights: ModelWeights
    tokenizer: Tokenizer
    #: Token ids that end a generation.
    stop_tokens: tuple[int, ...] = field(default=())

    @property
    def shape(self) -> ModelShape:
        """Sizes and constants."""
        return self.weights.shape


@dataclass(frozen=True)
class Decision:
    """Something that was decided about a model."""

    what: str
    value: Any
    #: Field or file that it was read from, or what stands for one that is absent.
    source: str


@dataclass(frozen=True, kw_only=True)
class ModelFiles:
    """A model whose files were looked at and found fit: all of it but the weights, which nobody has read yet."""

    name: str
    path: Path
    family: Family
    shape: ModelShape
    tokenizer: Tokenizer
    stop_tokens: tuple[int, ...]
    #: File format and types of the matrices, for people.
    format: str
    #: Size of the weights' files.
    bytes: int
    decisions: tuple[Decision, ...]
    #: Reads the weights; what becomes of matrices is the second argument.
    read: Callable[[Callable[[str], None], Keep], ModelWeights]

    def load(self, progress: Callable[[str], None] = lambda text: None, keep: Keep = as_stored) -> Model:
        """The model with its weights."""
        weights = self.read(progress, keep)
        if self.centers is not None:
            weights = replace(weights, key_centers=read_centers(self.centers, self.shape))
        return Model(
            name=self.name, path=self.path, family=self.family, weights=weights, tokenizer=self.tokenizer,
            stop_tokens=self.stop_tokens,
        )

    @property
    def centers(self) -> Path | None:
        """File with the centers of its keys, where there is one."""
        path = centers_path(self.path)
        return path if path.is_file() else None


def check_tokens(tokenizer: Tokenizer, stop: Sequence[int], vocab: int, where: str) -> None:
    """Refuse a tokenizer with tokens that the embedding has no row for: one in a prompt would end every command differently."""
    last = tokenizer.largest
    if last >= vocab:
        raise HwgenError(
            "tokenizer", f"{where}: the tokenizer has a token {last} ({tokenizer.token(last)!r}), the embedding {vocab} rows",
            "take the tokenizer of the same checkpoint, or add rows to embedding and head",
        )
    beyond = [token for token in stop if not 0 <= token < vocab]
    if beyond:
        raise HwgenError(
            "tokenizer", f"{where}: the end token {beyond[0]} is no row of the embedding, which has {vocab}",
            "correct eos_token_id",
        )
