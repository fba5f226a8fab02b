"""A device by name: the one place that knows every implementation."""

from __future__ import annotations

from ...config import BuildConfig
from ...errors import HwgenError
from .device import Device

__all__ = ["DEVICES", "open_device"]

#: Implementations that :func:`open_device` knows.
DEVICES = ("golden", "verilator", "pynq")


def open_device(name: str, config: BuildConfig, **options: object) -> Device:
    """A device by name; ``options`` go to its constructor."""
    if name == "golden":
        from .golden import GoldenDevice

        return GoldenDevice(config, **options)  # type: ignore[arg-type]  # passed on by name
    if name == "verilator":
        from .verilator import VerilatorDevice

        return VerilatorDevice(config, **options)  # type: ignore[arg-type]  # passed on by name
    if name == "pynq":
        from .pynq import PynqDevice

        return PynqDevice(config, **options)  # type: ignore[arg-type]  # passed on by name
    raise HwgenError("device", f"device {name!r} is unknown", f"use one of: {', '.join(DEVICES)}")
