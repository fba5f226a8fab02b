"""Vector unit (NORM, DRAIN, ROPE) and the loader of rows from the ring (EMBED, PARAM, ROTARY)."""

from .loader import RingLoader
from .unit import VectorUnit

__all__ = ["RingLoader", "VectorUnit"]
