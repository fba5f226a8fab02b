"""Float arithmetic units: the same bits as ``hwgen.golden.float32``, one operation each."""

from .add import FloatAdd
from .convert import FloatToInt, IntToFloat
from .divide import FloatDiv
from .e4m3 import FloatToE4m3
from .multiply import FloatMul
from .sqrt import FloatSqrt

__all__ = ["FloatAdd", "FloatDiv", "FloatMul", "FloatSqrt", "FloatToE4m3", "FloatToInt", "IntToFloat"]
