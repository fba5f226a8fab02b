"""Generator of FPGA accelerators for language models, with golden models, co-simulation and a host runtime.

What users need is here by name; each name is imported when it is used first, so that the contract alone stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .config import BuildConfig, ConfigError
from .errors import HwgenError

if TYPE_CHECKING:
    from .boards import Board, board_names, load_board
    from .registers import ENGINE_COUNTERS
    from .shape import ModelShape
    from .sim.board.local import SimulatedDevice
    from .sw.analysis.timeline import timeline_figure, write_perfetto
    from .sw.compiler.compile import compile_model
    from .sw.compiler.image import Image
    from .sw.compiler.pass_model import PassModel
    from .sw.devices.device import Device
    from .sw.devices.find_board import find_board
    from .sw.devices.golden import GoldenDevice
    from .sw.devices.pynq import PynqDevice
    from .sw.devices.verilator import VerilatorDevice
    from .sw.devices.virtual_board import virtual_board
    from .sw.models.bitnet import save_model
    from .sw.models.library import SOURCES, find_model, shipped_models
    from .sw.models.open import open_model
    from .sw.runtime.conversation import Conversation
    from .sw.runtime.engine import Engine
    from .sw.runtime.generation import Generation
    from .sw.runtime.llm import LLM, Answer
    from .sw.runtime.pages import Session
    from .sw.runtime.pass_trace import read_trace
    from .sw.runtime.prefix_cache import PrefixCache
    from .sw.runtime.sampling import Sampling
    from .sw.runtime.scheduler import Scheduler
    from .sw.verification.lock_step import verify_model
    from .weights import random_weights

__all__ = [
    "ENGINE_COUNTERS", "LLM", "SOURCES", "Answer", "Board", "BuildConfig", "ConfigError", "Conversation", "Device", "Engine",
    "Generation", "GoldenDevice", "HwgenError", "Image", "ModelShape", "PassModel", "PrefixCache", "PynqDevice", "Sampling",
    "Scheduler", "Session", "SimulatedDevice", "VerilatorDevice", "board_names", "compile_model", "find_board", "find_model",
    "load_board", "open_model", "random_weights", "read_trace", "save_model", "shipped_models", "timeline_figure",
    "verify_model", "virtual_board", "write_perfetto",
]

#: Module of the package -> names that it gives when they are used.
_HOMES = {
    "boards": ("Board", "board_names", "load_board"),
    "registers": ("ENGINE_COUNTERS",),
    "shape": ("ModelShape",),
    "sim.board.local": ("SimulatedDevice",),
    "sw.compiler.pass_model": ("PassModel",),
    "sw.analysis.timeline": ("timeline_figure", "write_perfetto"),
    "sw.compiler.compile": ("compile_model",),
    "sw.compiler.image": ("Image",),
    "sw.devices.device": ("Device",),
    "sw.devices.find_board": ("find_board",),
    "sw.devices.golden": ("GoldenDevice",),
    "sw.devices.pynq": ("PynqDevice",),
    "sw.devices.verilator": ("VerilatorDevice",),
    "sw.devices.virtual_board": ("virtual_board",),
    "sw.models.bitnet": ("save_model",),
    "sw.models.library": ("SOURCES", "find_model", "shipped_models"),
    "sw.models.open": ("open_model",),
    "sw.runtime.conversation": ("Conversation",),
    "sw.runtime.engine": ("Engine",),
    "sw.runtime.generation": ("Generation",),
    "sw.runtime.llm": ("LLM", "Answer"),
    "sw.runtime.pages": ("Session",),
    "sw.runtime.pass_trace": ("read_trace",),
    "sw.runtime.prefix_cache": ("PrefixCache",),
    "sw.runtime.sampling": ("Sampling",),
    "sw.runtime.scheduler": ("Scheduler",),
    "sw.verification.lock_step": ("verify_model",),
    "weights": ("random_weights",),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
