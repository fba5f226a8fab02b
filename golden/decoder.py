"""Bit-exact model of decoders of either number format: over whole token windows, and pass by pass over a cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..config import BuildConfig
from ..decoder import Combine, Stage, Values
from ..descriptors import Format
from ..formats import flush, identity_row, rotary_rows, round_bf16, score_constant, widen_bf16
from ..grouped import GroupedMatrix
from ..int4 import Int4Matrix
from ..key_centers import key_rows
from ..layout import KV_FORMATS, key_mixing_strides, mixing_strides
from ..ternary import TernaryMatrix
from ..weights import LayerWeights, Matrix, ModelWeights
from .float32 import fadd
from .head import digit_logits, nibble_logits
from .int4 import dequantize_rows, int4_matmul, norm_e4m3, quantize_e4m3, quantize_query_e4m3
from .linear import dequantize, drain, grouped_matmul, integer_matmul
from .norm import norm_heads, norm_quantize, quantize_int8
from .rotary import mix, quantize_kv, quantize_query, rotate, unmix
from .sequence_attention import attend_sequence

__all__ = ["GoldenModel", "GoldenSession"]

#: Integers and their scales.
Quantized = tuple[Tensor, Tensor]

#: ``attend(layer, query, keys, values) -> [batch, length, heads * head_dim]``.
Attend = Callable[[int, Quantized, Quantized, Quantized], Tensor]


class _TernaryLinear:
    """One ternary layer with its weights held in float32; its inputs are int8."""

    def __init__(self, matrix: TernaryMatrix) -> None:
        self.weights = torch.from_numpy(matrix.trits).float()
        self.scale = matrix.scale

    def __call__(self, activation: Quantized) -> Tensor:
        q, scale = activation
        return dequantize(integer_matmul(q.float(), self.weights, 127), scale, self.scale)


class _GroupedLinear:
    """One ternary layer with scales of groups, its weights in units of the scale of the matrix; its inputs are int8."""

    def __init__(self, matrix: GroupedMatrix) -> None:
        self.weights = torch.from_numpy(matrix.integers()).float()
        self.scale = matrix.scale

    def __call__(self, activation: Quantized) -> Tensor:
        q, scale = activation
        return dequantize(grouped_matmul(q.float(), self.weights), scale, self.scale)


class _Int4Linear:
    """One INT4 layer with its weights, in units of their row scales, held in float64; its inputs are e4m3."""

    def __init__(self, matrix: Int4Matrix) -> None:
        self.weights = torch.from_numpy(matrix.integers()).double()
        self.row_scale = torch.from_numpy(flush(matrix.row_scale))

    def __call__(self, activation: Quantized) -> Tensor:
        q, scale = activation
        return dequantize_rows(int4_matmul(q, self.weights), scale, self.row_scale)


def _linear(matrix: Matrix) -> Callable[[Quantized], Tensor]:
    if isinstance(matrix, TernaryMatrix):
        return _TernaryLinear(matrix)
    if isinstance(matrix, GroupedMatrix):
        return _GroupedLinear(matrix)
    assert isinstance(matrix, Int4Matrix)
    return _Int4Linear(matrix)


class _Norm:
    """Norm and quantisation with a gain."""

    def __init__(self, gain: Tensor, eps: float, function: Callable[[Tensor, Tensor, float, float], Quantized]) -> None:
        self.gain, self.eps, self.function = gain, eps, function
        self.inverse_n = float(np.float32(1.0 / gain.numel()))

    def __call__(self, x: Tensor) -> Quantized:
        return self.function(x, self.gain, self.inverse_n, self.eps)


@dataclass
class GoldenSession:
    """One sequence: its tokens, and the keys and values of every layer, as ``(codes, scales)`` of all positions so far: ``[1,
    length, kv_heads, head_dim]`` and ``[1, length, kv_heads]``.
    """

    tokens: list[int] = field(default_factory=list)
    keys: list[Quantized] = field(default_factory=list)
    values: list[Quantized] = field(default_factory=list)

    @property
    def position(self) -> int:
        return len(self.tokens)


class GoldenModel:
    """What the machine computes for a model, bit for bit, without its memory and its passes: how a sequence is cut into passes
    changes no bit.
    """

    def __init__(self, weights: ModelWeights, config: BuildConfig) -> None:
        w = weights.on_machine()
        self.shape, self.query, self.inputs = w.shape, w.query, w.layer.inputs
        self.kv_block = config.kv_block
        self._four_bits = tuple(bits in KV_FORMATS[w.kv] for bits in (Format.INT4_KEYS, Format.INT4_VALUES))
        #: What keys (and queries) are mixed by, and values.
        self._strides = tuple(
            strides(config, w.shape.head_dim) if bits else ()
            for strides, bits in zip((key_mixing_strides, mixing_strides), self._four_bits, strict=True)
        )
        #: What is in front of a stage with a gain, and of one without.
        self._norm, self._quantize = (norm_e4m3, quantize_e4m3) if w.engine == "int4" else (norm_quantize, quantize_int8)
        self._biases = [self._biases_of(layer) for layer in w.layers]
        self._head_gains = [[torch.from_numpy(flush(layer.norms[name])) for name in w.layer.head_norms] for layer in w.layers]
        rows = key_rows(config, w)
        #: What is added to rotated keys ``[layer, head, element]``, if anything is.
        self._key_rows = None if rows is None else torch.from_numpy(widen_bf16(rows)).reshape(w.shape.layers, -1, w.shape.head_dim)
        self._bias_of = w.layer.bias_of
        self._embedding = torch.from_numpy(round_bf16(w.embedding))
        self._linears = [{name: _linear(m) for name, m in layer.matrices.items()} for layer in w.layers]
        self._norms = [self._norms_of(layer) for layer in w.layers]
        self._last_norm = _Norm(torch.from_numpy(flush(w.norm)), w.shape.rms_eps, self._norm)
        self._grouped_head = None if w.grouped_head is None else _GroupedLinear(w.grouped_head)
        self._logits_of = nibble_logits if w.engine == "int4" else digit_logits
        w8, bits = w.quantized_head()
        self._head = torch.from_numpy(w8)
        self._head_scale = torch.from_numpy(widen_bf16(bits))

    def _norms_of(self, layer: LayerWeights) -> list[Callable[[Tensor], Quantized]]:
        """What is in front of every group of stages."""
        norms: list[Callable[[Tensor], Quantized]] = []
        for stage, *_ in self.inputs:
            if stage.norm is not None:
                norms.append(_Norm(torch.from_numpy(flush(layer.norms[stage.norm])), self.shape.rms_eps, self._norm))
            else:
                norms.append(self._quantize)
        return norms

    @staticmethod
    def _biases_of(layer: LayerWeights) -> dict[str, Tensor]:
        """As the machine has them, in bfloat16."""
        return {name: torch.from_numpy(round_bf16(bias)) for name, bias in layer.biases.items()}

    # ---- heads ---------------------------------------------------------------------------------------------------
    def _quantize_query(self, y: Tensor) -> Quantized:
        e4m3 = self.query == "e4m3"
        constant = score_constant(self.shape.head_dim, e4m3, len(self._strides[0]))
        return (quantize_query_e4m3 if e4m3 else quantize_query)(mix(y, self._strides[0]), constant)

    def _quantize_kv(self, kind: int, y: Tensor) -> Quantized:
        return quantize_kv(mix(y, self._strides[kind]), four_bits=self._four_bits[kind])

    # ---- layers --------------------------------------------------------------------------------------------------
    @torch.no_grad()
    def _hidden(self, tokens: Tensor, first: int, attend: Attend) -> Tensor:
        """Residual stream after the last layer of ``tokens [batch, length]`` at positions from ``first``."""
        state = {Values.RESIDUAL: self._embedding[tokens]}
        rows = torch.from_numpy(rotary_rows(self.shape, np.arange(first, first + tokens.shape[1])))[:, None]
        still = torch.from_numpy(identity_row(self.shape.head_dim))
        for i, (linears, norms) in enumerate(zip(self._linears, self._norms, strict=True)):
            for stages, norm in zip(self.inputs, norms, strict=True):
                activation = norm(state[stages[0].reads])
                for stage in stages:
                    results = [self._biased(i, name, linears[name](activation)) for name in stage.matrices]
                    if stage.writes is Values.HEADS:
                        q, k, v = (y.reshape(*tokens.shape, -1, self.shape.head_dim) for y in results)
                        q, k = (rotate(x, still if i in self.shape.unrotated else rows) for x in self._normed_heads(i, (q, k)))
                        k = k if self._key_rows is None else fadd(k, self._key_rows[i])
                        attended = attend(i, self._quantize_query(q), self._quantize_kv(0, k), self._quantize_kv(1, v))
                        attended = unmix(attended.reshape(*tokens.shape, -1, self.shape.head_dim), self._strides[1])
                        state[Values.ATTENDED] = attended.flatten(-2)
                    else:
                        state[stage.writes] = self._drain(stage, results[0], state.get(stage.writes))
        return state[Values.RESIDUAL]

    def _biased(self, layer: int, name: str, y: Tensor) -> Tensor:
        """Results of a matrix with its bias, if it has one."""
        return drain(y, "add", self._biases[layer][self._bias_of[name]]) if name in self._bias_of else y

    def _normed_heads(self, layer: int, heads: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        """Queries and keys behind their norms, if they have some."""
        s, gains = self.shape, self._head_gains[layer]
        inverse_n = float(np.float32(1.0 / s.head_dim))
        return tuple(norm_heads(x, g, inverse_n, s.rms_eps) for x, g in zip(heads, gains, strict=True)) if gains else heads

    def _drain(self, stage: Stage, y: Tensor, other: Tensor | None) -> Tensor:
        return drain(y, self.shape.activation if stage.combine is Combine.ACTIVATE else stage.combine.value, other)

    def _logits(self, hidden: Tensor) -> Tensor:
        q, scale = self._last_norm(hidden)
        if self._grouped_head is not None:
            return self._grouped_head((q, scale))
        return self._logits_of(q, scale, self._head, self._head_scale)

    # ---- whole windows -------------------------------------------------------------------------------------------
    def hidden(self, tokens: Tensor) -> Tensor:
        """Residual stream after the last layer ``[batch, length, hidden]`` of windows from position 0."""

        def attend(layer: int, query: Quantized, keys: Quantized, values: Quantized) -> Tensor:
            return attend_sequence(query, keys, values, self.kv_block)

        return self._hidden(tokens, 0, attend)

    @torch.no_grad()
    def logits(self, tokens: Tensor) -> Tensor:
        """Logits after every token ``[batch, length, vocab]`` of windows from position 0."""
        return self._logits(self.hidden(tokens))

    @torch.no_grad()
    def rotated_keys(self, tokens: Tensor) -> list[Tensor]:
        """Keys of every layer as they are cached, times their scales: ``[batch, length, kv_heads, head_dim]``, of windows from
        position 0.
        """
        found = []

        def attend(layer: int, query: Quantized, keys: Quantized, values: Quantized) -> Tensor:
            found.append(keys[0].float() * keys[1][..., None])
            return attend_sequence(query, keys, values, self.kv_block)

        self._hidden(tokens, 0, attend)
        return found

    # ---- one sequence --------------------------------------------------------------------------------------------
    @torch.no_grad()
    def forward(self, session: GoldenSession, tokens: Sequence[int]) -> Tensor:
        """Tokens behind those the session has; logits ``[vocab]`` after the last one."""
        if not tokens:
            raise ValueError("tokens must be at least one")
        hidden = self._hidden(torch.tensor([list(tokens)]), session.position, lambda *args: self._attend(session, *args))
        session.tokens.extend(tokens)
        return self._logits(hidden[0, -1])

    def _attend(self, session: GoldenSession, layer: int, query: Quantized, keys: Quantized, values: Quantized) -> Tensor:
        for kept, new in ((session.keys, keys), (session.values, values)):
            if layer == len(kept):
                kept.append(new)
            else:
                kept[layer] = torch.cat((kept[layer][0], new[0]), 1), torch.cat((kept[layer][1], new[1]), 1)
        return attend_sequence(query, session.keys[layer], session.values[layer], self.kv_block)
