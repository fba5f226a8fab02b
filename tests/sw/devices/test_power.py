"""Power of a board, on a made-up sysfs."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hwgen.sw.devices.power import INTERVAL, EnergyMeter, PowerSensor, find_sensor, sensor_of, why_no_energy


def sensor_at(root: Path, number: int, name: str, microwatts: str | None) -> Path:
    directory = root / f"hwmon{number}"
    directory.mkdir(parents=True)
    (directory / "name").write_text(f"{name}\n")
    if microwatts is not None:
        (directory / "power1_input").write_text(f"{microwatts}\n")
    return directory / "power1_input"


def test_found_by_its_name(tmp_path: Path) -> None:
    sensor_at(tmp_path, 0, "ams", None)
    sensor_at(tmp_path, 1, "some_regulator", "9000000")
    file = sensor_at(tmp_path, 2, "ina260_u14", "4810000")
    sensor = find_sensor(tmp_path)
    assert sensor is not None and (sensor.name, sensor.file, sensor.watts()) == ("ina260_u14", file, 4.81)
    assert "module" in sensor.measures


def test_absent(tmp_path: Path) -> None:
    assert find_sensor(tmp_path / "nothing") is None
    sensor_at(tmp_path, 0, "some_regulator", "9000000")
    sensor_at(tmp_path, 1, "ina260_u14", None)
    sensor_at(tmp_path, 2, "ina260_u15", "no number")
    assert find_sensor(tmp_path) is None
    with EnergyMeter(None) as meter:
        pass
    assert meter.joules is None and meter.to_dict(3) is None


def test_energy_is_power_times_time(tmp_path: Path) -> None:
    file = sensor_at(tmp_path, 0, "ina260_u14", "4000000")
    begin = time.monotonic()
    with EnergyMeter(find_sensor(tmp_path), interval=0.01) as meter:
        time.sleep(0.1)
        file.write_text("8000000\n")
        time.sleep(0.1)
        file.write_text("")  # a moment in which the sensor does not answer
        time.sleep(0.02)
        file.write_text("8000000\n")
    elapsed = time.monotonic() - begin
    assert meter.joules is not None and meter.seconds == pytest.approx(elapsed, abs=0.05)
    assert 4 * meter.seconds < meter.joules < 8 * meter.seconds
    result = meter.to_dict(4)
    assert result is not None and result["joules_per_token"] == meter.joules / 4 and result["sensor"] == "ina260_u14"


@pytest.mark.parametrize(
    ("simulated", "is_here", "why"),
    [(True, False, "a simulated board"), (False, False, "not across the network"), (False, True, "no power sensor that is known")],
)
def test_why_there_are_no_joules(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, simulated: bool, is_here: bool, why: str
) -> None:
    monkeypatch.setattr("hwgen.sw.devices.power.HWMON", tmp_path)
    device = SimpleNamespace(simulated=simulated, is_here=is_here)
    assert sensor_of(device) is None and why in why_no_energy(device)


def test_a_meter_looks_until_it_ends() -> None:
    """At the beginning, at the end, and as often as it is asked to between them; a sensor that is silent is passed over."""
    looks: list[float | None] = []

    def watts() -> float | None:
        looks.append(None if len(looks) == 2 else 5.0)
        return looks[-1]

    sensor: Any = SimpleNamespace(watts=watts, name="n", measures="m")
    with EnergyMeter(sensor, interval=0.002) as meter:
        while len(looks) < 6:
            time.sleep(0.001)  # the meter looks in a thread of its own
    assert len(meter._samples) == len(looks) - 1 and meter.joules == pytest.approx(5 * meter.seconds)
    count = len(looks)
    time.sleep(0.01)  # five of its intervals
    assert len(looks) == count, "it has ended"


def test_an_integral_of_trapezia() -> None:
    meter = EnergyMeter(None)
    meter._samples = [(1.0, 4.0), (3.0, 6.0), (4.0, 0.0)]
    assert (meter.joules, meter.seconds) == (2 * 5.0 + 3.0, 3.0)
    meter._samples = [(1.0, 4.0)]
    assert meter.joules is None and EnergyMeter(None).seconds == 0 and meter._thread.daemon, "it keeps no process alive"
    meter.sensor = PowerSensor("n", "m", Path("/nowhere"))
    assert meter.to_dict(1) is None, "one look is no energy"
    meter._samples = [(1.0, 4.0), (3.0, 6.0)]
    assert meter.to_dict(5) == {"sensor": "n", "measures": "m", "joules": 10.0, "seconds": 2.0, "joules_per_token": 2.0}
    nothing = meter.to_dict(0)
    assert nothing is not None and nothing["joules_per_token"] is None


def test_what_says_nothing_of_itself_is_not_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is it simulated."""
    sensor_at(tmp_path, 0, "ina260", "1000000")
    monkeypatch.setattr("hwgen.sw.devices.power.HWMON", tmp_path)
    assert sensor_of(object()) is None and "not across the network" in why_no_energy(object())
    here = sensor_of(SimpleNamespace(is_here=True))
    assert here is not None and here.watts() == 1.0


def test_a_directory_without_a_name_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "hwmon0").mkdir()
    file = sensor_at(tmp_path, 1, "ina260", "1000000")
    sensor = find_sensor(tmp_path)
    assert sensor is not None and sensor.file == file and INTERVAL == 0.1
