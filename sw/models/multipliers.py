"""Granite's four multipliers, folded into a llama's weights, gains and epsilon: nothing is multiplied on line.

With the embedding multiplier m, the residual multiplier r, the attention multiplier a and the logits divided by s:

* The residual stream is kept divided by m. Norms do not see that where their epsilon is divided by m^2; so the embedding stays as
  the file has it, exact in bfloat16, and what o and down add to the stream is multiplied by r / m.
* Rows of q are multiplied by a sqrt(head_dim), for scores are divided by sqrt(head_dim).
* The final gain is divided by s.

Factors that are powers of two, as most published a and s are, change no mantissa; others cost one rounding of a float32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ...formats import Float
from ...shape import ModelShape
from ...weights import LayerWeights, scale_rows
from .config_json import unsupported
from .fields import Fields

__all__ = ["Multipliers", "fold_multipliers", "read_multipliers"]


@dataclass(frozen=True)
class Multipliers:
    """As ``config.json`` has them."""

    embedding: float
    residual: float
    attention: float
    logits: float


def read_multipliers(fields: Fields) -> Multipliers:
    """Those of a GraniteConfig, 1 where one is absent."""
    values = []
    for name in ("embedding_multiplier", "residual_multiplier", "attention_multiplier", "logits_scaling"):
        value = fields.get(name, 1.0)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 1e-6 < value < 1e6:
            raise unsupported(name, value, "a positive number")
        values.append(float(value))
    return Multipliers(*values)


def fold_multipliers(
    by: Multipliers, shape: ModelShape, layers: list[LayerWeights], norm: Float
) -> tuple[list[LayerWeights], Float]:
    """Layers and the final gain with the multipliers in them."""
    factors = {"q": by.attention * math.sqrt(shape.head_dim), **dict.fromkeys(("o", "down"), by.residual / by.embedding)}
    folded = [
        layer.with_matrices({
            name: scale_rows(m, np.full(m.shape[0], factor, np.float32))
            for name, factor in factors.items() for m in [layer.matrices[name]]
        })
        for layer in layers
    ]
    return folded, np.asarray(norm / np.float32(by.logits), np.float32)
