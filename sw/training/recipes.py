"""Recipes: a llama model in, the same model with INT4 matrices out, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import HwgenError
from ...formats import Float
from ...golden.float_llama import FloatLlama
from ...int4 import GROUPS, Int4Matrix, round_to_nearest
from ...weights import LayerWeights, ModelWeights, dense, scale_rows
from . import RECIPES
from .rounding import round_gptq
from .scaling import InputStatistics, channel_scales, fold_inputs, rotary_factors

__all__ = ["Quantized", "calibration_windows", "needs_calibration", "quantize"]

#: Matrices that share their inputs, and what feeds them.
_INPUTS = ((("q", "k", "v"), "input_layernorm"), (("o",), "v"), (("gate", "up"), "post_attention_layernorm"), (("down",), "up"))


@dataclass(frozen=True)
class Quantized:
    """A quantised model."""

    weights: ModelWeights
    #: Relative error of every matrix, by layer: |W - W'| / |W| in the scaling in which it was quantised.
    errors: list[dict[str, float]]


def needs_calibration(recipe: str) -> bool:
    return recipe not in ("exact-q4_1", "rtn")


def _relative_error(w: Float, stored: Int4Matrix) -> float:
    norm = float(np.linalg.norm(w))
    return float(np.linalg.norm(w - stored.dense())) / norm if norm else 0.0


def _exact(weights: ModelWeights) -> list[dict[str, Int4Matrix]]:
    """Matrices by layer, codes as they are."""
    try:
        return [{name: _as_int4(matrix) for name, matrix in layer.matrices.items()} for layer in weights.on_machine().layers]
    except ValueError as error:
        raise HwgenError(
            "usage", f"exact-q4_1 takes 4-bit matrices, but {error}",
            "take a GGUF file with Q4_K, Q4_1 or Q4_0 matrices, or another recipe",
        ) from error


class _Calibration:
    """The residual stream of the calibration text, carried from layer to layer through what was quantised so far."""

    def __init__(self, weights: ModelWeights, windows: Tensor) -> None:
        self.weights = weights
        self.stream = torch.from_numpy(weights.embedding)[windows]

    def _run(self, index: int, layer: LayerWeights, observe: Callable[[int, str, Tensor], None] | None = None) -> Tensor:
        shape = self.weights.shape
        alone = replace(shape, layers=1, unrotated=(0,) if index in shape.unrotated else ())
        return FloatLlama(replace(self.weights, shape=alone, layers=(layer,), key_centers=None)).run(self.stream, observe)

    def observe(self, index: int, layer: LayerWeights) -> tuple[dict[str, InputStatistics], Tensor]:
        """Inputs of the matrices (of the first of those that share theirs), and rotated keys."""
        statistics: dict[str, InputStatistics] = {}
        keys = torch.zeros(0)

        def see(_: int, name: str, x: Tensor) -> None:
            nonlocal keys
            if name == "rotated_k":
                keys = x
            elif name in ("q", "o", "gate", "down"):
                statistics[name] = InputStatistics.of(x)

        self._run(index, layer, see)
        return statistics, keys

    def advance(self, index: int, layer: LayerWeights) -> None:
        self.stream = self._run(index, layer)


def _scale(floats: dict[str, Any], statistics: dict[str, InputStatistics], weights: ModelWeights, group: int) -> None:
    """FireQ's scaling of input channels, in place. The fed matrices first: their scales change rows of what is scaled later."""
    s = weights.shape
    for names, source in (_INPUTS[3], _INPUTS[1], _INPUTS[2], _INPUTS[0]):
        shared = (s.group, s.head_dim) if source == "v" else (1, 0)
        scales = channel_scales([floats[n] for n in names], statistics[names[0]], group, *shared)
        fold_inputs(floats, names, source, scales, s, weights.layer.bias_of.get(source))
        statistics[names[0]] = statistics[names[0]].scaled(torch.from_numpy(scales))


def quantize(
    weights: ModelWeights,
    recipe: str,
    group: int,
    windows: Tensor | None = None,
    *,
    midpoints: bool = False,
    progress: Callable[[str], None] = lambda text: None,
) -> Quantized:
    """Quantise every matrix. ``windows [n, length]`` are calibration tokens, which ``rtn`` and ``exact-q4_1`` can do without; with
    them every recipe but ``rtn`` scales the rotary pairs. `HwgenError` for a recipe that is not known or lacks its text, and for
    matrices that have no 4-bit form.
    """
    if recipe not in RECIPES:
        raise HwgenError("usage", f"there is no recipe {recipe!r}", f"give one of {', '.join(RECIPES)}")
    if needs_calibration(recipe) and windows is None:
        raise HwgenError("usage", f"recipe {recipe} needs a calibration text", "give --calibration FILE")
    odd = [(name, inputs) for name, (_, inputs) in weights.layer.matrices(weights.shape).items() if inputs % min(GROUPS)]
    if odd:
        raise HwgenError(
            "architecture", f"matrix {odd[0][0]} cannot be made 4-bit: it has {odd[0][1]} inputs, no multiple of {min(GROUPS)}",
            f"choose a model whose sizes are multiples of {min(GROUPS)}",
        )
    exact = _exact(weights) if recipe == "exact-q4_1" else []
    calibration = None if windows is None or recipe == "rtn" else _Calibration(weights, windows)
    layers: list[LayerWeights] = []
    errors: list[dict[str, float]] = []
    for i, layer in enumerate(weights.layers):
        progress(f"layer {i + 1} of {weights.shape.layers}")
        statistics, keys = calibration.observe(i, layer) if calibration else ({}, torch.zeros(0))
        # behind a norm of its own a head does not have the scales of its rows
        factors = rotary_factors(keys, weights.shape) if calibration and not weights.layer.head_norms else None
        floats = {name: dense(matrix) for name, matrix in layer.matrices.items()}
        gains, biases = layer.norms, dict(layer.biases)
        if exact:
            matrices = exact[i]
        else:
            floats |= {**gains, **biases}
            if recipe.startswith("fireq"):
                _scale(floats, statistics, weights, group)
            matrices = _round(floats, statistics, recipe, group, midpoints)
            gains, biases = ({name: floats[name] for name in part} for part in (gains, biases))
        errors.append({name: _relative_error(floats[name], matrix) for name, matrix in matrices.items()})
        if factors is not None:
            for name, factor in zip("kq", factors, strict=True):
                matrices[name] = _as_int4(scale_rows(matrices[name], factor))
                if name in weights.layer.bias_of:
                    bias = weights.layer.bias_of[name]
                    biases[bias] = np.asarray(biases[bias] * factor, np.float32)
        layers.append(LayerWeights(matrices=matrices, norms=gains, biases=biases))
        if calibration:
            calibration.advance(i, layers[-1])
    return Quantized(replace(weights, layers=tuple(layers)), errors)


def _as_int4(matrix: Any) -> Int4Matrix:
    assert isinstance(matrix, Int4Matrix)
    return matrix


def _round(
    floats: dict[str, Float], statistics: dict[str, InputStatistics], recipe: str, group: int, midpoints: bool
) -> dict[str, Int4Matrix]:
    if not recipe.endswith("gptq"):
        return {name: round_to_nearest(floats[name], group, midpoints=midpoints) for names, _ in _INPUTS for name in names}
    matrices: dict[str, Int4Matrix] = {}
    for names, _ in _INPUTS:
        together = round_gptq(np.concatenate([floats[n] for n in names]), statistics[names[0]].hessian, group)
        first = 0
        for name in names:
            rows = slice(first, first + len(floats[name]))
            matrices[name] = Int4Matrix(together.codes[rows], group, together.scales[rows], None, together.row_scale[rows])
            first = rows.stop
    return matrices


def calibration_windows(tokens: Sequence[int], length: int, limit: int) -> Tensor:
    """The first ``limit`` tokens as windows ``[n, length]``."""
    count = min(len(tokens), limit) // length
    if count < 1:
        raise HwgenError(
            "usage", f"the calibration text has {len(tokens)} tokens, at least {length} are needed", "give a longer text"
        )
    return torch.tensor(list(tokens[: count * length])).reshape(count, length)
