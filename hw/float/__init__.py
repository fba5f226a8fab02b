"""Float arithmetic units: the same bits as ``hwgen.golden.float32``, one operation each."""

from .add import FloatAdd
from .convert import FloatToInt, IntToFloat
from .divide import FloatDiv
from .e4m3 import E4M3_BITS, E4m3Integers, FloatToE4m3, e4m3_integer
from .multiply import FloatMul
from .sqrt import FloatSqrt

__all__ = [
    "E4M3_BITS", "E4m3Integers", "FloatAdd", "FloatDiv", "FloatMul", "FloatSqrt", "FloatToE4m3", "FloatToInt", "IntToFloat",
    "e4m3_integer",
]
