"""A model ready to compile."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ...shape import ModelShape
from ...weights import ModelWeights
from .families import Family
from .tokenizer import Tokenizer

__all__ = ["Model"]


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
