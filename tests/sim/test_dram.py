"""The memory model: data, timing and rules, seen through the ports of a small DMA design."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwgen.boards import load_board
from hwgen.sim.accelerator import SimulatedAccelerator
from hwgen.sim.board_timing import board_timing
from hwgen.sim.dram import IDEAL, KV260, RANDOM, DramTiming

from .dma_engine import COPY, LEAD, THROTTLE, Job, expected_hashes, read_hashes, start

PORT_BYTES = 16
CONTENTS = np.random.default_rng(7).integers(0, 256, 1 << 21, dtype=np.uint8)
TIMINGS = {"kv260": KV260, "ideal": IDEAL} | {f"random{seed}": RANDOM(seed) for seed in range(12)}
TIMINGS["interleaved"] = replace(RANDOM(2), interleave=True)


def efficiency(dma: SimulatedAccelerator, jobs: list[Job]) -> float:
    """Of one beat a cycle on every port."""
    dma.clear_statistics()
    start(dma, jobs)
    cycles = dma.run_until_irq(4_000_000)
    return sum(port.read_beats for port in dma.port_statistics()) / (len(jobs) * cycles)


@pytest.mark.parametrize("flags", [0, THROTTLE])
@pytest.mark.parametrize("timing", TIMINGS.values(), ids=TIMINGS.keys())
def test_reads_arrive_in_order_within_each_id(dma_library: Path, timing: DramTiming, flags: int) -> None:
    dma = SimulatedAccelerator(dma_library, memory_bytes=1 << 21, timing=timing)
    dma.memory[:] = CONTENTS
    jobs = [Job(0, 100, 15, flags=flags), Job(1 << 20, 9, 255, flags=flags), Job(0x4310, 300, 0, flags=flags)]
    jobs.append(Job((1 << 21) - 96 * 4096, 96 * 4, 63, flags=flags))  # up to the very last byte
    start(dma, jobs)
    dma.run_until_irq(200_000, max_idle_cycles=5_000)
    for port, job in enumerate(jobs):
        assert read_hashes(dma, port) == expected_hashes(dma.memory, job, PORT_BYTES)
    assert not dma.violations() and not dma.errors()


@pytest.mark.parametrize("timing", TIMINGS.values(), ids=TIMINGS.keys())
def test_copies_leave_everything_else_alone(dma_library: Path, timing: DramTiming) -> None:
    dma = SimulatedAccelerator(dma_library, memory_bytes=1 << 22, timing=timing)
    dma.memory[: 1 << 21] = CONTENTS
    dma.memory[1 << 21 :] = 0xA5
    shapes = [(40, 15), (3, 255), (77, 0), (50, 6)]
    jobs = [
        Job((port << 16) + 0x40 * port, bursts, len, destination=(1 << 21) + (port << 16) + 0x1000 - len % 2 * 0x400,
            flags=COPY | (THROTTLE if port % 2 else 0))
        for port, (bursts, len) in enumerate(shapes)
    ]
    jobs[3] = replace_addresses(jobs[3], 0x38000, (1 << 21) + 0x38000)
    expected = dma.memory.copy()
    for job in jobs:
        size = job.bursts * (job.len + 1) * PORT_BYTES
        expected[job.destination : job.destination + size] = expected[job.source : job.source + size]
    start(dma, jobs)
    dma.run_until_irq(200_000, max_idle_cycles=5_000)
    np.testing.assert_array_equal(dma.memory, expected)
    assert not dma.errors()


def replace_addresses(job: Job, source: int, destination: int) -> Job:
    return replace(job, source=source, destination=destination)


def test_written_data_lands_with_its_response(dma_library: Path) -> None:
    dma = SimulatedAccelerator(dma_library, memory_bytes=1 << 20, timing=replace(KV260, write_latency=500))
    dma.memory[:256] = 1
    start(dma, [Job(0, 1, 15, destination=0x1000, flags=COPY)])
    while dma.port_statistics()[0].write_beats < 16:
        dma.tick()
    dma.tick(480)
    assert not dma.memory[0x1000:0x1100].any()
    dma.run_until_irq(200)
    assert dma.memory[0x1000:0x1100].all()


@pytest.mark.parametrize("spacing", [0x1000000, 0x1007000, 0x10C5000])
@pytest.mark.parametrize("len", [63, 255])
def test_long_streams_reach_the_rate_of_the_ports(dma: SimulatedAccelerator, len: int, spacing: int) -> None:
    bursts = 160_000 // (len + 1)
    rate = efficiency(dma, [Job(port * spacing, bursts, len) for port in range(4)])
    assert 64 * 0.25 * rate >= 15.9  # GB/s at 250 MHz
    assert rate <= 1


def test_short_reads_in_a_row_lose_a_little(dma: SimulatedAccelerator) -> None:
    assert 0.98 < efficiency(dma, [Job(port * 0x1007000, 5000, 15) for port in range(4)]) < 0.999


def test_scattered_short_reads_are_clearly_slower(dma_library: Path) -> None:
    dma = SimulatedAccelerator(dma_library, memory_bytes=1 << 28, timing=board_timing(load_board("kv260")))
    rates = [
        efficiency(dma, [Job(port << 26, 3000, len, scatter=(1 << 25) // (16 * (len + 1)) - 1) for port in range(4)])
        for len in (3, 15, 63)
    ]
    assert rates == sorted(rates)
    assert 0.2 < rates[0] < 0.5
    assert 0.5 < rates[1] < 0.8


def test_fewer_outstanding_reads_are_bound_by_latency(dma_library: Path) -> None:
    timing = replace(KV260, max_reads=2, refresh_interval=0)
    dma = SimulatedAccelerator(dma_library, memory_bytes=1 << 26, timing=timing)
    rate = efficiency(dma, [Job(0, 1000, 15)])
    assert rate == pytest.approx(2 * 16 / (60 + 16 + 4), abs=0.06)  # two bursts in a round trip
    assert dma.port_statistics()[0].reads_outstanding_max <= 3  # one more while its last beat is on the port


def test_latency_of_a_single_read(dma_library: Path) -> None:
    dma = SimulatedAccelerator(dma_library, memory_bytes=1 << 26, timing=replace(KV260, refresh_interval=0))
    waits = []
    for _ in range(2):
        dma.clear_statistics()
        start(dma, [Job(0, 1, 0)])
        dma.run_until_irq(1000)
        waits.append(dma.port_statistics()[0].read_waiting)
    miss, hit = waits
    assert miss - hit == KV260.row_miss_cycles
    assert hit == KV260.read_latency


def test_bandwidth_is_shared_and_limited(dma_library: Path) -> None:
    timing = replace(KV260, bytes_per_cycle=32.0, refresh_interval=0)
    dma = SimulatedAccelerator(dma_library, memory_bytes=1 << 26, timing=timing)
    assert efficiency(dma, [Job(port << 24, 200, 255) for port in range(4)]) == pytest.approx(0.5, abs=0.02)


def test_copying_pays_for_both_directions(dma: SimulatedAccelerator) -> None:
    size = 200 * 4096
    jobs = [Job(port * size, 200, 255, destination=(1 << 27) + port * size, flags=COPY) for port in range(4)]
    rate = efficiency(dma, jobs)
    assert 0.4 < rate < 76.8 / 128  # every byte crosses the DDR bus twice


def test_every_cycle_is_counted_once(dma_library: Path) -> None:
    dma = SimulatedAccelerator(dma_library, memory_bytes=1 << 21, timing=RANDOM(3))
    dma.clear_statistics()
    begin = dma.cycle
    start(dma, [Job(0, 50, 15, destination=1 << 20, flags=COPY | THROTTLE), Job(0, 10, 3)])
    dma.run_until_irq(100_000)
    cycles = dma.cycle - begin
    ports = dma.port_statistics()
    for port in ports:
        assert port.read_beats + port.read_stalled + port.read_waiting + port.read_idle == cycles
        assert port.write_beats + port.write_stalled + port.write_waiting + port.write_idle == cycles
        assert port.reads_outstanding == port.writes_outstanding == 0
    assert (ports[0].read_commands, ports[0].read_beats, ports[0].write_commands) == (50, 800, 50)
    assert ports[0].write_beats == 800 and ports[0].read_stalled > 0
    assert (ports[1].read_commands, ports[1].read_beats, ports[1].write_commands) == (10, 40, 0)
    assert ports[3].read_idle == ports[3].write_idle == cycles


def test_accesses_outside_the_memory_are_answered_and_recorded(dma_library: Path) -> None:
    base, size = 0x4000_0000, 1 << 20
    dma = SimulatedAccelerator(dma_library, memory_bytes=size, memory_base=base)
    dma.memory[:] = 3
    start(dma, [Job(base + size - 256, 2, 15), Job(base - 256, 1, 15), Job(base, 1, 15, base + size, flags=COPY)])
    dma.run_until_irq(10_000)
    errors = dma.errors()
    assert sorted((error.port, error.text) for error in errors) == [
        (0, f"read of 16 beats at 0x{base + size:x} is outside the memory"),
        (1, f"read of 16 beats at 0x{base - 256:x} is outside the memory"),
        (2, f"write of 16 beats at 0x{base + size:x} is outside the memory"),
    ]
    # The response goes into the hash: 3 is DECERR, and the data is not the memory's.
    value = 0
    for _ in range(16):
        value = ((value << 1 | value >> 63) + 0xEEEEEEEEEEEEEEEE + 3) & (1 << 64) - 1
    assert read_hashes(dma, 1)[1] == value
    assert (dma.memory == 3).all()
    dma.clear_records()
    assert not dma.errors() and dma.error_count == 0


@pytest.mark.parametrize(
    ("bug", "job", "text"),
    [
        (1, Job(0, 50, 3), "ARVALID fell before ARREADY"),
        (2, Job(0, 50, 3), "AR payload changed while waiting for ARREADY (address 0x"),
        (0, Job(0xFF0, 1, 1), "AR burst crosses a 4 KB boundary (address 0xff0, 2 beats of 16 bytes)"),
        (0, Job(0, 1, 1, destination=0x1FF0, flags=COPY), "AW burst crosses a 4 KB boundary (address 0x1ff0"),
        (4, Job(0, 4, 3, destination=0x1000, flags=COPY), "WLAST is 1 on beat 1 of a burst of 4"),
        (4, Job(0, 4, 3, destination=0x1000, flags=COPY), "WLAST is 0 on beat 4 of a burst of 4"),
        (5, Job(0, 20, 255), "more W beats than AW promised"),
        (6, Job(0, 60, 3, destination=0x8000, flags=COPY), "W payload changed while waiting for WREADY"),
        (7, Job(0, 4, 3), "ARSIZE 5 is wider than the 16-byte port"),
        (8, Job(0, 4, 3), "ARBURST is 0, only INCR (1) is supported"),
    ],
)
def test_broken_rules_are_recorded(dma_library: Path, bug: int, job: Job, text: str) -> None:
    dma = SimulatedAccelerator(dma_library, memory_bytes=1 << 20, timing=RANDOM(1))
    start(dma, [Job(0, 0, 0), job], bug=bug)
    dma.tick(30_000)
    violations = dma.violations()
    assert any(record.text.startswith(text) for record in violations), violations[:5]
    assert all(record.port == 1 for record in violations if bug != 5)
    assert all(0 < record.cycle < dma.cycle for record in violations)


def test_kept_records_are_bounded(dma_library: Path) -> None:
    dma = SimulatedAccelerator(dma_library, memory_bytes=1 << 20)
    start(dma, [Job(0, 1000, 0)], bug=8)
    dma.run_until_irq(100_000)
    assert len(dma.violations()) == 256 and dma.violation_count == 1000


def test_the_same_seed_gives_the_same_cycles(dma_library: Path) -> None:
    def cycles(seed: int) -> int:
        dma = SimulatedAccelerator(dma_library, memory_bytes=1 << 20, timing=RANDOM(seed))
        start(dma, [Job(0, 60, 15), Job(4096, 60, 15)])
        return dma.run_until_irq(100_000)

    assert cycles(4) == cycles(4)
    assert len({cycles(seed) for seed in range(4)}) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ready_probability": 0.0}, "ready_probability must be above 0"),
        ({"data_probability": 1.5}, "data_probability must be above 0 and at most 1"),
        ({"max_reads": 0}, "max_reads must be at least 1, not 0"),
        ({"read_latency": -1}, "read_latency must be at least 0, not -1"),
        ({"row_bytes": 100}, "row_bytes must be a multiple of 256, not 100"),
        ({"interleave": True}, "interleave must be off"),
        ({"bank_groups": 3}, "bank_groups must be 1, 2 or 4 and divide the banks, not 3"),
        ({"read_buffer_bytes": 128}, "read_buffer_bytes must be at least 256, not 128"),
        ({"port_groups": (0, 16)}, r"port_groups must be up to 16 numbers below 16, not \(0, 16\)"),
        ({"bytes_per_cycle": 0.0, "cpu_bytes_per_cycle": 1.0}, "cpu_bytes_per_cycle must be 0 without a controller"),
    ],
)
def test_bad_timing_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(KV260, **change)


@pytest.mark.parametrize("timing", TIMINGS.values(), ids=TIMINGS.keys())
def test_reads_owed_from_before_a_reset_are_answered(dma_library: Path, timing: DramTiming) -> None:
    dma = SimulatedAccelerator(dma_library, memory_bytes=1 << 20, timing=timing)
    start(dma, [Job(0, 40, 15)])
    while not dma.port_statistics()[0].reads_outstanding:
        dma.tick()
    owed = dma.port_statistics()[0]
    dma.reset()
    assert dma.port_statistics()[0].reads_outstanding == owed.reads_outstanding
    dma.tick(4000)
    port = dma.port_statistics()[0]
    assert (port.read_commands, port.read_beats, port.reads_outstanding) == (owed.read_commands, 16 * owed.read_commands, 0)
    assert not dma.violations()


def test_a_write_cut_short_by_a_reset_waits_until_it_is_dropped(dma_library: Path) -> None:
    dma = SimulatedAccelerator(dma_library, memory_bytes=1 << 20, timing=KV260)
    dma.memory[: 1 << 16] = 1
    job = Job(0, 1, 255, destination=0x8000, flags=COPY)
    start(dma, [job])
    while dma.port_statistics()[0].write_beats < 5:
        dma.tick()
    dma.reset()
    dma.tick(3000)
    assert dma.port_statistics()[0].writes_outstanding == 1
    assert (dma.memory[0x8000:0x9000] == 1).all()  # what was there: nothing of it landed
    dma.drop_outstanding()
    assert dma.port_statistics()[0].writes_outstanding == 0
    dma.memory[:0x1000] = 7
    start(dma, [job])
    dma.run_until_irq(3000)
    assert (dma.memory[0x8000:0x9000] == 7).all()


@pytest.mark.parametrize("early", [0, 1, 16, 128])
@pytest.mark.parametrize("name", ["kv260", "ideal", "random3", "random5", "interleaved"])
def test_data_may_be_offered_before_its_address(dma_library: Path, name: str, early: int) -> None:
    dma = SimulatedAccelerator(dma_library, memory_bytes=1 << 21, timing=replace(TIMINGS[name], early_beats=early))
    dma.memory[: 1 << 20] = CONTENTS[: 1 << 20]
    jobs = [Job(port << 16, 30, 15, destination=(1 << 20) + (port << 16), flags=COPY | LEAD) for port in range(4)]
    expected = dma.memory.copy()
    for job in jobs:
        expected[job.destination : job.destination + 30 * 256] = expected[job.source : job.source + 30 * 256]
    start(dma, jobs)
    while not dma.port_statistics()[0].write_commands:
        dma.tick()
    assert dma.port_statistics()[0].write_beats == min(early, 16 * 30, dma.port_statistics()[0].write_beats)
    assert (dma.port_statistics()[0].write_beats > 0) == (early > 0)
    dma.run_until_irq(200_000, max_idle_cycles=5_000)
    np.testing.assert_array_equal(dma.memory, expected)
    assert not dma.violations() and not dma.errors()
