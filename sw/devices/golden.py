"""The bit-exact functional model as a device: no generated hardware, no time."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ...config import BuildConfig
from ...descriptors import Descriptor
from ...packages import needs
from ...registers import Control, register
from .device import Allocator, Bytes, DeviceTimeout, windows

__all__ = ["GoldenDevice"]


class GoldenDevice:
    """Computes what the hardware computes, operator by operator. Counters of time read 0."""

    name = "golden"
    simulated = True

    def __init__(self, config: BuildConfig, *, memory_bytes: int = 1 << 30) -> None:
        with needs("the golden model", "hwgen[sim]"):
            from ...golden.machine import GoldenMachine
        self.config = config
        self.machine = GoldenMachine(config, memory_bytes)
        #: Seconds that preparing the device took.
        self.build_seconds = 0.0
        # nothing at address 0, so that an address that was not relocated is caught
        self._memory = Allocator(Allocator.STEP, memory_bytes - Allocator.STEP)
        self._hold = False
        self._loop: Iterator[Descriptor] = iter(())

    def allocate(self, size: int) -> int:
        return self._memory.allocate(size)

    def clear(self) -> None:
        self._memory.clear()

    def write(self, address: int, data: Bytes) -> None:
        self.machine.writable(address, data.size)[:] = data.reshape(-1)

    def fill(self, address: int, size: int, read: Callable[[Bytes], None]) -> None:
        for window in windows(self.machine.writable(address, size)):
            read(window)

    def read(self, address: int, size: int) -> Bytes:
        return self.view(address, size).copy()

    def view(self, address: int, size: int) -> Bytes:
        return self.machine.memory[address : address + size]

    def write_register(self, offset: int, value: int) -> None:
        if not self.machine.registers.write(offset, value):
            return
        if self.machine.registers.loop and not self._hold:
            self._loop = self.machine.steps()  # runs while somebody waits, who may look at what it has chosen
        elif not self._hold:
            for _ in self.machine.steps():
                pass
        self._hold = False

    def hold_next_pass(self) -> Callable[[], Iterator[Descriptor]]:
        """Make the next doorbell wait: the pass runs operator by operator as the iterator of the answer is advanced."""
        self._hold = True
        return self.machine.steps

    def read_register(self, offset: int) -> int:
        return self.machine.read_register(offset)

    def read_registers(self, offset: int, count: int) -> list[int]:
        return [self.read_register(offset + 4 * i) for i in range(count)]

    def wait(self, timeout: float, look: Callable[[], bool] | None = None) -> bool:
        passes = self.machine.registers.passes
        for _ in self._loop:
            if look is not None and self.machine.registers.passes > passes:
                passes = self.machine.registers.passes
                if look():
                    return False
        if not self.machine.irq:
            raise DeviceTimeout("the golden machine raised no interrupt: no pass was started, or the interrupt is off")
        return True

    def stop(self) -> None:
        # Without a pass that runs this does nothing, as in hardware: only one that is held between operators does, or a loop.
        self.machine.write_register(register(self.config, "CONTROL").offset, Control.STOP)
        for _ in self._loop:
            pass
