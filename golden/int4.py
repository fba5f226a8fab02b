"""Operators of the INT4 x FP8 engine, bit for bit (``docs/numerics-int4.md``)."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..int4 import WEIGHT_MAX
from ..numerics import E4M3_LARGEST, E4M3_MAX, E4M3_UNITS
from .arithmetic import arithmetic, scalar
from .float32 import fmul, int_to_f32
from .norm import norm_scaled, scaled

__all__ = [
    "E4M3_CODES",
    "dequantize_rows",
    "e4m3_code_values",
    "e4m3_codes",
    "e4m3_integers",
    "e4m3_values",
    "int4_matmul",
    "norm_e4m3",
    "quantize_e4m3",
    "quantize_query_e4m3",
]

#: 1/448 with the factor 2^-9 of the integers in it.
_INVERSE = torch.tensor(1.0 / E4M3_LARGEST, dtype=torch.float32).item()

#: Codes of 8 bits.
E4M3_CODES = 256

#: In place of the value of a code that has none.
_NAN = 1 << 30


def e4m3_integers(x: Tensor) -> Tensor:
    """Nearest e4m3 value (ties to even, saturated to +-448) of float32 ``x``, times 512: int32."""
    units = np.minimum(np.maximum(x.contiguous().numpy(), np.float32(-E4M3_MAX)), np.float32(E4M3_MAX)) * np.float32(E4M3_UNITS)
    bits = units.view(np.int32)
    # four significant bits, as bf16 rounding keeps eight; a carry into the exponent is the right result
    normal = (bits + (0x7FFFF + (bits >> 20 & 1)) & ~0xFFFFF).view(np.float32)
    return torch.from_numpy(np.where(np.abs(units) < 8, np.rint(units), normal).astype(np.int32))


def e4m3_codes(integers: Tensor) -> Tensor:
    """The 8-bit codes, uint8, of values in units of 2^-9."""
    units = integers.numpy()
    return torch.from_numpy(_e4m3_codes()[np.abs(units)] | (units < 0).view(np.uint8) << np.uint8(7))


@cache
def _e4m3_codes() -> npt.NDArray[np.uint8]:
    """The code of every magnitude, in units of 2^-9, up to the largest; of one that is no e4m3 value anything."""
    magnitude = torch.arange(E4M3_LARGEST + 1, dtype=torch.int32)
    _, exponent = torch.frexp(magnitude.double())
    shift = (exponent - 4).clamp(min=0)
    mantissa = magnitude >> shift  # 8..15, or less for subnormals
    field = torch.where(mantissa >= 8, shift + 1, 0)
    return (field << 3 | mantissa & 7).to(torch.uint8).numpy()


def e4m3_values(codes: Tensor) -> Tensor:
    """Values in units of 2^-9, int32, of 8-bit codes; NaN codes are refused."""
    values = e4m3_code_values()[codes.to(torch.int32)]
    if bool((values == _NAN).any()):
        raise ValueError("codes must be finite, not 0x7f or 0xff")
    return values


@cache
def e4m3_code_values() -> Tensor:
    """Of every code the value in units of 2^-9, int32; something else where it has none."""
    c = torch.arange(E4M3_CODES, dtype=torch.int32)
    field, mantissa = c >> 3 & 15, c & 7
    magnitude = torch.where(field > 0, (mantissa | 8) << (field - 1).clamp(min=0), mantissa)
    return torch.where((c & 0x7F) == 0x7F, _NAN, torch.where(c >= 128, -magnitude, magnitude))


def quantize_e4m3(x: Tensor, scale: float = _INVERSE) -> tuple[Tensor, Tensor]:
    """QUANTIZE: ``x [..., n]`` -> ``(integers int32 [..., n], max |x| * scale [...])``; by ``scale`` as it is, together ``~ x``."""
    elements = x.numpy()
    f = arithmetic(elements, constants=(scale,))
    y, a = scaled(elements, float(E4M3_MAX), f)
    return e4m3_integers(torch.from_numpy(y)), torch.from_numpy(f.mul(a, scalar(scale))[..., 0])


def norm_e4m3(x: Tensor, gain: Tensor, inverse_n: float, eps: float) -> tuple[Tensor, Tensor]:
    """NORM: ``x [..., n]``, ``gain [n]`` -> ``(integers int32 [..., n], scale [...])``, together ``~ rmsnorm(x) * gain``."""
    y, scale = norm_scaled(x, gain, inverse_n, eps, float(E4M3_MAX), _INVERSE)
    return e4m3_integers(y), scale


def int4_matmul(activations: Tensor, weights: Tensor) -> Tensor:
    """LINEAR: exact ``activations [..., n] @ weights[rows, n].T``, int64.

    ``activations`` are e4m3 integers; ``weights`` are ``Int4Matrix.integers()``, in float64 or as integers.
    """
    if weights.shape[1] * E4M3_LARGEST * WEIGHT_MAX >= 1 << 53:
        raise ValueError(f"inputs must be fewer than {(1 << 53) // (E4M3_LARGEST * WEIGHT_MAX)} (exact in float64)")
    return (activations.double() @ weights.double().T).to(torch.int64)


def dequantize_rows(acc: Tensor, activation_scale: Tensor, row_scale: Tensor) -> Tensor:
    """First step of DRAIN: ``acc [..., rows]`` times ``row_scale [rows]``, then times ``activation_scale [...]``."""
    return fmul(fmul(int_to_f32(acc), row_scale), activation_scale.unsqueeze(-1))


def quantize_query_e4m3(y: Tensor, score_constant: float) -> tuple[Tensor, Tensor]:
    """Query heads ``y [..., d]`` -> ``(e4m3 integers int32 [..., d], scale [...])``; the scale leads to base-2 logarithms."""
    return quantize_e4m3(y, score_constant)
