"""A simulated PYNQ board around the Verilated accelerator: in process, or behind PYNQ's own remote protocol."""

from __future__ import annotations

from .bitstream import make_bitstream, parse_bitstream
from .board import BusError, VirtualBoard
from .memory import OutOfMemory

__all__ = ["BusError", "OutOfMemory", "VirtualBoard", "make_bitstream", "parse_bitstream"]
