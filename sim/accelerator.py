"""The Verilated accelerator with its memory, driven from Python."""

from __future__ import annotations

import ctypes
import enum
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .dram import KV260, DramTiming, PortStatistics, StatisticsStruct
from .verilate import LibraryDescription

#: Cycles a register access may take.
REGISTER_TIMEOUT = 10_000

#: Cycles simulated between looks at pending signals, so that Ctrl-C works.
_SLICE = 20_000


class Stop(enum.IntEnum):
    """Why a run ended."""

    #: The cycles asked for are over.
    BUDGET = 0
    IRQ = 1
    RETIRE = 2
    #: No memory handshake, probe write or retirement for too long.
    NO_PROGRESS = 3
    REGISTER = 4
    BUS_ERROR = 5


class SimulationTimeout(RuntimeError):
    """The accelerator did not get where it was expected in time. `state` describes where it stands."""

    def __init__(self, message: str, state: str) -> None:
        super().__init__(f"{message}\n{state}")
        self.state = state


class RegisterError(RuntimeError):
    """The register port answered with an error response."""


@dataclass(frozen=True)
class Record:
    """Something that should not have happened, at a rising edge."""

    cycle: int
    #: Memory port, or None for what has no port.
    port: int | None
    text: str


class _Handle:
    """Owns the C++ object. Views of its memory hold on to it, so they stay valid for as long as they live."""

    def __init__(self, library: ctypes.CDLL, base: int, size: int, noise: int) -> None:
        self.library = library
        self.pointer = library.accelerator_new(base, size, noise)
        if not self.pointer:
            raise MemoryError(f"no address space for {size} bytes of simulated memory")

    def __del__(self) -> None:
        if getattr(self, "pointer", None):
            self.library.accelerator_delete(self.pointer)

    def view(self, address: int, size: int) -> npt.NDArray[np.uint8]:
        buffer = (ctypes.c_uint8 * size).from_address(address)
        buffer._owner = self  # type: ignore[attr-defined]  # a ctypes array takes attributes
        return np.frombuffer(memoryview(buffer), dtype=np.uint8)


@cache
def _load(path: str) -> ctypes.CDLL:
    library = ctypes.CDLL(path)
    u64, u32, number, text, handle = ctypes.c_uint64, ctypes.c_uint32, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p
    signatures: dict[str, tuple[object, list[object]]] = {
        "new": (handle, [u64, u64, ctypes.c_int32]),
        "delete": (None, [handle]),
        "memory": (handle, [handle]),
        "set_timing": (None, [handle, handle]),
        "memory_idle": (number, [handle]),
        "mirror": (handle, [handle, u32]),
        "cycle": (u64, [handle]),
        "retired": (u64, [handle]),
        "retire_index": (u64, [handle]),
        "irq": (number, [handle]),
        "reset": (None, [handle, u64]),
        "drop_outstanding": (None, [handle]),
        "cpu_bytes": (u64, [handle]),
        "forget_idle": (None, [handle]),
        "run": (u32, [handle, u64, u64, number, number]),
        "write_register": (u32, [handle, u32, u32, u64]),
        "read_register": (u32, [handle, u32, ctypes.POINTER(u32), u64]),
        "run_until_register": (u32, [handle, u32, u32, u32, u64, u64, u64]),
        "corrupt_lane": (None, [handle, u32, u32, u32]),
        "fail": (None, [handle, u32, number, u64, u32]),
        "silence": (None, [handle, u32, number]),
        "flip": (number, [handle, text, u64, u32, u64, u64]),
        "trace": (number, [handle, text, u64, u64]),
        "public_names": (u64, [handle, text, u64]),
        "statistics": (None, [handle, u32, handle]),
        "clear_statistics": (None, [handle]),
        "record_total": (u64, [handle, number]),
        "record_count": (u64, [handle, number]),
        "clear_records": (None, [handle, number]),
        "record": (text, [handle, number, u64, ctypes.POINTER(u64), ctypes.POINTER(u32)]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, f"accelerator_{name}")
        function.restype, function.argtypes = result, arguments
    return library


class SimulatedAccelerator:
    """A simulated accelerator, its memory and its register port; reset on construction.

    `library` comes from `build_library`. Bus addresses `memory_base` to `memory_base + memory_bytes` are memory;
    only what is touched takes memory of the host. Several accelerators may live in one process; one accelerator may be
    used by one thread at a time. A library built with ``noise`` needs the seed of the noise, and no other takes one.
    """

    def __init__(
        self,
        library: Path,
        *,
        memory_bytes: int = 1 << 30,
        memory_base: int = 0,
        timing: DramTiming = KV260,
        noise: int | None = None,
    ) -> None:
        for name, value in (("memory_bytes", memory_bytes), ("memory_base", memory_base)):
            if value < 0 or value % 4096:
                raise ValueError(f"{name} must be a multiple of 4096, not {value!r}")
        if not memory_bytes:
            raise ValueError("memory_bytes must be above 0, not 0")
        self.description = LibraryDescription.load(Path(library))
        if self.description.noise != (noise is not None):
            raise ValueError(f"noise must be {'a seed' if self.description.noise else 'None'} with this library, not {noise!r}")
        if noise is not None and not 0 < noise < 1 << 31:  # Verilator takes 0 for any seed
            raise ValueError(f"noise must be 1 to {(1 << 31) - 1}, not {noise!r}")
        self.memory_base = memory_base
        self.state_dump: Callable[[SimulatedAccelerator], str] | None = None
        """Called for more to say about the state of the accelerator when it hangs."""
        self._c = _load(str(Path(library).resolve()))
        self._handle = _Handle(self._c, memory_base, memory_bytes, noise or 0)
        self._p = self._handle.pointer
        self.memory = self._handle.view(self._c.accelerator_memory(self._p), memory_bytes)
        """The memory itself, not a copy: element 0 is at bus address `memory_base`."""
        self._mirrors = {probe.name: self._mirror_view(index) for index, probe in enumerate(self.description.probes)}
        self.set_timing(timing)
        self.reset()

    # Running

    @property
    def cycle(self) -> int:
        """Rising clock edges since construction."""
        return int(self._c.accelerator_cycle(self._p))

    @property
    def irq(self) -> bool:
        """The interrupt output, now."""
        return bool(self._c.accelerator_irq(self._p))

    @property
    def retired(self) -> int:
        """Cycles with `probe_retire_valid` since construction."""
        return int(self._c.accelerator_retired(self._p))

    @property
    def retire_index(self) -> int:
        """`probe_retire_index` of the latest retirement."""
        return int(self._c.accelerator_retire_index(self._p))

    def reset(self, cycles: int = 8) -> None:
        """Holds `rst` for some cycles. Memory, mirrors, counts and records stay, and so does what is outstanding, as on a board:
        reads are answered afterwards, and a write that lacks beats takes those of the next one."""
        self._c.accelerator_reset(self._p, cycles)

    def drop_outstanding(self) -> None:
        """Resets the FIFOs of the ports: nothing asked of the memory so far is answered or written. The accelerator is not told."""
        self._c.accelerator_drop_outstanding(self._p)

    def tick(self, cycles: int = 1) -> None:
        """Runs for exactly this many cycles."""
        self._run(cycles, 0)

    def run_until_irq(self, max_cycles: int, *, max_idle_cycles: int = 0) -> int:
        """Runs until `irq` is high and returns the cycles that took: none if it is high already."""
        return self._run_until(Stop.IRQ, "the interrupt", max_cycles, max_idle_cycles)

    def run_until_retire(self, max_cycles: int, *, max_idle_cycles: int = 0) -> int:
        """Runs to right after the next edge with `probe_retire_valid`; returns the cycles that took.

        Mirrors then show every write up to and including that edge; `retire_index` tells what retired.
        """
        if not self.description.retire:
            raise ValueError("the design must have probe_retire_valid, not none")
        return self._run_until(Stop.RETIRE, "a retirement", max_cycles, max_idle_cycles)

    def run_until_register(
        self,
        offset: int,
        mask: int,
        value: int,
        max_cycles: int,
        *,
        interval: int = 100,
        max_idle_cycles: int = 0,
    ) -> int:
        """Reads a register every `interval` cycles until `register & mask == value`; returns the cycles that took."""
        begin = self.cycle
        self._c.accelerator_forget_idle(self._p)
        stop = Stop.BUDGET
        while stop == Stop.BUDGET and self.cycle - begin < max_cycles:
            budget = min(_SLICE, max_cycles - (self.cycle - begin))
            stop = Stop(
                self._c.accelerator_run_until_register(self._p, offset, mask, value, interval, budget, max_idle_cycles)
            )
        if stop == Stop.BUS_ERROR:
            raise RegisterError(f"reading register 0x{offset:x} was answered with an error")
        if stop != Stop.REGISTER:
            raise self._timeout(f"register 0x{offset:x} & 0x{mask:x} == 0x{value:x}", stop, self.cycle - begin)
        return self.cycle - begin

    def _run(self, max_cycles: int, max_idle_cycles: int, irq: bool = False, retire: bool = False) -> Stop:
        stop = Stop.BUDGET
        left = max_cycles
        while stop == Stop.BUDGET and left > 0:
            budget = min(_SLICE, left)
            stop = Stop(self._c.accelerator_run(self._p, budget, max_idle_cycles, irq, retire))
            left -= budget
        return stop

    def _run_until(self, goal: Stop, what: str, max_cycles: int, max_idle_cycles: int) -> int:
        begin = self.cycle
        self._c.accelerator_forget_idle(self._p)
        stop = self._run(max_cycles, max_idle_cycles, goal == Stop.IRQ, goal == Stop.RETIRE)
        if stop != goal:
            raise self._timeout(what, stop, self.cycle - begin)
        return self.cycle - begin

    def _timeout(self, what: str, stop: Stop, cycles: int) -> SimulationTimeout:
        reason = "nothing moved any more" if stop == Stop.NO_PROGRESS else "the cycles allowed are over"
        return SimulationTimeout(f"waiting for {what}: {reason} after {cycles} cycles", self.describe_state())

    # Registers

    def write_register(self, offset: int, value: int) -> None:
        """One AXI4-Lite write, to its response."""
        stop = Stop(self._c.accelerator_write_register(self._p, offset, value & 0xFFFFFFFF, REGISTER_TIMEOUT))
        self._check_access(f"writing register 0x{offset:x}", stop)

    def read_register(self, offset: int) -> int:
        """One AXI4-Lite read."""
        value = ctypes.c_uint32()
        stop = Stop(self._c.accelerator_read_register(self._p, offset, ctypes.byref(value), REGISTER_TIMEOUT))
        self._check_access(f"reading register 0x{offset:x}", stop)
        return value.value

    def _check_access(self, what: str, stop: Stop) -> None:
        if stop == Stop.BUS_ERROR:
            raise RegisterError(f"{what} was answered with an error")
        if stop != Stop.REGISTER:
            raise SimulationTimeout(f"{what} was not answered in {REGISTER_TIMEOUT} cycles", self.describe_state())

    # Memory and what there is to see

    def set_timing(self, timing: DramTiming) -> None:
        """Changes how the memory answers; only while no transaction is outstanding."""
        if not self._c.accelerator_memory_idle(self._p):
            raise RuntimeError("the timing of the memory can only change while nothing is outstanding")
        self._c.accelerator_set_timing(self._p, ctypes.byref(timing.as_struct()))
        self.timing = timing

    def mirror(self, name: str) -> npt.NDArray[np.generic]:
        """The mirror of the memory behind probe `name`: a live view of shape (depth, lanes).

        Elements are unsigned integers of 8, 16, 32 or 64 bits; wider words add a last dimension of bytes.
        """
        return self._mirrors[name]

    def _mirror_view(self, index: int) -> npt.NDArray[np.generic]:
        probe = self.description.probes[index]
        size = probe.depth * probe.lanes * probe.word_bytes
        view = self._handle.view(self._c.accelerator_mirror(self._p, index), size)
        if probe.word_bytes in (1, 2, 4, 8):
            return view.view(f"<u{probe.word_bytes}").reshape(probe.depth, probe.lanes)
        return view.reshape(probe.depth, probe.lanes, probe.word_bytes)

    def port_statistics(self) -> list[PortStatistics]:
        """Counts of every memory port since construction or `clear_statistics`."""
        result = []
        for port in range(self.description.ports):
            counts = StatisticsStruct()
            self._c.accelerator_statistics(self._p, port, ctypes.byref(counts))
            result.append(counts.as_dataclass())
        return result

    @property
    def cpu_bytes(self) -> int:
        """Bytes that the other master has read since construction."""
        return int(self._c.accelerator_cpu_bytes(self._p))

    def clear_statistics(self) -> None:
        self._c.accelerator_clear_statistics(self._p)

    def violations(self) -> list[Record]:
        """AXI rules the accelerator broke: the first 256; `violation_count` is all."""
        return self._records(True)

    def errors(self) -> list[Record]:
        """Accesses outside the memory and probe writes beyond their depth: the first 256; `error_count` is all."""
        return self._records(False)

    @property
    def violation_count(self) -> int:
        return int(self._c.accelerator_record_total(self._p, True))

    @property
    def error_count(self) -> int:
        return int(self._c.accelerator_record_total(self._p, False))

    def clear_records(self) -> None:
        """Forgets violations and errors."""
        for kind in (False, True):
            self._c.accelerator_clear_records(self._p, kind)

    def _records(self, violations: bool) -> list[Record]:
        records = []
        cycle, port = ctypes.c_uint64(), ctypes.c_uint32()
        for index in range(self._c.accelerator_record_count(self._p, violations)):
            text = self._c.accelerator_record(self._p, violations, index, ctypes.byref(cycle), ctypes.byref(port))
            records.append(Record(cycle.value, None if port.value == 0xFFFFFFFF else port.value, text.decode()))
        return records

    def describe_state(self) -> str:
        """A few lines on where the accelerator stands, with those of `state_dump`."""
        lines = [f"cycle {self.cycle}, irq {int(self.irq)}, retired {self.retired} (latest index {self.retire_index})"]
        for port, count in enumerate(self.port_statistics()):
            lines.append(
                f"port {port}: reads {count.read_commands} in {count.read_beats} beats, "
                f"{count.reads_outstanding} outstanding; writes {count.write_commands} in {count.write_beats} beats, "
                f"{count.writes_outstanding} outstanding"
            )
        for title, records in (("violation", self.violations()), ("error", self.errors())):
            lines += [f"{title} at cycle {record.cycle}, port {record.port}: {record.text}" for record in records[:4]]
        if self.state_dump is not None:
            lines.append(self.state_dump(self))
        return "\n".join(lines)

    # Waves and faults

    def record_waves(self, path: Path, from_cycle: int, to_cycle: int) -> None:
        """Writes waves (FST, one cycle is 4 ns) of cycles `from_cycle` to `to_cycle` - 1 when they come.

        Needs a library built with `trace`. The file is complete once the last of these cycles is over.
        """
        if not self.description.trace:
            raise ValueError("the library must be built with trace=True, not False")
        if not self.cycle <= from_cycle < to_cycle:
            raise ValueError(f"from_cycle and to_cycle must be ahead and in order, not {from_cycle!r} and {to_cycle!r}")
        self._c.accelerator_trace(self._p, str(path).encode(), from_cycle, to_cycle)

    def public_names(self) -> list[str]:
        """What `poke` and `flip_each_cycle` accept: registers and memories with their path below the top module."""
        size = self._c.accelerator_public_names(self._p, b"", 0)
        buffer = ctypes.create_string_buffer(size)
        self._c.accelerator_public_names(self._p, buffer, size)
        return sorted(buffer.raw[:size].decode().split())

    def poke(self, name: str, bit: int, *, element: int = 0) -> None:
        """Flips one bit of a public register, or of one element of a public memory, between two rising edges.

        `name` is its path below the top module, or its own name if that is unique.
        """
        self._flip(name, bit, element, 0, 0)

    def flip_each_cycle(self, name: str, bit: int, from_cycle: int, cycles: int, *, element: int = 0) -> None:
        """Has that bit flipped right after each rising edge of cycles `from_cycle` to `from_cycle + cycles - 1`."""
        if from_cycle < self.cycle:
            raise ValueError(f"from_cycle must not be over, not {from_cycle!r}")
        if cycles < 1:
            raise ValueError(f"cycles must be at least 1, not {cycles!r}")
        self._flip(name, bit, element, from_cycle, cycles)

    def corrupt_lane(self, port: int, lane: int, mask: int) -> None:
        """Has `mask` XORed into byte `lane` of every word that a port reads from now on; 0 ends that."""
        bits = self.description.port_bits
        if not (0 <= port < self.description.ports and 0 <= lane < bits // 8 and 0 <= mask < 256):
            raise ValueError(f"port, lane and mask must fit {self.description.ports} ports of {bits} bits, not {port, lane, mask}")
        self._c.accelerator_corrupt_lane(self._p, port, lane, mask)

    def fail_answer(self, port: int, response: int, *, write: bool = False, after: int | None = 0) -> None:
        """Has one answer of a port fail with `response` (2 SLVERR, 3 DECERR): the read word, or the response to a write, that comes
        behind `after` more of its kind; None: no answer. The word is 0xEE..., and what should have been written is not."""
        self._check_port(port)
        if response not in (2, 3) or (after is not None and after < 0):
            raise ValueError(f"response must be 2 or 3, and after at least 0, not {response!r} and {after!r}")
        self._c.accelerator_fail(self._p, port, write, (1 << 64) - 1 if after is None else after, response)

    def silence_port(self, port: int, silent: bool = True) -> None:
        """Has a port take and answer nothing from now on, or go on where it was."""
        self._check_port(port)
        self._c.accelerator_silence(self._p, port, silent)

    def _check_port(self, port: int) -> None:
        if not 0 <= port < self.description.ports:
            raise ValueError(f"port must be one of {self.description.ports}, not {port!r}")

    def _flip(self, name: str, bit: int, element: int, from_cycle: int, cycles: int) -> None:
        names = self.public_names()
        matches = [known for known in names if known == name] or [
            known for known in names if known.rpartition(".")[2] == name
        ]
        if len(matches) != 1:
            raise ValueError(f"name must be one of {names}, not {name!r}")
        if bit < 0 or element < 0:
            raise ValueError(f"bit and element must be at least 0, not {bit!r} and {element!r}")
        if not self._c.accelerator_flip(self._p, matches[0].encode(), element, bit, from_cycle, cycles):
            raise ValueError(f"bit and element must lie inside {matches[0]}, not {bit!r} and {element!r}")
