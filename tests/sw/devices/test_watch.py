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
    monkeypatch.setattr(watch_module.time, "monotonic", lambda: made.now - 99.9921875)  # soon after zero, where quotients are large
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


def test_a_program_above_four_gibibytes(machine: Machine) -> None:
    """Its descriptors are where both halves of its address say."""
    asked: list[tuple[int, int]] = []
    machine.names[register(CONFIG, "PROGRAM_HIGH").offset] = "PROGRAM_HIGH"
    machine.values |= {name: lambda cycles, value=value: value for name, value in (  # type: ignore[misc]  # a default binds it
        ("CURRENT", 2), ("PROGRAM_LOW", 0x8000_0040), ("PROGRAM_HIGH", 5),
    )}

    def read_memory(address: int, size: int) -> Bytes:
        asked.append((address, size))
        return np.frombuffer(Descriptor(opcode=Opcode.LINEAR, layer=1).pack(), np.uint8)

    machine.read_memory = read_memory  # type: ignore[method-assign]  # another memory
    assert "operator 2 (LINEAR, layer 1)" in machine.watch().describe_state() and asked == [(0x5_8000_0040 + 2 * 64, 64)]


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


@pytest.mark.parametrize(("uncertain", "interval", "mhz"), [
    ((0.0, 0.0), 2.0, 100.0), ((0.0, 0.0), 0.5, 400.0), ((0.0099, 0.0), 1.0, 200.0), ((0.0, 0.0099), 1.0, 200.0),
    ((0.005, 0.005), 1.0, None), ((0.0101, 0.0), 1.0, None), ((0.0, 0.0), 0.0, None), ((0.0, 0.0), -1.0, None),
])
def test_a_measurement_of_the_clock(
    uncertain: tuple[float, float], interval: float, mhz: float | None, machine: Machine
) -> None:
    """Cycles by seconds, where reading took less than a hundredth of them."""
    watch = machine.watch()
    first = watch_module._Sample(5.0, 1000, uncertain[0])
    watch._measure(first, watch_module._Sample(5.0 + interval, 200_001_000, uncertain[1]))
    assert watch.measured_mhz == mhz


def test_a_look_at_the_cycle_counter(machine: Machine) -> None:
    """Its time is the middle of reading it, its uncertainty how long that took; the counter goes on where its 32 bits wrap."""
    machine.read_seconds, machine.values["COUNT_CYCLES"] = 0.25, lambda cycles: 0x7000_0000
    watch, begin = machine.watch(), machine.now - 99.9921875
    first = watch._sample(None, 5)
    assert first == watch_module._Sample(begin + 0.125, 0x7000_0000, 0.25)
    assert watch._sample(first, 0x1_6FFF_FFFF).cycles == 0x1_7000_0000
    assert watch._sample(first, 0x1_7000_0001).cycles == 0x2_7000_0000


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


# ---- looking while it runs ---------------------------------------------------------------------------------------
def test_somebody_looks_as_often(machine: Machine) -> None:
    """Behind every look at the machine; who has seen something goes, and may wait on."""
    machine.values["STATUS"] = lambda cycles: DONE if cycles >= 1_000_000 else BUSY
    answers, watch = [False, False, True], machine.watch()
    assert watch.wait(1.0, lambda: answers.pop(0)) is False and not answers and machine.polls == 3
    assert watch.wait(1.0, lambda: False) is True and watch.wait(1.0) is True


def test_limits_are_held_to_the_last_unit(machine: Machine) -> None:
    """A pass that ends when its time does is no error; silence, idleness and the grace behind a doorbell likewise."""
    machine.values["STATUS"] = lambda cycles: DONE if cycles > 100_000_000 else BUSY
    machine.step = 0.125
    for simulated in (False, True):
        assert machine.watch(simulated=simulated).wait(0.5) is True, "0.5 s are not more than 0.5 s"
        machine.now = 100.0
        with pytest.raises(DeviceTimeout, match=r"did not end within 0\.5 s"):
            machine.watch(simulated=simulated).wait(0.4999998)
        machine.now = 100.0
    with pytest.raises(DeviceTimeout, match=r"did not end within 0\.375 s"):
        machine.watch().wait(0.375)
    machine.now, machine.values["COUNT_CYCLES"] = 100.0, lambda cycles: 17
    machine.values["STATUS"] = lambda cycles: DONE if cycles > 100_000_000 else BUSY
    assert machine.watch(simulated=True, silence=0.5).wait(60.0) is True
    machine.now = 100.0
    with pytest.raises(DeviceTimeout, match="stood still"):
        machine.watch(silence=0.375).wait(60.0)
    machine.now = 100.0
    machine.values["STATUS"] = lambda cycles: DONE if cycles > 50_000_000 else 0
    assert machine.watch().wait(60.0) is True, "idle for a quarter of a second"
    machine.now = 100.0
    machine.values["STATUS"] = lambda cycles: DONE if cycles > 75_000_000 else 0
    with pytest.raises(DeviceTimeout, match="no pass is running"):
        machine.watch().wait(60.0)


@pytest.mark.parametrize(("limit", "fine"), [(25_000_000, False), (25_000_001, True)])
def test_idle_cycles_to_the_last(machine: Machine, limit: int, fine: bool) -> None:
    """Movement is looked at whenever a quarter of the limit has gone by: here every eighth of a second, 25 million cycles."""
    machine.step = 0.125
    machine.values["COUNT_OPERATORS"] = lambda cycles: 5
    machine.values["STATUS"] = lambda cycles: DONE if cycles > 25_000_000 else BUSY
    if fine:
        assert machine.watch(idle_cycles=limit).wait(60.0)
        return
    with pytest.raises(DeviceTimeout, match="nothing moved for 25,000,000 cycles"):
        machine.watch(idle_cycles=limit).wait(60.0)


@pytest.mark.parametrize(("limit", "seen", "ends"), [(80_000_000, 25, 125), (100_000_000, 25, 125), (110_000_000, 50, 175)])
def test_movement_is_looked_for_every_quarter_of_the_limit(machine: Machine, limit: int, seen: int, ends: int) -> None:
    """By polls 25 million cycles apart: what moved soon after the first of them is seen by the second or the third."""
    machine.step = 0.125
    machine.values["COUNT_OPERATORS"] = lambda cycles: min(cycles, 10_000_000)
    with pytest.raises(DeviceTimeout, match=f"nothing moved for {ends - seen},000,000 cycles"):
        machine.watch(idle_cycles=limit).wait(60.0)
    assert machine.cycles() == ends * 1_000_000


@pytest.mark.parametrize(("mhz", "refused"), [(194.0, False), (193.9, True), (206.0, False), (206.1, True)])
def test_a_clock_is_wrong_beyond_three_percent(machine: Machine, mhz: float, refused: bool) -> None:
    watch = machine.watch()
    watch.measured_mhz = mhz
    if refused:
        with pytest.raises(HwgenError, match="the fabric clock runs at"):
            watch._check_clock()
    else:
        watch._check_clock()


def test_what_there_is_to_see(machine: Machine) -> None:
    """Every port, answers that nobody asked for, and the clock where it was measured."""
    machine.values["STATUS"] = lambda cycles: 0
    watch = machine.watch()
    lines = watch.describe_state().splitlines()
    assert lines[0] == "STATUS idle, operator 0, no AXI error" and lines[2:] == [
        *[f"port {port}: 0 words read, 0 cycles stalled" for port in range(CONFIG.ports)],
        "0 answers that nobody had asked for, since reset",
    ]
    watch.measured_mhz = 199.96
    assert watch.describe_state().splitlines()[-1] == "clock 200.0 MHz"
    simulated = machine.watch(simulated=True)
    simulated.measured_mhz = 7.0
    assert simulated.describe_state().splitlines()[-1] == lines[-1]

    def gone(offset: int) -> int:
        raise HwgenError("device", "the board answers no more")

    machine.read = gone  # type: ignore[method-assign]  # the board is gone
    error = machine.watch().hung("it hangs")
    assert error.message == "it hangs; its registers cannot be read: the board answers no more" and error.state == ""


def test_how_long_it_has_waited(machine: Machine) -> None:
    """Pauses are told the seconds since the wait began, before a pass runs and while it does."""
    told: list[float] = []
    machine.values["STATUS"] = lambda cycles: 0 if cycles < 20_000_000 else BUSY if cycles < 60_000_000 else DONE

    def pause(elapsed: float) -> None:
        told.append(elapsed)
        machine.now += 0.05

    machine.pause = pause  # type: ignore[method-assign]  # a clock that does not wait
    machine.watch().wait(1.0)
    assert told == pytest.approx([0.05 * i for i in range(len(told))], abs=1e-6) and len(told) == 6
