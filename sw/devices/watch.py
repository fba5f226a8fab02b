"""Waiting for a pass on hardware that shares no clock with the host: never longer than allowed, and with a reason."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from ...config import BuildConfig
from ...descriptors import DESCRIPTOR_BYTES, Descriptor
from ...errors import HwgenError
from ...registers import COUNTERS, ERROR_OPERATOR, ERROR_PORT, ERROR_RESPONSE, ERROR_WRITE, Register, Status, register_map
from .device import Bytes, DeviceTimeout

__all__ = ["PassWatch", "WatchLimits"]

#: Counters that stand still when nothing moves any more; "cycles" runs on.
_MOVEMENT = ("stream_beats", "engine_busy", "write_beats", "operators")

#: Seconds that a machine may look idle behind a doorbell.
IDLE_GRACE = 0.25

#: Relative error up to which a measurement of the clock is believed.
CLOCK_UNCERTAINTY = 0.01
#: Relative deviation from the build that is refused.
CLOCK_TOLERANCE = 0.03


@dataclass(frozen=True, kw_only=True)
class WatchLimits:
    """What counts as hung, besides the time-out of a pass."""

    #: Cycles in which nothing may move: 16 ms at 250 MHz, where an operator moves something within microseconds.
    idle_cycles: int = 4_000_000
    #: Seconds on the wall in which the cycle counter may stand still.
    silence: float = 10.0


@dataclass(frozen=True)
class _Sample:
    """The cycle counter at a time; ``uncertainty`` is how long reading it took."""

    time: float
    cycles: int
    uncertainty: float


class PassWatch:
    """Polls the registers of one accelerator.

    ``read`` reads a register by offset, ``read_memory`` device memory (for the operator that was running), ``pause`` is
    called between polls with the seconds since the wait began. On a ``simulated`` device time is what its cycle counter says.
    """

    def __init__(
        self,
        config: BuildConfig,
        read: Callable[[int], int],
        read_memory: Callable[[int, int], Bytes],
        pause: Callable[[float], None],
        *,
        simulated: bool,
        limits: WatchLimits,
    ) -> None:
        self._config = config
        self._read_offset = read
        self._read_memory = read_memory
        self._pause = pause
        self._simulated = simulated
        self._limits = limits
        self._registers: dict[str, Register] = {row.name: row for row in register_map(config)}
        #: Fabric clock in MHz as the cycle counter ran against the clock on the wall; None before a pass was long enough.
        self.measured_mhz: float | None = None

    def read(self, name: str, index: int = 0) -> int:
        row = self._registers[name]
        return self._read_offset(row.offset + index * row.step)

    # ---- waiting -------------------------------------------------------------------------------------------------
    def wait(self, timeout: float, look: Callable[[], bool] | None = None) -> bool:
        """True when the pass has ended; :class:`DeviceTimeout` after ``timeout`` seconds, or when it is hung. Calls ``look`` as
        often as it looks itself: False as soon as that returns True.
        """
        begin = ticked = time.monotonic()
        first: _Sample | None = None
        total = moved_at = 0
        movement: tuple[int, ...] | None = None
        while True:
            status = Status(self.read("STATUS"))
            now = time.monotonic()
            if Status.DONE in status:
                break
            if Status.BUSY not in status:
                if now - begin > min(timeout, IDLE_GRACE):
                    raise self.hung("no pass is running: the doorbell was lost, or none was rung")
                self._pause(now - begin)
                continue
            sample = self._sample(first, total)
            if first is None:
                first = sample
            if sample.cycles != total:
                ticked = now
            elif now - ticked > self._limits.silence:
                raise self.hung(f"the cycle counter stood still for {self._limits.silence:g} s: the fabric clock has stopped")
            total = sample.cycles
            self._measure(first, sample)
            if movement is None or total - moved_at >= self._limits.idle_cycles // 4:
                latest = tuple(self.read(f"COUNT_{name.upper()}") for name in _MOVEMENT)
                if latest != movement:
                    movement, moved_at = latest, total
                elif total - moved_at >= self._limits.idle_cycles:
                    raise self.hung(f"nothing moved for {total - moved_at:,} cycles")
            elapsed = total / (1e6 * self._config.clock_mhz) if self._simulated else now - begin
            if elapsed > timeout:
                raise self.hung(f"the pass did not end within {timeout:g} s")
            if look is not None and look():
                return False
            self._pause(now - begin)
        self._check_clock()
        return True

    def _sample(self, first: _Sample | None, total: int) -> _Sample:
        """The cycle counter now, counted on where its 32 bits wrap."""
        before = time.monotonic()
        count = self.read("COUNT_CYCLES")
        after = time.monotonic()
        cycles = count if first is None else total + (count - total & 0xFFFFFFFF)
        return _Sample((before + after) / 2, cycles, after - before)

    # ---- the clock -----------------------------------------------------------------------------------------------
    def _measure(self, first: _Sample, last: _Sample) -> None:
        interval = last.time - first.time
        if interval > 0 and first.uncertainty + last.uncertainty < CLOCK_UNCERTAINTY * interval:
            self.measured_mhz = (last.cycles - first.cycles) / interval / 1e6

    def _check_clock(self) -> None:
        if self._simulated or self.measured_mhz is None:
            return
        built = self._config.clock_mhz
        if abs(self.measured_mhz - built) > CLOCK_TOLERANCE * built:
            raise HwgenError(
                "device",
                f"the fabric clock runs at {self.measured_mhz:.1f} MHz, the build is made for {built:g} MHz",
                f"set pynq.Clocks.fclk0_mhz = {built:g}, or build for the clock that the board has",
            )

    # ---- what there is to see ------------------------------------------------------------------------------------
    def hung(self, reason: str) -> DeviceTimeout:
        """What to raise, with where the machine stands."""
        try:
            state = self.describe_state()
        except HwgenError as error:  # the board is gone, not the machine
            return DeviceTimeout(f"{reason}; its registers cannot be read: {error.message}")
        return DeviceTimeout(f"{reason}; {state.splitlines()[0]}", state)

    def describe_state(self) -> str:
        """Status, current operator, last AXI error and every counter."""
        status = Status(self.read("STATUS"))
        flags = "|".join(flag.name or "" for flag in Status if flag in status) or "idle"
        error = self.read("ERROR")
        way = "write" if ERROR_WRITE.extract(error) else "read"
        access = (
            f"{way} on port {ERROR_PORT.extract(error)}, response {ERROR_RESPONSE.extract(error)}, "
            f"at operator {ERROR_OPERATOR.extract(error)}"
        )
        lines = [
            f"STATUS {flags}, operator {self._describe_operator()}, "
            + (f"AXI error: {access}" if Status.ERROR in status else "no AXI error")
        ]
        lines.append(", ".join(f"{name} {self.read(f'COUNT_{name.upper()}'):,}" for name, _ in COUNTERS))
        for port in range(self._config.ports):
            words, stalled = self.read("COUNT_PORT_BUSY", port), self.read("COUNT_PORT_STALL", port)
            lines.append(f"port {port}: {words:,} words read, {stalled:,} cycles stalled")
        lines.append(f"{self.read('UNASKED'):,} answers that nobody had asked for, since reset")
        if self.measured_mhz is not None and not self._simulated:
            lines.append(f"clock {self.measured_mhz:.1f} MHz")
        return "\n".join(lines)

    def _describe_operator(self) -> str:
        """Index of the operator, and what it is where its descriptor can be read."""
        index = self.read("CURRENT")
        program = self.read("PROGRAM_HIGH") << 32 | self.read("PROGRAM_LOW")
        try:
            data = self._read_memory(program + index * DESCRIPTOR_BYTES, DESCRIPTOR_BYTES)
            d = Descriptor.unpack(data.tobytes())
        except (HwgenError, ValueError):
            return str(index)
        return f"{index} ({d.opcode.name}, layer {d.layer})"
