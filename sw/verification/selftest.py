"""Bring-up of a device step by step; the first step that fails says what to do, and later ones are not run."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ...boards import Board
from ...contract import contract_hash
from ...errors import HwgenError
from ...registers import register_map
from ..devices.device import Device, DeviceTimeout, StopFailed
from ..devices.power import EnergyMeter, sensor_of, why_no_energy
from .port_patterns import PortPatterns
from .port_speed import describe_speeds, measure_ports, memory_preset
from .recorded_answers import ANSWER_KEYS, NEW_TOKENS, answers_of, engines_of, expected_answers, model_image
from .selftest_clock import CLOCK_BYTES, check_clock

__all__ = ["FORMAT", "SelfTest", "Step"]

#: Name of the format of a report.
FORMAT = "hwgen-selftest-1"

#: What speeds are measured with: bytes of a segment, and how often it is read.
SPEED_BYTES, SPEED_SEGMENTS = 4 << 20, 16
SIMULATED_SPEED_BYTES, SIMULATED_SPEED_SEGMENTS = 16 << 10, 4

#: Values written to every register that can be read back.
PATTERNS = (0xFFFFFFFF, 0, 0x55555555, 0xAAAAAAAA, 0x12345678)


class StepFailed(Exception):
    """A step found something wrong: ``message`` says what, ``fix`` what to do."""

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message)
        self.message, self.fix = message, fix


@dataclass
class Step:
    """What one step found."""

    name: str
    #: "ok", "failed", "skipped" (does not apply), or "not run" (behind one that failed).
    verdict: str
    found: str
    #: What to do.
    fix: str = ""
    seconds: float = 0.0
    #: Everything that was measured.
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """What a step that did not fail says."""

    text: str
    data: dict[str, Any] = field(default_factory=dict)
    skipped: bool = False


class SelfTest:
    """All steps on a device that ``open_device`` opens: it is told the contiguous memory that must be free."""

    def __init__(
        self, board: Board, open_device: Callable[[int], Device], progress: Callable[[str], None] = lambda text: None
    ) -> None:
        self.board, self.config, self.progress = board, board.config, progress
        self._open = open_device
        self.device: Device | None = None
        self.steps: list[Step] = []
        #: What was measured of the memory, for `--memory`; None before.
        self.preset: dict[str, Any] | None = None

    def run(self, on_step: Callable[[Step], None] = lambda step: None) -> bool:
        """Whether every step passed; ``on_step`` hears of each."""
        failed = False
        for name, check in (
            ("identity", self.identity), ("leftover pass", self.left_over), ("registers", self.registers), ("clock", self.clock),
            ("memory patterns", self.patterns), ("memory speed", self.speed), ("answers", self.answers), ("power", self.power),
        ):
            step = Step(name, "not run", "") if failed else self._step(name, check)
            failed = failed or step.verdict == "failed"
            self.steps.append(step)
            on_step(step)
        return not failed

    def _step(self, name: str, check: Callable[[], Found]) -> Step:
        begin = time.monotonic()
        try:
            found = check()
            step = Step(name, "skipped" if found.skipped else "ok", found.text, data=found.data)
        except StepFailed as error:
            step = Step(name, "failed", error.message, error.fix)
        except HwgenError as error:
            state = getattr(error, "state", "")
            step = Step(name, "failed", error.message, error.fix, data={"state": state} if state else {})
        step.seconds = round(time.monotonic() - begin, 3)
        return step

    def to_dict(self) -> dict[str, Any]:
        """The report."""
        try:
            pynq = version("pynq")
        except PackageNotFoundError:
            pynq = ""
        return {
            "format": FORMAT, "hwgen": version("hwgen"), "python": platform.python_version(), "pynq": pynq,
            "machine": f"{platform.system()} {platform.release()} {platform.machine()}", "board": self.board.name,
            "config": self.config.to_dict(), "contract_hash": f"{contract_hash(self.config):016x}",
            "device": getattr(self.device, "name", ""), "simulated": getattr(self.device, "simulated", None),
            "passed": all(step.verdict in ("ok", "skipped") for step in self.steps),
            "steps": [asdict(step) for step in self.steps], "memory": self.preset,
        }

    @property
    def _opened(self) -> Device:
        if self.device is None:
            raise AssertionError("identity comes first")
        return self.device

    # ---- steps ---------------------------------------------------------------------------------------------------
    def memory_bytes(self) -> int:
        """Contiguous memory that all steps take."""
        models = [model_image(self.config, engine).memory_bytes(0) for engine in engines_of(self.config)]
        return sum(models) + models[0] + (1 << 20) + SPEED_BYTES + CLOCK_BYTES  # the first once more, for its energy

    def identity(self) -> Found:
        """The device opens: right board, magic number, contract, memory."""
        needed = self.memory_bytes()
        self.device = self._open(needed)
        where = "simulated" if self.device.simulated else "hardware"
        text = f"device {self.device.name} ({where}), configuration {self.config.name!r}"
        text += f", contract {contract_hash(self.config):016x}, {-(-needed >> 20)} MiB of contiguous memory"
        return Found(text, {"memory_bytes": needed})

    def left_over(self) -> Found:
        """Nobody else's pass was running when the device was opened."""
        text = getattr(self._opened, "left_over", "")
        if text:
            raise StepFailed(
                text, "end the program that started it (another notebook or server may use this board), then run this again"
            )
        return Found("none")

    def registers(self) -> Found:
        """Every register that can be read back holds what was written, and no other changes."""
        device, rows = self._opened, [row for row in register_map(self.config) if row.access == "rw"]
        widths: dict[str, int] = {}
        for row in rows:
            for pattern in PATTERNS:
                device.write_register(row.offset, pattern)
                read = device.read_register(row.offset)
                mask = widths.setdefault(row.name, read)
                if not mask or read != pattern & mask:
                    raise StepFailed(
                        f"register {row.name} reads 0x{read:08x} after 0x{pattern:08x} was written (bits 0x{mask:08x} are there)",
                        "load the bitstream again; if it stays so, build again and look at the timing report",
                    )
        values = {row.name: (i + 1) * 0x01010101 & widths[row.name] for i, row in enumerate(rows)}
        for row in rows:
            device.write_register(row.offset, values[row.name])
        for row in rows:
            if (read := device.read_register(row.offset)) != values[row.name]:
                raise StepFailed(
                    f"register {row.name} reads 0x{read:08x} after others were written, 0x{values[row.name]:08x} expected",
                    "check the address range of the accelerator in the design, and build again",
                )
        for row in rows:
            device.write_register(row.offset, 0)
        bits = {name: f"0x{mask:08x}" for name, mask in widths.items()}
        return Found(f"{len(rows)} registers hold {len(PATTERNS)} patterns each", {"bits": bits})

    def clock(self) -> Found:
        """The fabric runs at the frequency of the build."""
        text, data, fix = check_clock(self._opened, self.board)
        if fix:
            raise StepFailed(text, fix)
        return Found(text, data, skipped=not data)

    def patterns(self) -> Found:
        """What the host writes comes back through every port."""
        try:
            test = PortPatterns(self._opened)
            faults = test.check(self.progress)
        except (DeviceTimeout, StopFailed) as error:
            raise StepFailed(
                f"a pass of a few operators does not end: {error.message}",
                "programs are read through port 0: it brings wrong data, or none. Check that the .hwh is of this bitstream (the "
                "widths of the memory ports come from it), load it again, and look at the timing report of the build",
            ) from error
        if faults:
            several = len(faults) == self.config.ports > 1
            raise StepFailed(
                "; ".join(map(str, faults)),
                ("every port: results are written through port 0, or the fault lies behind the ports. " if several else "")
                + "check that the .hwh is of this bitstream (the width of the port comes from it), and the connection of the port "
                "in the design; load the bitstream again; look at the timing report of the build, and build with a lower clock",
            )
        return Found(f"{test.pattern.nbytes} bytes came back through each of {self.config.ports} ports")

    def speed(self) -> Found:
        """Bandwidth and latency of the sets of ports."""
        device = self._opened
        if device.name == "golden":
            return Found("the golden model has no time", skipped=True)
        sizes = (SIMULATED_SPEED_BYTES, SIMULATED_SPEED_SEGMENTS) if device.simulated else (SPEED_BYTES, SPEED_SEGMENTS)
        speeds = measure_ports(device, *sizes, self.progress)
        self.preset = memory_preset(self.config, self.board.name, speeds, device.simulated)
        every = speeds[-1]
        how = "simulated" if device.simulated else "measured"
        text = f"all ports {every.bytes_per_s / 1e9:.3f} GB/s, latency {self.preset['latency_ns']:g} ns ({how})"
        return Found("\n".join([text, *describe_speeds(speeds)]), {"sets": self.preset["sets"]})

    def answers(self) -> Found:
        """Every operator, and a story, as the golden model has them."""
        device, compared = self._opened, []
        for engine in engines_of(self.config):
            self.progress(f"answers of the {engine} engine")
            expected = expected_answers(self.config, engine)
            if expected is None:
                continue
            found = answers_of(device, engine)
            for name, operators in ANSWER_KEYS.items():
                if found[name] != expected[name]:
                    raise StepFailed(
                        f"{engine} engine, {name}: digest {found[name]}, the golden model has {expected[name]}; computed by "
                        f"{operators}",
                        "look at the timing report of the build, and build with a lower clock; `hwgen verify` with the same "
                        "configuration says whether the design is right in simulation",
                    )
            compared.append(engine)
        if not compared:
            return Found("no answers were recorded for passes and blocks of this size", skipped=True)
        return Found(f"as the golden model: {', '.join(ANSWER_KEYS)} ({' and '.join(compared)} engine)", {"engines": compared})

    def power(self) -> Found:
        """Joules a token by the board's sensor."""
        device = self._opened
        sensor = sensor_of(device)
        if sensor is None:
            return Found(why_no_energy(device), skipped=True)
        engine = engines_of(self.config)[0]
        with EnergyMeter(sensor) as meter:
            answers_of(device, engine)
        tokens = model_image(self.config, engine).chunk + 3 + NEW_TOKENS
        watts = sensor.watts()
        return Found(f"{watts} W by {sensor.name} ({sensor.measures})", {"watts": watts, "energy": meter.to_dict(tokens)})

