"""The virtual board itself: register windows, contiguous memory, FPGA manager and files. It knows nothing of PYNQ."""

from __future__ import annotations

import contextlib
import threading
import time

import numpy as np
import numpy.typing as npt

from ...config import BuildConfig
from ...contract import contract_hash
from ...registers import WINDOW_BYTES, Status, register
from ..accelerator import SimulatedAccelerator, SimulationTimeout
from .bitstream import parse_bitstream
from .memory import ContiguousMemory, OutOfMemory

__all__ = ["BusError", "OutOfMemory", "VirtualBoard"]

#: Where the accelerator's registers and the LEDs of the self-test are.
ACCELERATOR_BASE = 0xA000_0000
LEDS_BASE = 0xA100_0000
LEDS_BYTES = 0x1_0000

#: What :attr:`VirtualBoard.name` ends with, so that a host can tell the board from a real one.
SIMULATED_SUFFIX = "-simulated"

FIRMWARE = "/lib/firmware/"
FPGA_MANAGER = "/sys/class/fpga_manager/fpga0/"

#: Registers of the processing system that PYNQ touches: first address, bytes.
_PS_WINDOWS = (
    (0xFF5E_0000, 0x1000),  # CRL_APB: PL clocks
    (0xFD1A_0000, 0x1000),  # CRF_APB: PLLs, resets
    (0xFD61_5000, 0x1000),  # FPD_SLCR: width of the master ports
    (0xFF41_9000, 0x1000),  # LPD_SLCR
    (0xFD36_0000, 0x6_0000),  # AFIFM0 to 5: width of the slave ports
    (0xFF9B_0000, 0x1000),  # AFIFM6
    (0xF800_0000, 0x1000),  # SLCR of the Zynq-7000
    (0xF800_8000, 0x4000),  # axi_hp0 to 3 of the Zynq-7000
)

#: RST_FPD_TOP of the UltraScale+, and the resets of AFIFM0 to 5: the FIFOs of the memory ports.
_RST_FPD_TOP, _AFI_RESETS = 0xFD1A_0100, 0x1F80

#: A PLL of the UltraScale+ at 1.5 GHz: 33.33 MHz times 90, halved. PL clocks start at 100 MHz.
_PLL, _PL_CLOCK = 90 << 8 | 1 << 16, 1 << 24 | 1 << 16 | 15 << 8
#: A PLL of the Zynq-7000 at 1 GHz: 50 MHz times 20. PL clocks start at 100 MHz.
_PLL7, _PL_CLOCK7 = 20 << 12, 1 << 20 | 10 << 8
_PS_RESET = {
    **dict.fromkeys((0xFF5E_0020, 0xFF5E_0030, 0xFD1A_0020, 0xFD1A_002C, 0xFD1A_0038), _PLL),
    **dict.fromkeys((0xFF5E_00C0, 0xFF5E_00C4, 0xFF5E_00C8, 0xFF5E_00CC), _PL_CLOCK),
    0xFD1A_0060: 1 << 8,  # CPU clock: its PLL
    **dict.fromkeys((0xF800_0100, 0xF800_0104, 0xF800_0108), _PLL7),
    **dict.fromkeys((0xF800_0170, 0xF800_0180, 0xF800_0190, 0xF800_01A0), _PL_CLOCK7),
    0xF800_0120: 2 << 8,  # CPU clock: half of its PLL
}

#: Wall seconds of simulation behind one look at STATUS.
STEP_SECONDS = 0.03
#: Cycles between looks at the clock on the wall.
STEP_CYCLES = 2000


class BusError(Exception):
    """Nothing answers at an address. A real board would stop or kill the process."""


class VirtualBoard:
    """A board with one accelerator, driven by a host through registers, memory and files.

    Simulated time passes only while a host looks: reading STATUS runs a pass on for a moment. Safe for several threads.
    ``memory_bytes`` of the accelerator's memory are the board's contiguous memory.
    """

    def __init__(self, accelerator: SimulatedAccelerator, config: BuildConfig, *, board: str, arch: str = "aarch64") -> None:
        self.accelerator = accelerator
        self.config = config
        self.name = board + SIMULATED_SUFFIX
        self.arch = arch
        self.lock = threading.RLock()
        self.contiguous = ContiguousMemory(accelerator.memory_base, accelerator.memory.size)
        #: True once a bitstream is loaded.
        self.loaded = False
        #: Bitstreams loaded so far.
        self.loads = 0
        self._running = False
        self._ps: dict[int, int] = dict(_PS_RESET)
        self._status = register(config, "STATUS").offset
        self._control = register(config, "CONTROL").offset
        self._files: dict[str, bytes] = {
            "/proc/version": f"Linux version 6.6.10 (hwgen virtual board) {arch}\n".encode(),
            "/proc/device-tree/chosen/pynq_board": self.name.encode() + b"\0",
            FPGA_MANAGER + "state": b"unknown\n",
            FPGA_MANAGER + "flags": b"0\n",
        }

    # ---- memory --------------------------------------------------------------------------------------------------
    def memory(self, address: int, size: int) -> npt.NDArray[np.uint8]:
        """Live view of memory at a physical address."""
        start = address - self.accelerator.memory_base
        if start < 0 or size < 0 or start + size > self.accelerator.memory.size:
            raise BusError(f"no memory at 0x{address:x}")
        return self.accelerator.memory[start : start + size]

    # ---- registers -----------------------------------------------------------------------------------------------
    def _in_accelerator(self, address: int) -> bool:
        return ACCELERATOR_BASE <= address < ACCELERATOR_BASE + WINDOW_BYTES

    def _word_in_memory(self, address: int) -> npt.NDArray[np.uint32] | None:
        start = address - self.accelerator.memory_base
        if 0 <= start <= self.accelerator.memory.size - 4:
            return self.accelerator.memory[start : start + 4].view(np.uint32)
        return None

    def _check(self, address: int) -> None:
        if any(base <= address < base + size for base, size in _PS_WINDOWS):
            return
        in_fabric = self._in_accelerator(address) or LEDS_BASE <= address < LEDS_BASE + LEDS_BYTES
        if in_fabric and self.loaded:
            return
        what = "no bitstream is loaded" if in_fabric else "nothing answers there"
        raise BusError(f"bus error at 0x{address:x}: {what}")

    def read_word(self, address: int) -> int:
        """One 32-bit read."""
        with self.lock:
            word = self._word_in_memory(address)
            if word is not None:
                return int(word[0])
            self._check(address)
            if self._in_accelerator(address):
                offset = address - ACCELERATOR_BASE
                if offset == self._status:
                    self._advance()
                return self.accelerator.read_register(offset)
            return self._ps.get(address, 0)

    def write_word(self, address: int, value: int) -> None:
        """One 32-bit write."""
        with self.lock:
            word = self._word_in_memory(address)
            if word is not None:
                word[0] = value
                return
            self._check(address)
            if self._in_accelerator(address):
                offset = address - ACCELERATOR_BASE
                self.accelerator.write_register(offset, value)
                if offset == self._control and value & 1:
                    self._running = True
            else:
                self._ps[address] = value
                if address == _RST_FPD_TOP and value & _AFI_RESETS and self.arch == "aarch64":
                    self.accelerator.drop_outstanding()

    def _advance(self) -> None:
        """Let simulated time pass while a pass runs."""
        end = time.monotonic() + STEP_SECONDS
        while self._running and time.monotonic() < end:
            with contextlib.suppress(SimulationTimeout):  # the cycles of this step are over, the pass is not
                self.accelerator.run_until_irq(STEP_CYCLES)
            self._running = bool(self.accelerator.read_register(self._status) & Status.BUSY)

    # ---- files and the FPGA manager ------------------------------------------------------------------------------
    def file_exists(self, path: str) -> bool:
        with self.lock:
            return path in self._files or path in (FPGA_MANAGER + "firmware", "/proc/meminfo")

    def read_file(self, path: str) -> bytes | None:
        """Contents of a file, None where there is none. No file of the host is ever touched."""
        with self.lock:
            if path == "/proc/meminfo":
                return f"CmaTotal: {self.contiguous.size // 1024} kB\nCmaFree: {self.contiguous.free_bytes // 1024} kB\n".encode()
            return self._files.get(path)

    def write_file(self, path: str, data: bytes) -> None:
        """Write a file; the name of one in /lib/firmware, written to the FPGA manager, loads it."""
        with self.lock:
            if path == FPGA_MANAGER + "firmware":
                name = data.decode().strip()
                firmware = self._files.get(FIRMWARE + name)
                if firmware is None:
                    raise FileNotFoundError(f"{FIRMWARE}{name} does not exist")
                self.load_bitstream(firmware)
            else:
                self._files[path] = data

    def load_bitstream(self, firmware: bytes) -> None:
        """Configure the fabric: the accelerator is reset, in whatever it does; the memory ports still owe what it asked for.
        A design that this board does not simulate is refused.
        """
        values = parse_bitstream(firmware)
        expected = f"{contract_hash(self.config):016x}"
        if values["contract_hash"] != expected:
            raise ValueError(
                f"this board simulates configuration {self.config.name!r} (contract hash {expected}), the bitstream is of "
                f"{values['configuration']!r} ({values['contract_hash']}): start `hwgen board --simulate` with that board"
            )
        with self.lock:
            self.accelerator.reset()
            self._running = False
            self.loaded = True
            self.loads += 1
            self._files[FPGA_MANAGER + "state"] = b"operating\n"
