"""A model ready to compile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import HwgenError
from ...shape import ModelShape
from ...weights import ModelWeights
from .families import Family
from .tokenizer import Tokenizer

__all__ = ["Model", "check_tokens"]


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
