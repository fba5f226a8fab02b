"""The clock of a board, by registers and by the count of cycles."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from hwgen.boards import load_board
from hwgen.sw.verification import selftest_clock
from hwgen.sw.verification.selftest_clock import check_clock

BOARD = load_board("kv260")

#: A PLL of 1.5 GHz.
PLL = 90 << 8 | 1 << 16


def device(divisor: int, simulated: bool = False) -> Any:
    control = 1 << 24 | 1 << 16 | divisor << 8
    return SimpleNamespace(read_word=lambda at: control if at == 0xFF5E_00C0 else PLL, simulated=simulated)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Any:
    return lambda mhz: monkeypatch.setattr(selftest_clock, "measure", lambda device: mhz)


def test_right(measured: Any) -> None:
    measured(250.3)
    text, data, fix = check_clock(device(6), BOARD)
    assert not fix and "249.997 MHz by registers" in text and "250.3 MHz by its count (within 3%)" in text
    assert data == {"built_mhz": 250.0, "register_mhz": pytest.approx(249.9975), "measured_mhz": 250.3}


def test_registers_are_wrong(measured: Any) -> None:
    measured(0)  # it is not come to
    text, _, fix = check_clock(device(15), BOARD)
    assert "99.999 MHz, the clock of a Kria board that no overlay has set" in text and "fclk0_mhz = 250" in fix
    text, _, fix = check_clock(device(5), BOARD)
    assert "299.997 MHz, the build" in text and fix


@pytest.mark.parametrize("mhz", [100.0, 241.0, 259.0])
def test_the_count_is_wrong(measured: Any, mhz: float) -> None:
    """The registers say one thing, the fabric does another."""
    measured(mhz)
    text, data, fix = check_clock(device(6), BOARD)
    assert f"counts {mhz:.1f} million cycles a second" in text and fix and data["measured_mhz"] == mhz


def test_nothing_to_time(measured: Any) -> None:
    measured(None)
    text, data, fix = check_clock(device(6), BOARD)
    assert "too busy" in text and data["measured_mhz"] is None and not fix
    text, _, fix = check_clock(device(6, simulated=True), BOARD)
    assert "simulated, so not timed" in text and not fix
    assert check_clock(SimpleNamespace(simulated=True), BOARD) == ("there is no clock to look at", {}, "")  # type: ignore[arg-type]  # no clock
    slow = replace(BOARD, config=replace(BOARD.config, clock_mhz=100.0))
    assert not check_clock(device(15, simulated=True), slow)[2]
