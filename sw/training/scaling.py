"""Scaling of channels that leaves a layer's function as it is and makes it easier to quantise: what FireQ (arXiv 2505.20839) does.

Everything is folded into weights and gains before the machine runs; nothing is scaled on line.

* Input channels: columns of a matrix times s, what feeds them over s. Behind a norm that is its gain; before the output projection
  the rows of the value projection; before the down projection the rows of the up projection.
* Rotary: a pair (j, j + d/2) of the keys of a head times f, of the queries that meet them over f. Rotation mixes a pair's members
  only with each other, so a factor they share commutes with it, and lies in the rows of both projections, where it costs nothing:
  every row has a scale of its own. FireQ scales its three largest channels behind the rotation, each by its own factor; here their
  pairs take the factor of the larger member.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...formats import Float
from ...int4 import round_to_nearest
from ...shape import ModelShape

__all__ = ["InputStatistics", "channel_scales", "fold_inputs", "rotary_factors"]

#: Exponents tried for every kind of channel scale.
_EXPONENTS = (0.25, 0.5, 0.75, 1.0)

#: Channels of a head that are scaled by their own maximum.
_OUTLIERS = 3


@dataclass
class InputStatistics:
    """What a linear layer's inputs are like on the calibration text."""

    #: Sum of x^T x, ``[inputs, inputs]``.
    hessian: Tensor
    #: Largest and mean magnitude of every channel.
    largest: Tensor
    mean: Tensor

    @classmethod
    def of(cls, x: Tensor) -> InputStatistics:
        """Of inputs ``[batch, length, inputs]``."""
        rows = x.flatten(0, -2)
        return cls(rows.T @ rows, rows.abs().amax(dim=0), rows.abs().mean(dim=0))

    def scaled(self, scales: Tensor) -> InputStatistics:
        """Of the inputs over ``scales``."""
        return InputStatistics(self.hessian / (scales[:, None] * scales), self.largest / scales, self.mean / scales)


def _error(matrices: list[Float], scales: Float, moments: Float, group: int) -> float:
    """Squared error of the outputs, channels taken as independent."""
    total = 0.0
    for w in matrices:
        scaled = np.asarray(w * scales, np.float32)
        difference = (round_to_nearest(scaled, group).dense() - scaled) / scales
        total += float((np.square(difference, dtype=np.float64).sum(axis=0) * moments).sum())
    return total


def channel_scales(matrices: list[Float], statistics: InputStatistics, group: int, shared: int = 1, head_dim: int = 0) -> Float:
    """Scales ``[inputs]`` of matrices that share their inputs: of 1, c/max and c/mean of the weights, and max and mean of the
    inputs, each to several exponents, the one with the least error on the calibration text.

    ``shared`` heads of ``head_dim`` channels in a row must have the same scales (queries that share one value head).
    """
    weight = np.abs(np.concatenate(matrices))
    candidates = [1 / weight.max(axis=0).clip(1e-8), 1 / weight.mean(axis=0).clip(1e-8)]
    candidates += [statistics.largest.numpy().clip(1e-8), statistics.mean.numpy().clip(1e-8)]
    moments = statistics.hessian.diagonal().double().numpy()
    best = np.ones(weight.shape[1], np.float32)
    least = _error(matrices, best, moments, group)
    for base in candidates:
        for exponent in _EXPONENTS:
            scales = base**exponent
            if shared > 1:
                heads = scales.reshape(-1, shared, head_dim)
                scales = np.broadcast_to(np.exp(np.log(heads).mean(axis=1, keepdims=True)), heads.shape).reshape(-1)
            scales = (scales / np.sqrt(scales.max() * scales.min())).clip(1e-3, 1e3).astype(np.float32)
            error = _error(matrices, scales, moments, group)
            if error < least:
                best, least = scales, error
    return best


def fold_inputs(
    layer: dict[str, Float], names: tuple[str, ...], source: str, scales: Float, shape: ModelShape, bias: str | None = None
) -> None:
    """Scale the columns of ``names`` and divide their ``source`` (a gain, or the matrix whose rows feed them, with its ``bias``)
    in place.
    """
    for name in names:
        layer[name] = np.asarray(layer[name] * scales, np.float32)
    if source == "v":  # a value head feeds every query head of its group
        heads = scales.reshape(shape.kv_heads, shape.group, shape.head_dim)
        scales = heads[:, 0].reshape(-1)
    divisor = scales if layer[source].ndim == 1 else scales[:, None]
    layer[source] = np.asarray(layer[source] / divisor, np.float32)
    if bias is not None:
        layer[bias] = np.asarray(layer[bias] / scales, np.float32)


def rotary_factors(keys: Tensor, shape: ModelShape) -> tuple[Float, Float]:
    """Factors of the rows of the key and of the query projection, from rotated keys ``[batch, kv_heads, length, head_dim]``."""
    a, b = keys.chunk(2, dim=-1)
    norm = (a.square() + b.square()).sqrt().amax(dim=(0, 2))  # of a pair, the same before and behind the rotation
    largest = keys.abs().amax(dim=(0, 2))
    outliers = largest.argsort(dim=-1, descending=True)[:, :_OUTLIERS] % (shape.head_dim // 2)
    pair_largest = torch.maximum(*largest.chunk(2, dim=-1))
    norm = norm.scatter(1, outliers, pair_largest.gather(1, outliers)).clamp(min=1e-6)
    factor = torch.cat((1 / norm, 1 / norm), dim=-1) * norm.log().mean(dim=-1, keepdim=True).exp()
    query = (1 / factor).repeat_interleave(shape.group, dim=0)
    return factor.reshape(-1).float().numpy(), query.reshape(-1).float().numpy()
