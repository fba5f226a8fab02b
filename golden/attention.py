"""Online-softmax attention over blocks of int8 keys and values, in fixed point to base 2."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from ..numerics import EXP2_ONE, SCORE_BITS, SCORE_FRACTION, exp2_table
from .float32 import constant, fadd, fdiv, fmul, int_to_f32, round_int

__all__ = ["AttentionState", "exp2"]

#: Below every score: the running maximum before the first block.
_LOWEST = -(1 << (SCORE_BITS - 1))

#: Whole powers of two after which exp2() is 0.
_LAST_SHIFT = 16


#: The first difference whose power is 0.
_ZERO_FROM = (_LAST_SHIFT + 1) << SCORE_FRACTION


@cache
def _exp2_values() -> Tensor:
    """What :func:`exp2` is of 0 to `_ZERO_FROM`, int32: 2^(-f / 1024) of the fraction f by the table with its interpolation, 16
    fraction bits, then shifted by the whole part and rounded.
    """
    base, slope = (torch.tensor(column) for column in exp2_table())
    d = torch.arange(_ZERO_FROM)
    f, shift = d & ((1 << SCORE_FRACTION) - 1), d >> SCORE_FRACTION
    v = base[f >> 4] - ((slope[f >> 4] * (f & 15) + 8) >> 4)
    return torch.nn.functional.pad((v + (1 << shift)) >> (shift + 1), (0, 1)).to(torch.int32)


def exp2(d: Tensor) -> Tensor:
    """2^-(d / 1024) with 15 fraction bits, int32, of ``d >= 0`` int32; 0 from d = 17 * 1024 on."""
    return _exp2_values()[d.clamp(max=_ZERO_FROM)]


#: int8 keys or values, and their scales.
Heads = tuple[Tensor, Tensor]


@dataclass
class AttentionState:
    """Running softmax of queries ``[..., queries]`` over the blocks of keys seen so far."""

    #: Largest score, int32 ``[..., queries]``.
    maximum: Tensor
    #: Weighted sum of values, and behind them the sum of the probabilities, float32 ``[..., queries, head_dim + 1]``.
    sums: Tensor

    @classmethod
    def initial(cls, shape: torch.Size, head_dim: int) -> AttentionState:
        return cls(torch.full(shape, _LOWEST, dtype=torch.int32), torch.zeros(*shape, head_dim + 1))

    def attend(self, q8: Tensor, q_scale: Tensor, keys: Heads, values: Heads, valid: Tensor) -> None:
        """One block of those that :meth:`attend_blocks` takes: no dimension of blocks in its arguments."""
        (k8, k_scale), (v8, v_scale) = keys, values
        block = (k8.unsqueeze(-3), k_scale.unsqueeze(-2)), (v8.unsqueeze(-3), v_scale.unsqueeze(-2))
        self.attend_blocks(q8, q_scale, *block, valid)

    def attend_blocks(self, q8: Tensor, q_scale: Tensor, keys: Heads, values: Heads, valid: Tensor) -> None:
        """Blocks, one after the other. ``q8 [..., queries, d]``, ``q_scale [..., queries]``; ``keys`` and ``values``: int8 ``[...,
        blocks, n, d]`` and scales ``[..., blocks, n]`` (bf16 values in float32); ``valid`` bool, broadcasts to ``[..., blocks,
        queries, n]``.

        Queries are int8, or int32 where they are e4m3 values in units of 2^-9. Queries without a valid key keep their state:
        their probabilities are 0 and the correction is 1.
        """
        (k8, k_scale), (v8, v_scale) = keys, values
        kind = torch.float32 if q8.dtype == torch.int8 else torch.float64  # holds every sum exactly
        if kind == torch.float32 and k8.shape[-1] * 127 * 127 >= 1 << 24:
            raise ValueError(f"head_dim must be below 1041 (exact dot products in float32), not {k8.shape[-1]!r}")
        dot = (q8.to(kind).unsqueeze(-3) @ k8.to(kind).transpose(-1, -2)).float()
        scale = q_scale[..., None, :, None]
        score = round_int(fmul(fmul(dot, k_scale.unsqueeze(-2)), scale), SCORE_BITS, SCORE_FRACTION)
        best = torch.where(valid, score, _LOWEST).amax(dim=-1)
        m = torch.cat((self.maximum.unsqueeze(-2), best), -2).cummax(dim=-2).values  # before, and behind every block
        p = torch.where(valid, exp2((m[..., 1:, :, None] - score).clamp_(min=0)), 0)
        c = int_to_f32(exp2(m[..., 1:, :] - m[..., :-1, :])) * (1.0 / EXP2_ONE)

        weight, exponent = _value_weights(p, v_scale, valid)
        product = (weight.double() @ v8.double()).float()  # exact sum, one rounding
        power = (exponent << 23).view(torch.float32)
        parts = torch.cat((fmul(product, power.unsqueeze(-1)), int_to_f32(p.sum(dim=-1)).unsqueeze(-1)), -1)
        for correction, part in zip(c.unsqueeze(-1).unbind(-3), parts.unbind(-3), strict=True):
            self.sums = fadd(fmul(self.sums, correction), part)
        self.maximum = m[..., -1, :]

    def result(self) -> Tensor:
        """Attention output ``[..., queries, head_dim]``."""
        return fmul(self.sums[..., :-1], fdiv(constant(1.0), self.sums[..., -1:]))


def _value_weights(p: Tensor, v_scale: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities times value scales, aligned to the largest scale of the block: ``(W int32 [..., queries, n], E
    [..., queries])``.

    ``W * 2^(E - 127)`` is ``p * v_scale``, up to rounding.
    """
    bits = v_scale.contiguous().view(torch.int32)
    field = bits >> 23
    mantissa = torch.where(field > 0, 128 | ((bits >> 16) & 127), 0)
    exponent = torch.where(valid, field.unsqueeze(-2), 0).amax(dim=-1).expand(p.shape[:-1])
    shift = (7 + exponent.unsqueeze(-1) - field.unsqueeze(-2)).clamp(7, 31)  # below 7 only where not valid
    half = torch.ones_like(shift) << (shift - 1)
    return (p * mantissa.unsqueeze(-2) + half) >> shift, exponent.contiguous()
