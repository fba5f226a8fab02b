"""What the keys of a model have in common, measured on a text in the machine's arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..config import BuildConfig
from ..key_centers import KeyCenters
from ..weights import ModelWeights
from .decoder import GoldenModel

__all__ = ["measure_key_centers"]


def measure_key_centers(
    weights: ModelWeights, config: BuildConfig, windows: Sequence[Sequence[int]],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[KeyCenters, float]:
    """Of windows of token ids, each from position 0; and the share of the squared length of keys that is their mean's. ``weights``
    as the machine takes them, of any format of keys. ``progress(done, total)`` counts windows.
    """
    if not windows or not all(windows):
        raise ValueError("windows must be one at least, of a token each")
    squares = 0.0
    model = GoldenModel(replace(weights, kv="k8v8"), config)
    sums, firsts = (torch.zeros(weights.shape.layers, weights.shape.kv_rows, dtype=torch.float64) for _ in range(2))
    for done, window in enumerate(windows, 1):
        keys: list[Tensor] = model.rotated_keys(torch.tensor([list(window)]))
        of_layers = torch.stack(keys)[:, 0].flatten(2).double()
        sums += of_layers.sum(1)
        firsts += of_layers[:, 0]
        squares += float(of_layers.pow(2).sum())
        progress(done, len(windows))
    positions = sum(map(len, windows))
    mean, first = sums / positions, firsts / len(windows)
    share = float(mean.pow(2).sum()) * positions / squares if squares else 0.0
    return KeyCenters(mean.float().numpy(), first.float().numpy()), share
