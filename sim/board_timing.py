"""Memory of the boards as the accelerator's ports see it: named facts of chips and ports, in cycles of the build's clock.

Pessimistic where nothing better is known: every activate counts the tRP of the boot code (JEDEC's is shorter), the other
master's reads are all elsewhere and open a row each, banks follow from the address bits as boot code maps them (rows of two
streams that lie 64 KB apart are of one bank), a row is opened for the next chunk of a port alone. Optimistic: write data is
taken as fast as it comes, tRRD and the tWR of a row that is closed behind a write are not counted.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ..boards import Board, Platform
from ..errors import HwgenError
from .dram import KV260, MAX_PORTS, DramTiming

#: Idle latency where none is asked for: between the 240 and 480 ns that are told of these ports.
LATENCY_NS = 320.0


@dataclass(frozen=True, kw_only=True)
class MemoryConditions:
    """What else decides how a board's memory answers."""

    #: Idle latency from AR handshake to first R beat, a row being open; None is `LATENCY_NS`, or without a platform that of
    #: `KV260`.
    latency_ns: float | None = None
    #: Reads of the processor beside the accelerator, 64 bytes each, anywhere.
    cpu_bytes_per_s: float = 0.0
    #: Beats a cycle that all ports of the build were seen to sustain on a board; None is what the model of the memory gives.
    port_rate: float | None = None


USUAL = MemoryConditions()


@dataclass(frozen=True, kw_only=True)
class Chips:
    """Kind of DRAM chip, times in nanoseconds."""

    #: tRP + tRCD, tRC, tFAW, tCCD_L - tCCD_S.
    row_miss: float
    row_cycle: float
    four_activates: float
    same_group: float
    #: tREFI and tRFC.
    refresh_interval: float
    refresh: float
    #: Mean of read to write and write to read.
    turnaround: float
    banks: int
    bank_groups: int
    #: Bytes of a row in 16 bits of the data bus.
    row_bytes: int = 2048


CHIPS = {
    # Micron MT40A512M16 as the boot code of the K26 sets the controller, in clocks of 1.875 ns: t_rp 9, t_rcd 8, t_rc 26,
    # t_faw 16, t_ccd 3 and t_ccd_s 2, t_rfc_min 187, wr2rd 13 and rd2wr 6 (U-Boot, zynqmp-sm-k26-revA/psu_init_gpl.c, DRAMTMG0 to 9
    # and RFSHTMG). ADDRMAP1 and 8 there: bank group in address bit 6, bank in bits 14 and 15, so two banks share 16 KB.
    # JESD79-4B, DDR4-2400 bins: tRP and tRCD 13.32 to 14.16, tRC 45.32 to 46.16, tFAW of 2 KB pages 30.
    "ddr4-x16": Chips(
        row_miss=31.9, row_cycle=48.75, four_activates=30.0, same_group=1.875, refresh_interval=7800, refresh=350.6,
        turnaround=17.8, banks=8, bank_groups=2,
    ),
    # JESD79-3F, DDR3-1066 bins, x16: tRP and tRCD 15, tRC 52.5, tFAW of 2 KB pages 50; 4 Gb: tRFC 260. Turnaround assumed.
    "ddr3-x16": Chips(
        row_miss=30.0, row_cycle=52.5, four_activates=50.0, same_group=0, refresh_interval=7800, refresh=260,
        turnaround=20.0, banks=8, bank_groups=1,
    ),
    # JESD209-4: tRPab 21, tRCD 18, tRC 63, tFAW 40, tREFI 3.904 us, tRFCab of 8 Gb channels 280. Turnaround assumed.
    "lpddr4-x16": Chips(
        row_miss=39.0, row_cycle=63.0, four_activates=40.0, same_group=0, refresh_interval=3904, refresh=280,
        turnaround=20.0, banks=8, bank_groups=1,
    ),
}

#: K26 boot code: lpr_max_starve 64 clocks (PERFLPR1).
ROW_PATIENCE_NS = 120.0


@dataclass(frozen=True, kw_only=True)
class Ports:
    """The ports of a processing system."""

    #: Commands a port accepts, each way.
    commands: int
    #: Words in the data FIFOs of a port.
    fifo_words: int
    #: Bytes a second that a port of the DDR controller carries, each way.
    group_bytes_per_s: float
    #: Number of the controller's port by name.
    groups: dict[str, int]
    #: Idle latency beyond that of the others, in nanoseconds, by name.
    longer_ns: dict[str, float] = field(default_factory=dict)


PORTS = {
    # UG1085, "AXI Interface Programming": 8 commands each way, FIFOs of 128 x 128 bits, write data may lead its command. "PL-PS
    # Interface Specifics": HP1 and HP2 share XPI 4, HP0 shares one with the display, HP3 with a DMA. 16 bytes at 533 MHz.
    "zynq_ultra_ps_e": Ports(
        commands=8, fifo_words=128, group_bytes_per_s=16 * 533.33e6,
        groups={"S_AXI_HP0_FPD": 0, "S_AXI_HP1_FPD": 1, "S_AXI_HP2_FPD": 1, "S_AXI_HP3_FPD": 2, "S_AXI_HPC0_FPD": 3,
                "S_AXI_HPC1_FPD": 3},
        # HPC0 and HPC1 lead through the coherent interconnect, of 16 bytes at the same clock, and "have a longer latency to DDR"
        # (UG1085, "APU Coherent Interfaces"). How much is not told; half of `LATENCY_NS` is assumed. Measured, four lock-stepped
        # streams are 6.4% slower over HP0 HP2 HPC0 HPC1 and 7.5% over HP0 HP1 HP3 HPC0 than over HP0 to HP3.
        longer_ns={"S_AXI_HPC0_FPD": 160.0, "S_AXI_HPC1_FPD": 160.0},
    ),
    # UG585, chapters 5 and 10: FIFOs of 1 KB; HP0 and HP1 share a port of the controller, HP2 and HP3 another, of 64 bits at the
    # DDR_2x clock of 355 MHz. The commands accepted are taken to be those of the later family.
    "processing_system7": Ports(
        commands=8, fifo_words=128, group_bytes_per_s=8 * 355e6,
        groups={"S_AXI_HP0": 0, "S_AXI_HP1": 0, "S_AXI_HP2": 1, "S_AXI_HP3": 1},
    ),
}


def latency_ns(board: Board, conditions: MemoryConditions) -> float:
    """The idle latency that holds."""
    if conditions.latency_ns is not None:
        return conditions.latency_ns
    return LATENCY_NS if board.platform is not None else KV260.read_latency * 1e3 / board.config.clock_mhz


def memory_json(board: Board, conditions: MemoryConditions) -> dict[str, float]:
    """What results say of it."""
    measured = {} if conditions.port_rate is None else {"port_rate": conditions.port_rate}
    return {"latency_ns": latency_ns(board, conditions), "cpu_bytes_per_s": conditions.cpu_bytes_per_s, **measured}


def describe_memory(memory: dict[str, float]) -> str:
    """`memory_json` for people."""
    latency, cpu = memory["latency_ns"], memory["cpu_bytes_per_s"]
    measured = f", all ports sustain {memory['port_rate']:.1%} as a self-test found" if "port_rate" in memory else ""
    return f"memory   idle latency {latency:g} ns, the processor reads {cpu / 1e9:g} GB/s beside it{measured}"


def board_timing(board: Board, conditions: MemoryConditions = USUAL) -> DramTiming:
    """The memory of `board` seen from its clock. A board without a platform has `KV260`.

    Raises `HwgenError` for conditions below zero, and for a platform whose memory or ports are not known.
    """
    total = round(latency_ns(board, conditions) * board.config.clock_mhz / 1e3)
    if total < 1 or conditions.cpu_bytes_per_s < 0:
        raise HwgenError(
            "usage", f"latency must be at least one cycle and traffic at least 0, not {conditions}",
            "give --latency-ns 320 --cpu-bytes-per-s 0",
        )
    cpu = conditions.cpu_bytes_per_s / (board.config.clock_mhz * 1e6)
    if board.platform is None:
        timing = replace(KV260, read_latency=total, cpu_bytes_per_cycle=cpu)
    else:
        timing = _platform_timing(board, board.platform, total, cpu)
    if conditions.port_rate is None:
        return timing
    # the data bus carries what was measured between refreshes, and no more
    share = 1 - timing.refresh_cycles / timing.refresh_interval if timing.refresh_interval else 1.0
    return replace(timing, bytes_per_cycle=min(timing.bytes_per_cycle, conditions.port_rate * board.config.beat_bytes / share))


def _platform_timing(board: Board, platform: Platform, latency: int, cpu: float) -> DramTiming:
    if platform.memory_chips not in CHIPS or platform.processor not in PORTS:
        raise HwgenError(
            "configuration", f"memory {platform.memory_chips!r} behind {platform.processor!r} is not known",
            f"use chips of {', '.join(CHIPS)} and a processor of {', '.join(PORTS)}",
        )
    chips, ports = CHIPS[platform.memory_chips], PORTS[platform.processor]
    hertz = board.config.clock_mhz * 1e6
    cycles = hertz / 1e9  # in a nanosecond
    groups = [ports.groups[name] for name in platform.memory_ports]
    return DramTiming(
        bytes_per_cycle=board.memory_bandwidth / hertz,
        command_latency=latency // 2,
        read_latency=latency - latency // 2,
        write_latency=latency,
        max_reads=ports.commands,
        max_writes=ports.commands,
        early_beats=ports.fifo_words,
        read_buffer_bytes=ports.fifo_words * platform.memory_port_bits // 8,
        port_groups=tuple(groups + [MAX_PORTS - 1] * (MAX_PORTS - len(groups))),
        port_latency=tuple(round(ports.longer_ns.get(name, 0) * cycles) for name in platform.memory_ports)
        + (0,) * (MAX_PORTS - len(groups)),
        group_bytes_per_cycle=ports.group_bytes_per_s / hertz,
        banks=chips.banks,
        bank_groups=chips.bank_groups,
        hash_banks=False,
        row_bytes=chips.row_bytes * platform.memory_bits // 16,
        row_miss_cycles=chips.row_miss * cycles,
        row_cycle=chips.row_cycle * cycles,
        four_activates=chips.four_activates * cycles,
        same_group_cycles=chips.same_group * cycles,
        row_patience=round(ROW_PATIENCE_NS * cycles),
        refresh_interval=round(chips.refresh_interval * cycles),
        refresh_cycles=round(chips.refresh * cycles),
        turnaround_cycles=chips.turnaround * cycles,
        cpu_bytes_per_cycle=cpu,
    )
