"""The generated Verilog under Verilator, as a device."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from ...config import BuildConfig
from ...errors import HwgenError
from ...hw.verilog import cached_verilog
from ...registers import Control, Status, register
from .device import Allocator, Bytes, DeviceTimeout, StopFailed, windows

if TYPE_CHECKING:
    from ...sim.accelerator import SimulatedAccelerator
    from ...sim.dram import DramTiming

__all__ = ["VerilatorDevice", "Waves"]

#: First address of the simulated memory, if no other is given; not 0, so that an address that was not relocated is caught.
MEMORY_BASE = 0x1000_0000

#: Cycles without any movement after which the machine counts as hung.
IDLE_LIMIT = 100_000

#: Cycles between two looks of who waits: more than count as hung.
LOOK_CYCLES = 2 * IDLE_LIMIT

#: Cycles that one operator may take.
OPERATOR_LIMIT = 200_000_000


@dataclass(frozen=True)
class Waves:
    """Waves of every signal, as an FST file: cycles ``first`` to ``end`` - 1, counted from the first doorbell."""

    path: Path
    first: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.first < self.end:
            raise HwgenError("usage", f"waves must begin at cycle 0 or later, and end later, not {self.first} to {self.end}",
                             "give --from and --to in order")
        if not self.path.parent.is_dir() or self.path.is_dir():
            raise HwgenError("usage", f"waves cannot be written to {self.path}", "name a file in a directory that exists")


class VerilatorDevice:
    """Generates, verilates (once: libraries are cached) and simulates an accelerator with its DRAM.

    ``public`` names registers that faults may be injected into; ``trace`` allows waves, and ``waves`` writes some. All make it
    slower, and the simulator is compiled anew for each. Without ``optimize`` it is sooner built and slower too. ``noise`` is the
    seed of noise in everything that a board does not promise (`hwgen.sim.noise`).
    """

    name = "verilator"
    simulated = True

    def __init__(
        self,
        config: BuildConfig,
        *,
        memory_bytes: int = 1 << 30,
        memory_base: int = MEMORY_BASE,
        timing: DramTiming | None = None,
        public: tuple[str, ...] = (),
        trace: bool = False,
        waves: Waves | None = None,
        optimize: bool = True,
        noise: int | None = None,
        verilog: str | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> None:
        self.config = config
        begin = time.monotonic()
        self.accelerator = self._simulate(
            config, memory_bytes, memory_base, timing, public, trace or waves is not None, optimize, noise, verilog, progress
        )
        self._waves = waves
        self._control = register(config, "CONTROL").offset
        #: Seconds that generating, compiling and loading took.
        self.build_seconds = time.monotonic() - begin
        self._memory = Allocator(memory_base, memory_bytes)
        self._state = [(name, register(config, name).offset) for name in ("STATUS", "CURRENT", "ERROR")]

    @staticmethod
    def _simulate(
        config: BuildConfig,
        memory_bytes: int,
        memory_base: int,
        timing: DramTiming | None,
        public: tuple[str, ...],
        trace: bool,
        optimize: bool,
        noise: int | None,
        verilog: str | None,
        progress: Callable[[str], None] | None,
    ) -> SimulatedAccelerator:
        if verilog is None:
            verilog = cached_verilog(config, progress or (lambda text: None))
        from ...hw.accelerator import TOP
        from ...hw.axi.signature import ID_BITS
        from ...hw.memory.system import SETTLE_CYCLES
        from ...probes import probes
        from ...sim.accelerator import SimulatedAccelerator
        from ...sim.dram import KV260
        from ...sim.toolchain import BuildFailed, ToolMissing
        from ...sim.verilate import Probe, build_library

        try:
            memories = [Probe(p.name, p.depth, p.word_bits, p.lanes) for p in probes(config)] if config.probe else []
            library = build_library(
                verilog,
                top=TOP,
                ports=config.ports,
                port_bits=config.port_bits,
                id_bits=ID_BITS,
                probes=memories,
                trace=trace,
                public=public,
                optimize=optimize,
                noise=noise is not None,
                progress=progress,
            )
        except ToolMissing as error:
            raise HwgenError("tool", error.message, error.fix) from error
        except BuildFailed as error:
            raise HwgenError("tool", f"the simulator could not be built: {error}", "run `hwgen doctor`") from error
        accelerator = SimulatedAccelerator(
            library, memory_bytes=memory_bytes, memory_base=memory_base, timing=timing or KV260, noise=noise
        )
        accelerator.tick(SETTLE_CYCLES)  # a host on a board needs longer to its first doorbell, which so never waits
        return accelerator

    def allocate(self, size: int) -> int:
        return self._memory.allocate(size)

    def clear(self) -> None:
        self._memory.clear()

    def write(self, address: int, data: Bytes) -> None:
        start = address - self.accelerator.memory_base
        self.accelerator.memory[start : start + data.size] = data.reshape(-1)

    def fill(self, address: int, size: int, read: Callable[[Bytes], None]) -> None:
        start = address - self.accelerator.memory_base
        for window in windows(self.accelerator.memory[start : start + size]):
            read(window)

    def read(self, address: int, size: int) -> Bytes:
        return self.view(address, size).copy()

    def view(self, address: int, size: int) -> Bytes:
        start = address - self.accelerator.memory_base
        return self.accelerator.memory[start : start + size]

    def write_register(self, offset: int, value: int) -> None:
        if self._waves is not None and offset == self._control and value & Control.START:
            now, waves, self._waves = self.accelerator.cycle, self._waves, None
            self.accelerator.record_waves(waves.path, now + waves.first, now + waves.end)
        self.accelerator.write_register(offset, value)

    def read_register(self, offset: int) -> int:
        return self.accelerator.read_register(offset)

    def read_registers(self, offset: int, count: int) -> list[int]:
        return [self.read_register(offset + 4 * i) for i in range(count)]

    def wait(self, timeout: float, look: Callable[[], bool] | None = None) -> bool:
        from ...sim.accelerator import SimulationTimeout

        left = int(timeout * self.config.clock_mhz * 1e6)
        while True:
            budget, begin = left if look is None else min(left, LOOK_CYCLES), self.accelerator.cycle
            try:
                self.accelerator.run_until_irq(budget, max_idle_cycles=IDLE_LIMIT)
                return True
            except SimulationTimeout as error:
                left -= self.accelerator.cycle - begin
                if look is None or left <= 0 or self.accelerator.cycle - begin < budget:  # the last: nothing moves
                    raise self.timed_out(error) from error
            if look():
                return False

    def stop(self) -> None:
        from ...sim.accelerator import SimulationTimeout

        status = register(self.config, "STATUS").offset
        if Status.BUSY not in Status(self.read_register(status)):
            return
        self.write_register(register(self.config, "CONTROL").offset, Control.STOP)
        try:
            self.accelerator.run_until_register(status, Status.BUSY, 0, OPERATOR_LIMIT, interval=20, max_idle_cycles=IDLE_LIMIT)
        except SimulationTimeout as error:
            raise StopFailed(str(self.timed_out(error))) from error

    def next_operator(self) -> int:
        """Run to the end of the next operator (needs a build with ``probe``); its ``tag``."""
        from ...sim.accelerator import SimulationTimeout

        try:
            self.accelerator.run_until_retire(OPERATOR_LIMIT, max_idle_cycles=IDLE_LIMIT)
        except SimulationTimeout as error:
            raise self.timed_out(error) from error
        return self.accelerator.retire_index

    def mirror(self, name: str) -> npt.NDArray[Any]:
        """Live view of the memory behind a probe (needs a build with ``probe``)."""
        return self.accelerator.mirror(name)

    def timed_out(self, error: Exception) -> DeviceTimeout:
        """What to raise for a machine that stands still, with the registers that tell where."""
        try:
            registers = ", ".join(f"{name} 0x{self.read_register(offset):x}" for name, offset in self._state)
        except RuntimeError:
            registers = "the register port does not answer"
        return DeviceTimeout(f"{str(error).splitlines()[0]}; {registers}", getattr(error, "state", ""))
