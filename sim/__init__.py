"""Co-simulation: the Verilated accelerator with a DDR memory model, compiled to a library and driven through ctypes."""

from .accelerator import Record, RegisterError, SimulatedAccelerator, SimulationTimeout
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
    "PortStatistics",
    "Probe",
    "Record",
    "RegisterError",
    "SimulatedAccelerator",
    "SimulationTimeout",
    "ToolMissing",
    "build_library",
]
