"""Co-simulation: the Verilated accelerator with a DDR memory model, compiled to a library and driven through ctypes."""

from .accelerator import Record, RegisterError, SimulatedAccelerator, SimulationTimeout
from .board_timing import MemoryConditions, board_timing
from .dram import IDEAL, KV260, RANDOM, DramTiming, PortStatistics
from .toolchain import BuildFailed, ToolMissing
from .verilate import InterfaceMismatch, Probe, build_library

__all__ = [
    "IDEAL",
    "KV260",
    "RANDOM",
    "BuildFailed",
    "DramTiming",
    "InterfaceMismatch",
    "MemoryConditions",
    "PortStatistics",
    "Probe",
    "Record",
    "RegisterError",
    "SimulatedAccelerator",
    "SimulationTimeout",
    "ToolMissing",
    "board_timing",
    "build_library",
]
