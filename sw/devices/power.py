"""Power of a board by its own sensor, as Linux shows it: `hwmon` devices, found by their name."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import TracebackType

__all__ = ["INTERVAL", "EnergyMeter", "PowerSensor", "find_sensor", "sensor_of", "why_no_energy"]

HWMON = Path("/sys/class/hwmon")

#: Sensors of boards by the beginning of their name, and what they measure. Kria's carriers have an INA260 on the 5 V rail of the
#: module, which Linux calls `ina260_u14` (node `ina260-u14` of kind `iio-hwmon` in zynqmp-sck-kv-g-revB.dtso and in those of the
#: other carriers).
SENSORS = {"ina260": "5 V rail of the module: processing system, fabric and memory"}

#: Seconds between looks at the sensor, whose value changes some six times a second.
INTERVAL = 0.1


@dataclass(frozen=True)
class PowerSensor:
    """A file that has microwatts."""

    name: str
    #: What is measured.
    measures: str
    file: Path

    def watts(self) -> float | None:
        """Power now; None where the sensor does not answer."""
        try:
            return int(self.file.read_text()) / 1e6
        except (OSError, ValueError):
            return None


def find_sensor(root: Path | None = None) -> PowerSensor | None:
    """The sensor of this board; None where it has none that is known."""
    for directory in sorted((HWMON if root is None else root).glob("hwmon*")):
        try:
            name = (directory / "name").read_text().strip()
        except OSError:
            continue
        for start, measures in SENSORS.items():
            sensor = PowerSensor(name, measures, directory / "power1_input")
            if name.startswith(start) and sensor.watts() is not None:
                return sensor
    return None


def sensor_of(device: object) -> PowerSensor | None:
    """The sensor of the board that a device is on; None for a simulated one and across the network."""
    return find_sensor() if getattr(device, "is_here", False) else None


def why_no_energy(device: object) -> str:
    """Why :func:`sensor_of` finds no sensor for a device, in words."""
    if getattr(device, "simulated", False):
        return "a simulated board has no power sensor"
    if not getattr(device, "is_here", False):
        return "power sensors are read on the board itself, not across the network"
    return "no power sensor that is known on this board"


class EnergyMeter:
    """Adds the power of a sensor up, in a thread of its own, from ``with`` to its end. Without a sensor it measures nothing."""

    def __init__(self, sensor: PowerSensor | None, interval: float = INTERVAL) -> None:
        self.sensor = sensor
        self._interval, self._ended = interval, threading.Event()
        self._samples: list[tuple[float, float]] = []
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _look(self) -> None:
        watts = self.sensor.watts() if self.sensor else None
        if watts is not None:
            self._samples.append((time.monotonic(), watts))

    def _watch(self) -> None:
        while not self._ended.wait(self._interval):
            self._look()

    def __enter__(self) -> EnergyMeter:
        self._look()
        if self.sensor:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        if self.sensor:
            self._thread.join()
            self._look()

    @property
    def seconds(self) -> float:
        return self._samples[-1][0] - self._samples[0][0] if self._samples else 0.0

    @property
    def joules(self) -> float | None:
        """Energy so far, idle power of the board included; None where nothing was measured."""
        if len(self._samples) < 2:
            return None
        return sum((late - early) * (a + b) / 2 for (early, a), (late, b) in pairwise(self._samples))

    def to_dict(self, tokens: int) -> dict[str, object] | None:
        """For results; None where nothing was measured."""
        if self.sensor is None or self.joules is None:
            return None
        return {
            "sensor": self.sensor.name, "measures": self.sensor.measures, "joules": self.joules, "seconds": self.seconds,
            "joules_per_token": self.joules / tokens if tokens else None,
        }
