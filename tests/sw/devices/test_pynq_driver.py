"""Registers by name through PYNQ's driver, with a window that is a dictionary."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from hwgen.config import BuildConfig
from hwgen.registers import register_map
from tests.virtual_board import require_pynq

require_pynq()  # before what imports pynq, so that its absence skips this file

from hwgen.sw.devices.pynq_driver import INTERRUPT_SLICE, AcceleratorDriver
from hwgen.vlnv import VLNV


class Window(dict[int, int]):
    """As PYNQ's MMIO; what is read may have a sign."""

    def read(self, offset: int) -> int:
        value = self[offset]
        return value - (1 << 32) if value >> 31 else value

    def write(self, offset: int, value: int) -> None:
        self[offset] = value


def test_registers_by_name_and_number() -> None:
    driver: Any = AcceleratorDriver.__new__(AcceleratorDriver)
    driver.mmio = window = Window()
    driver.configure(config := BuildConfig(name="driven"))
    rows = register_map(config)
    for number, row in enumerate(rows):
        for index in range(row.count):
            driver.write_register(row.name, 0xFFFF_0000 + 1000 * number + index, index)
    assert sorted(window) == sorted(row.offset + i * row.step for row in rows for i in range(row.count))
    for number, row in enumerate(rows):
        for index in range(row.count):
            assert driver.read_register(row.name, index) == 0xFFFF_0000 + 1000 * number + index
        assert driver.read_register(row.name) == window[row.offset] & 0xFFFF_FFFF


def test_the_first_of_an_array_is_meant() -> None:
    driver: Any = AcceleratorDriver.__new__(AcceleratorDriver)
    driver.mmio = window = Window()
    driver.configure(BuildConfig())
    driver.write_register("TOKEN", 7)
    assert dict(window) == {0x1000: 7} and driver.read_register("TOKEN") == 7
    assert AcceleratorDriver.bindto == ["hwgen:hwgen:accelerator:1.0"] == [VLNV]


def test_pauses_between_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    """A twentieth of the time waited so far, a millisecond at most; an interrupt is waited for 30 ms, but not across a network."""
    driver: Any = AcceleratorDriver.__new__(AcceleratorDriver)
    slept: list[float] = []
    monkeypatch.setattr("hwgen.sw.devices.pynq_driver.time.sleep", slept.append)
    driver.device = SimpleNamespace(has_capability=lambda what: False)
    for elapsed in (0.0, 0.01, 0.02, 5.0):
        driver.pause(elapsed)
    assert slept == [0, 0.0005, 0.001, 0.001] and INTERRUPT_SLICE == 0.03
    waited: list[int] = []

    async def wait() -> None:
        waited.append(1)

    driver.irq = SimpleNamespace(wait=wait)
    loop = asyncio.new_event_loop()  # whatever earlier tests have left
    monkeypatch.setattr(asyncio.get_event_loop_policy(), "get_event_loop", lambda: loop)
    driver.pause(1.0)
    loop.close()
    assert waited == [1] and len(slept) == 4
    driver.device.has_capability = lambda what: what == "REMOTE"
    driver.pause(1.0)
    assert waited == [1] and len(slept) == 5 and driver.interrupt is None


def test_pauses_where_no_interrupt_can_be_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a thread that runs an event loop, and in one that has none: polls go on with pauses."""
    driver: Any = AcceleratorDriver.__new__(AcceleratorDriver)
    slept: list[float] = []
    monkeypatch.setattr("hwgen.sw.devices.pynq_driver.time.sleep", slept.append)
    driver.device = SimpleNamespace(has_capability=lambda what: False)

    async def wait() -> None:
        raise AssertionError("nobody waits")

    driver.irq = SimpleNamespace(wait=wait)

    async def poll() -> None:
        driver.pause(0.01)

    asyncio.run(poll())
    assert slept == [0.0005]

    def none() -> asyncio.AbstractEventLoop:
        raise RuntimeError("There is no current event loop in thread 'Thread-1'.")

    monkeypatch.setattr(asyncio.get_event_loop_policy(), "get_event_loop", none)
    driver.pause(0.02)
    assert slept == [0.0005, 0.001]


def test_an_interrupt_that_is_lost_costs_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody sleeps besides."""
    driver: Any = AcceleratorDriver.__new__(AcceleratorDriver)
    slept, waits = list[float](), list[float]()
    monkeypatch.setattr("hwgen.sw.devices.pynq_driver.time.sleep", slept.append)
    driver.device = SimpleNamespace(has_capability=lambda what: False)
    driver.irq = SimpleNamespace(wait=lambda: "never")

    async def wait_for(what: Any, seconds: float) -> None:
        assert what == "never"
        waits.append(seconds)
        raise asyncio.TimeoutError

    monkeypatch.setattr(asyncio, "wait_for", wait_for)
    loop = asyncio.new_event_loop()
    monkeypatch.setattr(asyncio.get_event_loop_policy(), "get_event_loop", lambda: loop)
    driver.pause(1.0)
    loop.close()
    assert (waits, slept) == ([0.03], [])
