"""Waiting, against registers that are made up and a clock that the test turns."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from hwgen.config import BuildConfig
from hwgen.descriptors import Descriptor, Opcode
from hwgen.errors import HwgenError
from hwgen.registers import Status, register
from hwgen.sw.devices import watch as watch_module
from hwgen.sw.devices.device import Bytes, DeviceTimeout
from hwgen.sw.devices.watch import PassWatch, WatchLimits

CONFIG = BuildConfig(clock_mhz=200.0)
BUSY, DONE = int(Status.BUSY), int(Status.DONE)


class Machine:
    """Registers by name as functions of the cycle counter; every poll takes ``step`` seconds."""

    def __init__(self, *, mhz: float = 200.0, step: float = 1e-3, read_seconds: float = 0.0) -> None:
        self.now, self.mhz, self.step, self.read_seconds = 100.0, mhz, step, read_seconds
        self.values: dict[str, Callable[[int], int]] = {
            "STATUS": lambda cycles: BUSY,
            "COUNT_CYCLES": lambda cycles: cycles & 0xFFFFFFFF,
            "COUNT_OPERATORS": lambda cycles: cycles >> 4,
        }
        self.names = {register(CONFIG, name).offset: name for name in ("STATUS", "COUNT_CYCLES", "COUNT_OPERATORS", "CURRENT",
                      "ERROR", "PROGRAM_LOW", "COUNT_STREAM_BEATS")}
        self.polls = 0

    def cycles(self) -> int:
        return round((self.now - 100.0) * self.mhz * 1e6)

    def read(self, offset: int) -> int:
        self.now += self.read_seconds
        name = self.names.get(offset, "")
        self.polls += name == "STATUS"
        return self.values.get(name, lambda cycles: 0)(self.cycles())

    def pause(self, elapsed: float) -> None:
        self.now += self.step

    def read_memory(self, address: int, size: int) -> Bytes:
        if address != 0x1000_0000 + 3 * 64:
            raise HwgenError("device", "no such memory")
        return np.frombuffer(Descriptor(opcode=Opcode.LINEAR, layer=7).pack(), np.uint8)

    def watch(self, *, simulated: bool = False, **limits: float) -> PassWatch:
        return PassWatch(
            CONFIG, self.read, self.read_memory, self.pause, simulated=simulated, limits=WatchLimits(**limits)  # type: ignore[arg-type]
        )


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    monkeypatch.setattr(watch_module.time, "monotonic", lambda: made.now)
    return made


def test_the_end_is_noticed(machine: Machine) -> None:
    machine.values["STATUS"] = lambda cycles: DONE if cycles >= 5_000_000 else BUSY
    machine.watch().wait(1.0)
    assert machine.polls == 26  # 5 M cycles are 25 ms


@pytest.mark.parametrize("simulated", [False, True])
def test_timeout_in_the_devices_own_time(machine: Machine, simulated: bool) -> None:
    """Four times slower than built: on hardware the wall counts, in simulation the cycles."""
    machine.mhz = 50.0
    with pytest.raises(DeviceTimeout, match=r"did not end within 0\.5 s"):
        machine.watch(simulated=simulated).wait(0.5)
    assert machine.now - 100.0 == pytest.approx(2.0 if simulated else 0.5, abs=0.01)


def test_the_counter_wraps(machine: Machine) -> None:
    machine.values["COUNT_CYCLES"] = lambda cycles: cycles + 0xFFFF_0000 & 0xFFFFFFFF
    machine.step = 0.01
    with pytest.raises(DeviceTimeout, match="did not end within 30 s"):
        machine.watch(simulated=True).wait(30.0)  # 6 G cycles, and what the counter had at first
    assert machine.now - 100.0 == pytest.approx(30.0 - 0xFFFF_0000 / 2e8, abs=0.05)


def test_nothing_moves(machine: Machine) -> None:
    machine.values["COUNT_OPERATORS"] = lambda cycles: min(cycles, 1_000_000)
    with pytest.raises(DeviceTimeout, match=r"nothing moved for [\d,]+ cycles"):
        machine.watch(idle_cycles=2_000_000).wait(60.0)
    assert 3_000_000 <= machine.cycles() <= 4_500_000


def test_the_clock_has_stopped(machine: Machine) -> None:
    machine.values["COUNT_CYCLES"] = lambda cycles: 17
    with pytest.raises(DeviceTimeout, match="stood still for 2 s: the fabric clock has stopped"):
        machine.watch(silence=2.0).wait(60.0)
    assert machine.now - 100.0 == pytest.approx(2.0, abs=0.01)


@pytest.mark.parametrize("timeout", [60.0, 0.1])
def test_a_doorbell_that_was_lost(machine: Machine, timeout: float) -> None:
    machine.values["STATUS"] = lambda cycles: 0
    with pytest.raises(DeviceTimeout, match="no pass is running"):
        machine.watch().wait(timeout)
    assert machine.now - 100.0 == pytest.approx(min(timeout, watch_module.IDLE_GRACE), abs=0.01)


def test_state_names_operator_error_and_counters(machine: Machine) -> None:
    machine.values |= {
        "CURRENT": lambda cycles: 3,
        "PROGRAM_LOW": lambda cycles: 0x1000_0000,
        "STATUS": lambda cycles: int(Status.BUSY | Status.ERROR),
        "ERROR": lambda cycles: 7 << 16 | 0x1 << 8 | 4 | 2,
        "COUNT_STREAM_BEATS": lambda cycles: 1234,
        "COUNT_CYCLES": lambda cycles: 99,
    }
    with pytest.raises(DeviceTimeout) as caught:
        machine.watch(silence=1.0).wait(60.0)
    text = caught.value.state
    assert text.splitlines()[0] == (
        "STATUS BUSY|ERROR, operator 3 (LINEAR, layer 7), AXI error: write on port 1, response 2, at operator 7"
    )
    assert "cycles 99, stream_beats 1,234" in text and "port 1: 0 words read" in text
    assert text.splitlines()[0] in caught.value.message


def test_a_program_outside_our_memory_is_no_second_error(machine: Machine) -> None:
    machine.values["CURRENT"] = lambda cycles: 12
    assert "operator 12, no AXI error" in machine.watch().describe_state()


# ---- the clock ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("mhz", "refused"), [(200.0, False), (205.0, False), (100.0, True), (250.0, True)])
def test_clock_is_measured(machine: Machine, mhz: float, refused: bool) -> None:
    machine.mhz = mhz
    machine.values["STATUS"] = lambda cycles: DONE if cycles >= 20_000_000 else BUSY
    watch = machine.watch()
    if refused:
        with pytest.raises(HwgenError, match=rf"runs at {mhz:.1f} MHz, the build is made for 200 MHz") as caught:
            watch.wait(1.0)
        assert "fclk0_mhz = 200" in caught.value.fix
    else:
        watch.wait(1.0)
    assert watch.measured_mhz == pytest.approx(mhz, rel=0.01)


def test_a_simulated_clock_is_not_judged(machine: Machine) -> None:
    machine.mhz = 0.1
    machine.values["STATUS"] = lambda cycles: DONE if cycles >= 200_000 else BUSY
    machine.watch(simulated=True).wait(60.0)


def test_a_slow_connection_is_no_measurement(machine: Machine) -> None:
    """Reading takes 1 ms: a pass of 20 ms says nothing about the clock."""
    machine.mhz, machine.read_seconds = 100.0, 1e-3
    machine.values["STATUS"] = lambda cycles: DONE if cycles >= 2_000_000 else BUSY
    watch = machine.watch()
    watch.wait(1.0)
    assert watch.measured_mhz is None
