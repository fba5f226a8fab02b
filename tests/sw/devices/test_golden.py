"""The golden machine as a device, with a stand-in for the machine: when it runs, who is asked, and when it has ended."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hwgen.config import BuildConfig
from hwgen.errors import HwgenError
from hwgen.registers import Control, register
from hwgen.sw.devices.device import WINDOW, Allocator, DeviceTimeout, attach, windows
from hwgen.sw.devices.golden import GoldenDevice
from hwgen.sw.devices.open import open_device

pytest.importorskip("torch", reason="the golden model needs torch")

CONFIG = BuildConfig()


class Machine:
    """Takes two steps a pass; ``loop`` passes a doorbell."""

    def __init__(self, loop: int = 0) -> None:
        self.registers = SimpleNamespace(passes=0, loop=loop, write=lambda offset, value: value == 1)
        self.irq, self.taken, self.written = False, 0, list[tuple[int, int]]()

    def steps(self) -> Iterator[int]:
        for number in range(2 * max(1, self.registers.loop)):
            self.taken += 1
            self.registers.passes += number % 2
            self.irq = number + 1 == 2 * max(1, self.registers.loop)
            yield number

    def write_register(self, offset: int, value: int) -> None:
        self.written.append((offset, value))


def device_of(machine: Machine) -> GoldenDevice:
    device = GoldenDevice(CONFIG, memory_bytes=1 << 16)
    device.machine = machine  # type: ignore[assignment]  # a stand-in
    return device


def test_a_doorbell_runs_a_pass() -> None:
    machine = Machine()
    device = device_of(machine)
    device.write_register(0, 0)
    assert machine.taken == 0, "no doorbell"
    with pytest.raises(DeviceTimeout, match="no pass was started"):
        device.wait(1.0)
    device.write_register(0, 1)
    assert machine.taken == 2 and device.wait(1.0) is True
    steps = device.hold_next_pass()
    device.write_register(0, 1)
    assert machine.taken == 2 and list(steps()) == [0, 1] and machine.taken == 4
    device.write_register(0, 1)
    assert machine.taken == 6, "one pass alone is held"


@pytest.mark.parametrize(("answers", "taken"), [([True], 2), ([False, True], 4), ([False, False, True], 6)])
def test_a_loop_runs_while_somebody_waits(answers: list[bool], taken: int) -> None:
    """Who waits may look behind every pass, and waits no longer when something is there."""
    machine, asked = Machine(3), list(answers)
    device = device_of(machine)
    device.write_register(0, 1)
    assert machine.taken == 0
    assert device.wait(1.0, lambda: asked.pop(0)) is False and machine.taken == taken and not asked
    assert device.wait(1.0) is True and machine.taken == 6


def test_nobody_looks_and_a_stop() -> None:
    machine = Machine(3)
    device = device_of(machine)
    device.write_register(0, 1)
    assert device.wait(1.0, lambda: False) is True and machine.taken == 6
    device.write_register(0, 1)
    device.stop()
    assert machine.written == [(register(CONFIG, "CONTROL").offset, Control.STOP)] and machine.taken == 12


def test_memory() -> None:
    """Buffers at multiples of 4096, none at 0; bytes as they were written."""
    device = open_device("golden", CONFIG, memory_bytes=6 * 4096)
    assert (device.name, device.simulated, device.config, device.build_seconds) == ("golden", True, CONFIG, 0)
    assert [device.allocate(size) for size in (1, 4096, 4097, 4096)] == [4096, 8192, 12288, 20480]
    with pytest.raises(HwgenError, match="has 0 bytes left, 1 are needed"):
        device.allocate(1)
    device.clear()
    assert device.allocate(10) == 4096
    data = np.arange(10, dtype=np.uint8)
    device.write(4100, data.reshape(2, 5))
    copy, view = device.read(4100, 10), device.view(4100, 10)
    device.write(4100, data[::-1])
    assert np.array_equal(copy, data) and np.array_equal(view, data[::-1])
    device.fill(4096, 20, lambda window: window.fill(3))
    assert device.read(4096, 21).tolist() == [3] * 20 + [0]
    device.write_register(0x1000, 7)
    device.write_register(0x20, 640)
    assert device.read_registers(0x20, 2) == [640, 0] and device.read_register(0x20) == 640


def test_a_memory_front_to_back() -> None:
    allocator = Allocator(100, 3 * 4096)
    assert [allocator.allocate(4096), allocator.allocate(1)] == [4096, 8192] and allocator.end == 100 + 3 * 4096
    with pytest.raises(HwgenError, match="the device memory has 100 bytes left, 101 are needed") as caught:
        allocator.allocate(101)
    assert caught.value.kind == "device" and allocator.allocate(100) == 12288
    with pytest.raises(ValueError, match="size must be at least 1, not 0"):
        allocator.allocate(0)
    large: Any = np.zeros(WINDOW + 5, np.uint8)
    assert [window.size for window in windows(large)] == [WINDOW, 5] and not list(windows(large[:0]))


@pytest.mark.parametrize(("name", "change", "message"), [
    ("MAGIC", 1, "register 0 reads 0x6e677769, 0x6e677768 expected"), ("VERSION", 1, "'golden' has contract version 10"),
    ("HASH_LOW", 1, "contract hash"), ("HASH_HIGH", 1, "contract hash"), ("RUNS", 1, ""),
])
def test_another_accelerator(name: str, change: int, message: str) -> None:
    device = GoldenDevice(CONFIG, memory_bytes=1 << 16)
    at = register(CONFIG, name).offset
    read = device.read_register
    device.read_register = lambda offset: read(offset) + change * (offset == at)  # type: ignore[method-assign]  # a fault
    if not message:
        attach(device)
        return
    with pytest.raises(HwgenError, match=message):
        attach(device)
