"""Timing of the simulated DDR memory, and what its ports count.

Both classes mirror a C++ struct of dram.hpp field by field, in the same order.
"""

from __future__ import annotations

import ctypes
from dataclasses import asdict, dataclass, fields

MAX_PORTS = 16


class _TimingStruct(ctypes.Structure):
    pass


@dataclass(frozen=True, kw_only=True)
class DramTiming:
    """How the memory answers. Times are clock cycles of the accelerator, unless the name says otherwise."""

    #: Bandwidth of the DDR data bus shared by all ports; 0 is no controller: no limit, no banks, no refresh.
    bytes_per_cycle: float
    #: Chance in each cycle that ARREADY, AWREADY or WREADY is high while there is room.
    ready_probability: float = 1.0
    #: Chance in each cycle that a read beat or write response that could appear does.
    data_probability: float = 1.0
    #: From the port, which has room for the data, to the controller.
    command_latency: int = 0
    #: From the DDR data bus to the port. With an idle bus and an open row the first R beat comes `command_latency` +
    #: `read_latency` behind the AR handshake.
    read_latency: int = 60
    #: From the DDR data bus to the write response.
    write_latency: int = 30
    #: Every chunk of up to 256 bytes is late by a random number of cycles up to this.
    latency_jitter: int = 0
    #: Read transactions a port may have outstanding.
    max_reads: int = 16
    #: Write transactions a port may have outstanding.
    max_writes: int = 16
    #: W beats that a port takes ahead of their address.
    early_beats: int = 0
    #: Read FIFO of a port. A chunk of up to 256 bytes is asked of the controller when there is room for it, so no more is ever in
    #: flight.
    read_buffer_bytes: int = 8192
    #: Number of the controller's port that each port leads to. Those that share one take turns.
    port_groups: tuple[int, ...] = tuple(range(MAX_PORTS))
    #: Cycles that each port takes longer than `command_latency`.
    port_latency: tuple[int, ...] = (0,) * MAX_PORTS
    #: What a port of the controller carries, reads and writes each; 0 is no limit.
    group_bytes_per_cycle: float = 0
    #: DDR banks in all groups, each with one open row.
    banks: int = 8
    #: Groups of banks, in which 64-byte bursts lie in turn: rows of one bank of each group are opened together.
    bank_groups: int = 1
    #: Banks follow from all bits of the row's number, not from the lowest ones.
    hash_banks: bool = True
    #: Size of a row over the whole DDR data bus.
    row_bytes: int = 8192
    #: From a bank being free to data from another of its rows: tRP + tRCD.
    row_miss_cycles: float = 8
    #: From the opening of a row to that of another one in the same bank: tRC.
    row_cycle: float = 0
    #: Time in which at most four rows are opened: tFAW.
    four_activates: float = 0
    #: Lost on the data bus where two bursts in a row are of one bank group: tCCD_L - tCCD_S.
    same_group_cycles: float = 0
    #: A row that chunks need stays open until one that needs another row of its bank has waited this long.
    row_patience: int = 48
    #: How far ahead the controller fills the data bus: row misses hide behind transfers only within it.
    scheduling_window: int = 6
    #: From refresh to refresh; 0 is never.
    refresh_interval: int = 0
    #: How long a refresh stops the data bus; it also closes every row.
    refresh_cycles: int = 0
    #: Lost on the data bus when it changes between reading and writing.
    turnaround_cycles: float = 0
    #: Writes are held back until this much is waiting ...
    write_batch_bytes: int = 2048
    #: ... or one has waited for this long, or there is nothing to read.
    write_patience: int = 64
    #: Transactions of different IDs of a port may overtake each other, at random.
    reorder: bool = False
    #: Read beats of different IDs may be mixed, at random (needs `reorder`).
    interleave: bool = False
    #: Reads of another master: 64 bytes each, anywhere, at random times, served before those of the ports.
    cpu_bytes_per_cycle: float = 0
    #: Of every random choice above.
    seed: int = 1

    def __post_init__(self) -> None:
        for name in ("ready_probability", "data_probability"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must be above 0 and at most 1, not {getattr(self, name)!r}")
        for name in ("max_reads", "max_writes", "banks", "bank_groups", "scheduling_window"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)!r}")
        if self.bank_groups not in (1, 2, 4) or self.banks % self.bank_groups:
            raise ValueError(f"bank_groups must be 1, 2 or 4 and divide the banks, not {self.bank_groups!r}")
        if self.read_buffer_bytes < 256:
            raise ValueError(f"read_buffer_bytes must be at least 256, not {self.read_buffer_bytes!r}")
        self._check_ports()
        for field in fields(self):
            if field.name not in ("port_groups", "port_latency") and getattr(self, field.name) < 0:
                raise ValueError(f"{field.name} must be at least 0, not {getattr(self, field.name)!r}")
        if self.row_bytes < 256 or self.row_bytes % 256:
            raise ValueError(f"row_bytes must be a multiple of 256, not {self.row_bytes!r}")
        if self.cpu_bytes_per_cycle and not self.bytes_per_cycle:
            raise ValueError(f"cpu_bytes_per_cycle must be 0 without a controller, not {self.cpu_bytes_per_cycle!r}")
        if self.interleave and not self.reorder:
            raise ValueError("interleave must be off when reorder is, not True")

    def _check_ports(self) -> None:
        for name, end in (("port_groups", MAX_PORTS), ("port_latency", 256)):
            values = getattr(self, name)
            if len(values) > MAX_PORTS or any(not 0 <= value < end for value in values):
                raise ValueError(f"{name} must be up to {MAX_PORTS} numbers below {end}, not {values!r}")

    def as_struct(self) -> ctypes.Structure:
        return _TimingStruct(**asdict(self))


_C_TYPES: dict[str, type] = {"float": ctypes.c_double, "tuple[int, ...]": ctypes.c_uint8 * MAX_PORTS}
_TimingStruct._fields_ = [(field.name, _C_TYPES.get(str(field.type), ctypes.c_uint64)) for field in fields(DramTiming)]

#: 64-bit DDR4-2400 (19.2 GB/s) seen from a fabric clock of 250 MHz: refresh every 7.8 us for 350 ns. Its ports are
#: wider and deeper than those of a board: `board_timing` has these.
#:
#: Measured on this model with four 128-bit ports: 99.3-99.9% of the ports' 64 bytes a cycle in bursts of 1 KB and more
#: one after the other, 97-98% in bursts of 256 bytes.
KV260 = DramTiming(
    bytes_per_cycle=76.8,
    refresh_interval=1950,
    refresh_cycles=88,
    turnaround_cycles=6,
)

#: Every port at its full rate after two cycles.
IDEAL = DramTiming(bytes_per_cycle=0, read_latency=2, write_latency=2, max_reads=64, max_writes=64)


def random_timing(seed: int) -> DramTiming:
    """A legal memory at its most awkward: ready comes and goes, data is late and out of order between IDs."""
    return DramTiming(
        bytes_per_cycle=48.0,
        ready_probability=0.35 + 0.15 * (seed % 4),
        data_probability=0.4 + 0.2 * (seed // 4 % 3),
        read_latency=1 + 13 * (seed % 3),
        write_latency=1 + 29 * (seed % 2),
        latency_jitter=90,
        max_reads=1 + 5 * (seed % 4),
        max_writes=1 + 3 * (seed % 3),
        early_beats=(0, 1, 16)[seed // 2 % 3],
        refresh_interval=700,
        refresh_cycles=60,
        turnaround_cycles=3,
        reorder=True,
        seed=seed,
    )


#: `RANDOM(seed)` stands beside the presets `KV260` and `IDEAL`.
RANDOM = random_timing


@dataclass(frozen=True)
class PortStatistics:
    """Counts of one memory port: clock cycles outside reset, unless the name says commands, beats or outstanding.

    Every cycle is exactly one of read_beats, read_stalled, read_waiting and read_idle; likewise for writes.
    """

    #: AR handshakes.
    read_commands: int
    #: R handshakes: the cycles in which the read side was busy.
    read_beats: int
    #: RVALID without RREADY: the accelerator held the memory up.
    read_stalled: int
    #: Reads outstanding and RVALID low: the memory held the accelerator up.
    read_waiting: int
    #: No read outstanding.
    read_idle: int
    #: ARVALID without ARREADY.
    read_address_stalled: int
    #: AW handshakes.
    write_commands: int
    #: W handshakes: the cycles in which the write side was busy.
    write_beats: int
    #: WVALID without WREADY: the memory held the accelerator up.
    write_stalled: int
    #: Writes outstanding and WVALID low.
    write_waiting: int
    #: No write outstanding and WVALID low.
    write_idle: int
    #: AWVALID without AWREADY.
    write_address_stalled: int
    #: Now.
    reads_outstanding: int
    reads_outstanding_max: int
    writes_outstanding: int
    writes_outstanding_max: int
    #: Asked of the controller and not yet on the port, now.
    read_bytes_in_flight: int
    read_bytes_in_flight_max: int


class StatisticsStruct(ctypes.Structure):
    _fields_ = [(field.name, ctypes.c_uint64) for field in fields(PortStatistics)]

    def as_dataclass(self) -> PortStatistics:
        return PortStatistics(**{field.name: getattr(self, field.name) for field in fields(PortStatistics)})
