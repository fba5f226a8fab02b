"""Registers by name through PYNQ's driver, with a window that is a dictionary."""

from __future__ import annotations

from typing import Any

from hwgen.config import BuildConfig
from hwgen.registers import register_map
from tests.virtual_board import require_pynq

require_pynq()  # before what imports pynq, so that its absence skips this file

from hwgen.sw.devices.pynq_driver import AcceleratorDriver


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
