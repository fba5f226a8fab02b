"""Devices: everything the host knows about an accelerator. The same host code runs on every implementation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ...config import BuildConfig
from ...contract import check_contract
from ...errors import HwgenError
from ...registers import MAGIC, register
from ...rounding import align

__all__ = ["Allocator", "Device", "DeviceTimeout", "StopFailed", "attach", "windows"]

Bytes = npt.NDArray[np.uint8]

#: Bytes that :meth:`Device.fill` asks for at a time.
WINDOW = 1 << 24


def windows(memory: Bytes) -> Iterator[Bytes]:
    """``memory`` in pieces of `WINDOW` bytes."""
    return (memory[first : first + WINDOW] for first in range(0, memory.size, WINDOW))


class DeviceTimeout(HwgenError):
    """A pass did not end in time; ``state`` says where the machine stands."""

    def __init__(self, message: str, state: str = "") -> None:
        super().__init__("device", message, "run `hwgen verify` to find the operator that hangs")
        self.state = state


class StopFailed(HwgenError):
    """A pass goes on though the machine was told to stop: it may read and write its memory for good."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            "device", f"the machine does not stop: {reason}; its memory is not given back",
            "load the bitstream again; if that fails, switch the board off and on",
        )


class Device(Protocol):
    """An accelerator with its memory."""

    #: What the accelerator was generated from.
    config: BuildConfig
    #: ``"golden"``, ``"verilator"`` or ``"pynq"``.
    name: str
    #: True where time is counted in simulated cycles.
    simulated: bool

    def allocate(self, size: int) -> int:
        """Address of ``size`` new bytes, 4096-byte aligned."""

    def clear(self) -> None:
        """Give back all that :meth:`allocate` gave. No pass may be running."""

    def write(self, address: int, data: Bytes) -> None:
        """Copy bytes to memory."""

    def fill(self, address: int, size: int, read: Callable[[Bytes], None]) -> None:
        """Let ``read`` fill all of ``size`` new bytes at ``address``, the beginning of what :meth:`allocate` gave: window by
        window, first to last, in place where the memory is of this machine.
        """

    def read(self, address: int, size: int) -> Bytes:
        """Copy bytes from memory."""

    def view(self, address: int, size: int) -> Bytes:
        """Bytes of memory to be read before the next pass, and not written: in place where the memory is of this machine, else a
        copy.
        """

    def write_register(self, offset: int, value: int) -> None:
        """Write a 32-bit register."""

    def read_register(self, offset: int) -> int:
        """Read a 32-bit register."""

    def read_registers(self, offset: int, count: int) -> list[int]:
        """Read ``count`` registers that lie one behind the other."""

    def wait(self, timeout: float, look: Callable[[], bool] | None = None) -> bool:
        """True when the interrupt is raised; :class:`DeviceTimeout` after ``timeout`` seconds of the device's own time. Calls
        ``look``, which may use registers, now and then until that: False as soon as it returns True. Waiting may go on then.
        """

    def stop(self) -> None:
        """End the pass that runs, if one does, at the next operator boundary at the latest. Nothing of it reads or writes memory
        when this returns; STATUS then says that the pass has ended. :class:`StopFailed` when the machine does not stop.
        """


class Allocator:
    """Hands out 4096-byte aligned pieces of one memory, front to back."""

    STEP = 4096

    def __init__(self, base: int, size: int) -> None:
        self._first = self.next = align(base, self.STEP)
        self.end = base + size

    def clear(self) -> None:
        """Take back everything."""
        self.next = self._first

    def allocate(self, size: int) -> int:
        if size < 1:
            raise ValueError(f"size must be at least 1, not {size!r}")
        address = self.next
        if address + size > self.end:
            raise HwgenError(
                "device",
                f"the device memory has {self.end - address} bytes left, {size} are needed",
                "use a device with more memory, or a smaller model or context",
            )
        self.next = align(address + size, self.STEP)
        return address


def attach(device: Device) -> None:
    """Refuse a device that is not an accelerator of ours, or one of another contract."""
    config = device.config

    def read(name: str) -> int:
        return device.read_register(register(config, name).offset)

    magic = read("MAGIC")
    if magic != MAGIC:
        raise HwgenError(
            "device",
            f"register 0 reads 0x{magic:08x}, 0x{MAGIC:08x} expected: no hwgen accelerator answers there",
            "load the bitstream, and check the base address",
        )
    check_contract(config, read("VERSION"), read("HASH_HIGH") << 32 | read("HASH_LOW"), f"device {device.name!r}")
