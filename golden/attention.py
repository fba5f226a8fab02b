"""Online-softmax attention over blocks of int8 keys and values, in fixed point to base 2."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..numerics import EXP2_ONE, SCORE_BITS, SCORE_FRACTION, exp2_table
from .arithmetic import FLUSHED, ZERO, Array, arithmetic, is_contract, scalar
from .float32 import round_int

__all__ = ["AttentionState", "exp2", "scores"]

Int32 = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]

#: Below every score: the running maximum before the first block.
_LOWEST = -(1 << (SCORE_BITS - 1))

#: Whole powers of two after which exp2() is 0.
_LAST_SHIFT = 16


#: The first difference whose power is 0.
_ZERO_FROM = (_LAST_SHIFT + 1) << SCORE_FRACTION


@cache
def _exp2_values() -> Int32:
    """What :func:`exp2` is of 0 to `_ZERO_FROM`: 2^(-f / 1024) of the fraction f by the table with its interpolation, 16 fraction
    bits, then shifted by the whole part and rounded.
    """
    base, slope = (np.array(column) for column in exp2_table())
    d = np.arange(_ZERO_FROM)
    f, shift = d & ((1 << SCORE_FRACTION) - 1), d >> SCORE_FRACTION
    v = base[f >> 4] - ((slope[f >> 4] * (f & 15) + 8) >> 4)
    return np.append((v + (1 << shift)) >> (shift + 1), 0).astype(np.int32)


def _exp2(d: Int32) -> Int32:
    """:func:`exp2` of an array."""
    return _exp2_values().take(np.minimum(d, _ZERO_FROM))


def exp2(d: Tensor) -> Tensor:
    """2^-(d / 1024) with 15 fraction bits, int32, of ``d >= 0`` int32; 0 from d = 17 * 1024 on."""
    return torch.from_numpy(_exp2(d.numpy()))


#: int8 keys or values, and their scales.
Heads = tuple[Tensor, Tensor]


def scores(q8: Tensor, q_scale: Tensor, keys: Heads) -> Int32:
    """Of ``q8 [..., queries, d]``, ``q_scale [..., queries]`` with keys ``[..., blocks, n, d]`` and scales ``[..., blocks, n]``:
    ``[..., blocks, queries, n]``. Queries are int8, or int32 where they are e4m3 values in units of 2^-9.
    """
    k8, k_scale = keys
    kind = torch.float32 if q8.dtype == torch.int8 else torch.float64  # holds every sum exactly
    if kind == torch.float32 and k8.shape[-1] * 127 * 127 >= 1 << 24:
        raise ValueError(f"head_dim must be below 1041 (exact dot products in float32), not {k8.shape[-1]!r}")
    dot = (q8.to(kind).unsqueeze(-3) @ k8.to(kind).transpose(-1, -2)).float().numpy()
    of_keys, of_queries = k_scale.numpy(), q_scale.numpy()
    f = arithmetic(of_keys, of_queries)  # times integers, which are 0 or 1 at least
    scaled = f.mul(f.mul(dot, of_keys[..., None, :]), of_queries[..., None, :, None])
    found: Int32 = round_int(torch.from_numpy(scaled), SCORE_BITS, SCORE_FRACTION).numpy()
    return found


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

        Queries are those of :func:`scores`. One without a valid key keeps its state: its probabilities are 0 and the correction
        is 1.
        """
        (v8, v_scale), seen = values, valid.numpy()
        of_values = v_scale.numpy()
        score = np.where(seen, scores(q8, q_scale, keys), _LOWEST)
        before = self.maximum.numpy()[..., None, :]
        m = np.maximum.accumulate(np.concatenate((before, score.max(axis=-1)), axis=-2), axis=-2)  # and behind every block
        p = np.where(seen, _exp2(m[..., 1:, :, None] - score), 0)
        corrections = _exp2(m[..., 1:, :] - m[..., :-1, :]).astype(np.float32) * np.float32(1.0 / EXP2_ONE)

        weight, exponent = _value_weights(p, of_values, seen)
        product = (torch.from_numpy(weight).double() @ v8.double()).float().numpy()  # exact sum, one rounding
        parts = np.empty((*p.shape[:-1], product.shape[-1] + 1), np.float32)
        parts[..., :-1] = FLUSHED.mul(product, (exponent << 23).view(np.float32)[..., None])
        parts[..., -1] = p.sum(axis=-1)
        sums = _weighted(self.sums.numpy(), corrections, parts)
        self.sums, self.maximum = torch.from_numpy(sums), torch.from_numpy(m[..., -1, :].copy())

    def result(self) -> Tensor:
        """Attention output ``[..., queries, head_dim]``."""
        sums = self.sums.numpy()
        f = arithmetic(sums)
        return torch.from_numpy(f.mul(sums[..., :-1], f.div(scalar(1.0), sums[..., -1:])) + ZERO)


def _weighted(sums: Array, corrections: Array, parts: Array) -> Array:
    """``sums [..., queries, d]`` behind all blocks: of each, times the corrections ``[..., blocks, queries]``, plus the parts
    ``[..., blocks, queries, d]``.
    """
    factors, of_block = corrections[..., None], range(parts.shape[-3])
    products, results = np.empty_like(parts), np.empty_like(parts)
    last = sums
    for block in of_block:
        np.multiply(last, factors[..., block, :, :], out=products[..., block, :, :])
        last = np.add(products[..., block, :, :], parts[..., block, :, :], out=results[..., block, :, :])
    if not (is_contract(products) and is_contract(results)):
        last = sums
        for block in of_block:
            last = FLUSHED.add(FLUSHED.mul(last, factors[..., block, :, :]), parts[..., block, :, :])
    return last + ZERO


def _value_weights(p: Int32, v_scale: Array, valid: Mask) -> tuple[Int32, Int32]:
    """Probabilities times value scales, aligned to the largest scale of the block: ``(W int32 [..., queries, n], E
    [..., queries])``.

    ``W * 2^(E - 127)`` is ``p * v_scale``, up to rounding.
    """
    bits = v_scale.view(np.int32)
    field = bits >> 23
    mantissa = np.where(field > 0, 128 | (bits >> 16 & 127), 0)
    exponent = np.broadcast_to(np.where(valid, field[..., None, :], 0).max(axis=-1), p.shape[:-1])
    shift = np.minimum(np.maximum(7 + exponent[..., None] - field[..., None, :], 7), 31)  # below 7 only where not valid
    weights = p * mantissa[..., None, :] + (np.int32(1) << shift - 1) >> shift
    return weights, exponent
