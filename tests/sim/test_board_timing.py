"""The memory of the boards: port windows, shared ports of the controller, another master, latency."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hwgen.boards import Board, board_names, load_board
from hwgen.errors import HwgenError
from hwgen.sim.accelerator import SimulatedAccelerator
from hwgen.sim.board_timing import LATENCY_NS, USUAL, MemoryConditions, board_timing, memory_json
from hwgen.sim.dram import DramTiming

from .dma_engine import COPY, THROTTLE, Job, start
from .test_dram import efficiency

KV260 = load_board("kv260")
PLATFORMS = [name for name in board_names() if load_board(name).platform is not None]


def dma_with(library: Path, timing: DramTiming) -> SimulatedAccelerator:
    return SimulatedAccelerator(library, memory_bytes=1 << 28, timing=timing)


def streams(bursts: int, len: int, ports: tuple[int, ...] = (0, 1, 2, 3)) -> list[Job]:
    """Long reads of some ports, in different banks."""
    return [Job(port * 0x1004000, bursts if port in ports else 0, len) for port in range(4)]


@pytest.mark.parametrize("flags", [0, THROTTLE])
@pytest.mark.parametrize("len", [15, 63])
@pytest.mark.parametrize("latency", [160.0, 480.0])
def test_no_more_than_the_window_is_in_flight(dma_library: Path, latency: float, len: int, flags: int) -> None:
    dma = dma_with(dma_library, board_timing(KV260, MemoryConditions(latency_ns=latency)))
    start(dma, [replace(job, flags=flags) for job in streams(300, len)])
    dma.run_until_irq(400_000)
    for port in dma.port_statistics():
        assert port.reads_outstanding_max == 8
        assert port.read_bytes_in_flight_max == 2048 and port.read_bytes_in_flight == 0


def test_a_write_window_holds_too(dma_library: Path) -> None:
    dma = dma_with(dma_library, board_timing(KV260))
    start(dma, [Job(0, 200, 3, destination=1 << 20, flags=COPY)])
    dma.run_until_irq(100_000)
    assert dma.port_statistics()[0].writes_outstanding_max <= 9  # one whose response is on the port


@pytest.mark.parametrize("latency", [100.0, 320.0, 481.0])
def test_idle_latency_is_as_asked(dma_library: Path, latency: float) -> None:
    timing = replace(board_timing(KV260, MemoryConditions(latency_ns=latency)), refresh_interval=0)
    dma = dma_with(dma_library, timing)
    for _ in range(2):  # the first opens the row
        dma.clear_statistics()
        start(dma, [Job(0, 1, 0)])
        dma.run_until_irq(1000)
    assert dma.port_statistics()[0].read_waiting == pytest.approx(latency / 4, abs=1)


def test_a_port_through_the_coherent_interconnect_answers_later(dma_library: Path) -> None:
    usual = board_timing(KV260)
    assert KV260.platform is not None and KV260.platform.memory_ports[4] == "S_AXI_HPC0_FPD"
    assert usual.port_latency[:5] == (0, 0, 0, 0, 40)
    dma = dma_with(dma_library, replace(usual, refresh_interval=0, port_latency=(0, 0, 0, 40)))
    for port, cycles in ((0, 80), (3, 120)):
        for _ in range(2):  # the first opens the row
            dma.clear_statistics()
            start(dma, [Job(0, number == port, 0) for number in range(4)])
            dma.run_until_irq(1000)
        assert dma.port_statistics()[port].read_waiting == pytest.approx(cycles, abs=1)


def test_one_stream_is_bound_by_its_window(dma_library: Path) -> None:
    """2 KB in a round trip, once that is longer than the time they take."""
    timing = replace(board_timing(KV260, MemoryConditions(latency_ns=1000)), refresh_interval=0)
    assert efficiency(dma_with(dma_library, timing), streams(500, 15, (0,))[:1]) == pytest.approx(128 / 270, abs=0.03)


def test_two_ports_share_one_of_the_controller(dma_library: Path) -> None:
    """With a link of one word a cycle HP1 and HP2 halve it; HP0 and HP3 do not meet."""
    timing = replace(board_timing(KV260, MemoryConditions(latency_ns=100)), refresh_interval=0, group_bytes_per_cycle=16)
    dma = dma_with(dma_library, timing)
    start(dma, streams(400, 15))
    begin = dma.cycle
    rates: dict[int, float] = {}
    while len(rates) < 4:
        dma.tick(50)
        for port, count in enumerate(dma.port_statistics()):
            if count.read_beats == 6400:
                rates.setdefault(port, 6400 / (dma.cycle - begin))
    assert rates[1] + rates[2] == pytest.approx(1, abs=0.02)
    assert min(rates[0], rates[3]) > 0.95


def test_the_shared_port_carries_what_it_has(dma_library: Path) -> None:
    timing = replace(board_timing(KV260), refresh_interval=0)
    assert timing.group_bytes_per_cycle * 0.25 == pytest.approx(8.53, abs=0.01)  # GB/s at 250 MHz
    assert timing.port_groups[1] == timing.port_groups[2]
    assert len({timing.port_groups[port] for port in (0, 1, 3)}) == 3


def test_another_master_costs_what_it_takes(dma_library: Path) -> None:
    rates, cpu = [], []
    for traffic in (0, 0.5e9, 1e9, 2e9):
        dma = dma_with(dma_library, board_timing(KV260, MemoryConditions(cpu_bytes_per_s=traffic)))
        begin = dma.cycle, dma.cpu_bytes
        rates.append(efficiency(dma, streams(600, 63)))
        cpu.append((dma.cpu_bytes - begin[1]) / (dma.cycle - begin[0]) * 250e6)
    assert cpu == pytest.approx([0, 0.5e9, 1e9, 2e9], rel=0.1)
    assert rates == sorted(rates, reverse=True)
    peak = 19.2 / 16
    for rate, traffic in zip(rates, cpu, strict=True):
        assert rate <= peak - traffic / 16e9
    assert rates[0] > 0.92 and rates[3] < rates[0] - 0.12


def test_rows_of_one_bank_are_slower_than_rows_of_four(dma_library: Path) -> None:
    timing = board_timing(KV260)
    apart = efficiency(dma_with(dma_library, timing), streams(300, 63))
    together = efficiency(dma_with(dma_library, timing), [Job(port << 24, 300, 63) for port in range(4)])
    assert together < 0.8 * apart


@pytest.mark.parametrize(
    ("change", "faster"), [({"row_cycle": 60}, False), ({"four_activates": 120}, False), ({"same_group_cycles": 0}, True)]
)
def test_rows_cost_what_the_chips_say(dma_library: Path, change: dict[str, float], faster: bool) -> None:
    """Scattered reads of 64 bytes: every one opens a row, and half of them stay in the bank group."""
    usual = replace(board_timing(KV260), max_reads=64)
    jobs = [Job(port << 26, 1000, 3, scatter=(1 << 19) - 1) for port in range(4)]
    before, after = (efficiency(dma_with(dma_library, timing), jobs) for timing in (usual, replace(usual, **change)))
    assert after >= before if faster else after < 0.9 * before


@pytest.mark.parametrize("name", PLATFORMS)
def test_boards(name: str) -> None:
    board = load_board(name)
    timing = board_timing(board)
    clock = board.config.clock_mhz
    assert (timing.command_latency + timing.read_latency) / clock * 1e3 == pytest.approx(LATENCY_NS, abs=1e3 / clock)
    assert timing.bytes_per_cycle * clock * 1e6 == pytest.approx(board.memory_bandwidth)
    assert timing.refresh_cycles < 0.1 * timing.refresh_interval
    assert memory_json(board, USUAL) == {"latency_ns": LATENCY_NS, "cpu_bytes_per_s": 0.0}


def test_a_board_without_a_platform_keeps_its_memory() -> None:
    demo = load_board("demo")
    timing = board_timing(demo)
    assert (timing.command_latency, timing.read_latency, timing.max_reads) == (0, 60, 16)
    asked = board_timing(demo, MemoryConditions(latency_ns=400, cpu_bytes_per_s=1e9))
    assert asked.read_latency == round(0.4 * demo.config.clock_mhz)
    assert asked.cpu_bytes_per_cycle == pytest.approx(1e3 / demo.config.clock_mhz)


@pytest.mark.parametrize(
    ("board", "conditions", "message"),
    [
        (KV260, MemoryConditions(latency_ns=-1), "latency must be at least one cycle"),
        (KV260, MemoryConditions(cpu_bytes_per_s=-1), "traffic at least 0"),
        (replace(KV260, platform=replace(KV260.platform, memory_chips="core")), USUAL, "memory 'core' behind"),
    ],
)
def test_refuses(board: Board, conditions: MemoryConditions, message: str) -> None:
    with pytest.raises(HwgenError, match=message):
        board_timing(board, conditions)


def test_a_measured_rate_is_what_the_bus_carries_between_refreshes() -> None:
    usual, half = board_timing(KV260), board_timing(KV260, MemoryConditions(port_rate=0.5))
    between = 1 - usual.refresh_cycles / usual.refresh_interval
    assert half.bytes_per_cycle * between == pytest.approx(0.5 * KV260.config.beat_bytes)
    assert replace(half, bytes_per_cycle=usual.bytes_per_cycle) == usual
    assert board_timing(KV260, MemoryConditions(port_rate=1.0)).bytes_per_cycle <= usual.bytes_per_cycle
