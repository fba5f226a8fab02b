"""Timing of the simulated DDR memory, and what its ports count.

Both classes mirror a C++ struct of dram.hpp field by field, in the same order.
"""

from __future__ import annotations

import ctypes
from dataclasses import asdict, dataclass, fields


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
    #: From the DDR data bus to the port; with an idle bus and an open row, from AR handshake to first R beat.
    read_latency: int = 60
    #: From the DDR data bus to the write response.
    write_latency: int = 30
    #: Every chunk of up to 256 bytes is late by a random number of cycles up to this.
    latency_jitter: int = 0
    #: Read transactions a port may have outstanding.
    max_reads: int = 16
    #: Write transactions a port may have outstanding.
    max_writes: int = 16
    #: What the controller may fetch ahead for one port: bounds what a stalled port can hide.
    read_buffer_bytes: int = 8192
    #: DDR banks, each with one open row.
    banks: int = 8
    #: Size of a row over the whole DDR data bus.
    row_bytes: int = 8192
    #: From a bank being free to data from another of its rows.
    row_miss_cycles: int = 8
    #: How far ahead the controller fills the data bus: row misses hide behind transfers only within it.
    scheduling_window: int = 6
    #: From refresh to refresh; 0 is never.
    refresh_interval: int = 0
    #: How long a refresh stops the data bus; it also closes every row.
    refresh_cycles: int = 0
    #: Lost on the data bus when it changes between reading and writing.
    turnaround_cycles: int = 0
    #: Writes are held back until this much is waiting ...
    write_batch_bytes: int = 2048
    #: ... or one has waited for this long, or there is nothing to read.
    write_patience: int = 64
    #: Transactions of different IDs of a port may overtake each other, at random.
    reorder: bool = False
    #: Read beats of different IDs may be mixed, at random (needs `reorder`).
    interleave: bool = False
    #: Of every random choice above.
    seed: int = 1

    def __post_init__(self) -> None:
        for name in ("ready_probability", "data_probability"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must be above 0 and at most 1, not {getattr(self, name)!r}")
        for name in ("max_reads", "max_writes", "banks", "scheduling_window", "read_buffer_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)!r}")
        for field in fields(self):
            if getattr(self, field.name) < 0:
                raise ValueError(f"{field.name} must be at least 0, not {getattr(self, field.name)!r}")
        if self.row_bytes < 256 or self.row_bytes % 256:
            raise ValueError(f"row_bytes must be a multiple of 256, not {self.row_bytes!r}")
        if self.interleave and not self.reorder:
            raise ValueError("interleave must be off when reorder is, not True")

    def as_struct(self) -> ctypes.Structure:
        return _TimingStruct(**asdict(self))


_TimingStruct._fields_ = [
    (field.name, ctypes.c_double if field.type == "float" else ctypes.c_uint64) for field in fields(DramTiming)
]

#: 64-bit DDR4-2400 (19.2 GB/s) seen from a fabric clock of 250 MHz: refresh every 7.8 us for 350 ns.
#:
#: Measured on this model with four 128-bit ports: 99.9% of the ports' 64 bytes a cycle in bursts of 1 KB and more
#: one after the other, 98.5-99.7% in bursts of 256 bytes (row conflicts between the ports), 63% when these are
#: scattered at random.
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


class StatisticsStruct(ctypes.Structure):
    _fields_ = [(field.name, ctypes.c_uint64) for field in fields(PortStatistics)]

    def as_dataclass(self) -> PortStatistics:
        return PortStatistics(**{field.name: getattr(self, field.name) for field in fields(PortStatistics)})
