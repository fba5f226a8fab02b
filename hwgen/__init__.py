"""Generator of FPGA accelerators for language models, with golden models, co-simulation and a host runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .config import BuildConfig, ConfigError
from .errors import HwgenError

if TYPE_CHECKING:
    from .sw.runtime.llm import LLM

__all__ = ["LLM", "BuildConfig", "ConfigError", "HwgenError"]


def __getattr__(name: str) -> object:
    if name == "LLM":  # imported when used, so that the contract alone stays light
        from .sw.runtime.llm import LLM

        return LLM
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
