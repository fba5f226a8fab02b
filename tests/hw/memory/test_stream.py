"""Segments -> ports -> ring -> rows: data, protocol, credits, replay."""

from __future__ import annotations

import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cocotb
import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hwgen.config import BuildConfig
from hwgen.hw.axi.signature import Axi4Read
from hwgen.hw.interfaces import BeatStream, RowStream, Segment
from hwgen.hw.memory.beats import RowToBeats
from hwgen.hw.memory.port import ErrorReport, PortReader
from hwgen.hw.memory.ring import UramRing
from hwgen.hw.memory.stripe import PlaneSplitter
from tests.cocotb_runner import cocotb_parameters, run_cocotb
from tests.hw.axi.bench import AxiMemory, Bench, Sink, Source, pattern

SMALL = BuildConfig(ring_beats=64, burst=8, outstanding=3, kv_block=16, chunk=8)
NARROW = BuildConfig(ports=1, beat_bytes=16, groups=1, lanes=1, rows=2, kv_block=8, builders=7, ring_beats=32, burst=4,
                     outstanding=1)
WIDE = BuildConfig(ports=4, beat_bytes=16, port_bits=32, groups=4, lanes=1, rows=1, kv_block=8, builders=27, ring_beats=32, burst=4,
                   outstanding=4)
# Rings whose depth is not a power of two, nor a multiple of a burst.
ODD = BuildConfig(ring_beats=74, burst=8, outstanding=3, kv_block=16, chunk=8)
CONFIGS = {"small": SMALL, "narrow": NARROW, "wide": WIDE, "odd": ODD}


class StreamPath(wiring.Component):
    def __init__(self, config: BuildConfig, beats: bool) -> None:
        self.config, self.beats = config, beats
        super().__init__({
            "segments": In(Segment()),
            "axi": Out(Axi4Read(config.port_bits)).array(config.ports),
            "rows": Out(BeatStream(config) if beats else RowStream(config)),
            "error": Out(ErrorReport()).array(config.ports),
            "idle": Out(config.ports),
            "hold": In(1),
            "rewind": In(1),
            "level": Out(range(config.ring_beats // config.groups + 1)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.planes = planes = PlaneSplitter(self.config)
        m.submodules.ring = ring = UramRing(self.config)
        connect(m, flipped(self.segments), planes.segments)
        for number in range(self.config.ports):
            m.submodules[f"port{number}"] = port = PortReader(self.config)
            connect(m, planes.runs[number], port.runs)
            connect(m, port.axi, flipped(self.axi[number]))
            connect(m, port.words, ring.words[number])
            connect(m, port.error, flipped(self.error[number]))
            m.d.comb += [port.freed.eq(ring.freed), self.idle[number].eq(port.idle)]
        m.d.comb += [ring.hold.eq(self.hold), ring.rewind.eq(self.rewind), self.level.eq(ring.level)]
        if self.beats:
            m.submodules.converter = converter = RowToBeats(self.config)
            connect(m, ring.rows, converter.rows)
            connect(m, converter.beats, flipped(self.rows))
        else:
            connect(m, ring.rows, flipped(self.rows))
        return m


def segment_beats(config: BuildConfig, memory: bytearray, address: int, beats: int) -> list[int]:
    size = config.port_bytes
    planes = [address + p * beats * size for p in range(config.ports)]
    return [int.from_bytes(b"".join(memory[a + i * size : a + (i + 1) * size] for a in planes), "little") for i in range(beats)]


def gather(values: list[int], bits: int, group: int) -> list[int]:
    return [sum(v << (bits * k) for k, v in enumerate(values[i : i + group])) for i in range(0, len(values), group)]


async def set_up(
    dut: Any, rate: float, latency: int, seed: int
) -> tuple[BuildConfig, Bench, bytearray, list[AxiMemory], Source, Sink]:
    config = BuildConfig.from_dict(cocotb_parameters()["config"])
    bench = Bench(dut, seed)
    dut.hold.value = 0
    dut.rewind.value = 0
    segments, rows = Source(bench, "segments", rate=max(rate, 0.3)), Sink(bench, "rows", rate=rate)
    memory = pattern(1 << 16)
    ports = [
        AxiMemory(bench, f"axi__{p}", memory, config.port_bytes, max_words=config.burst, rate=rate, latency=latency, write=False)
        for p in range(config.ports)
    ]
    await bench.start()
    return config, bench, memory, ports, segments, rows


def random_segments(config: BuildConfig, generator: random.Random, count: int, longest: int) -> list[tuple[int, int]]:
    """Some start or end at a 4 KB boundary or one word beside it."""
    segments = []
    for _ in range(count):
        beats = config.groups * generator.randint(1, longest // config.groups)
        near = generator.choice([0, 0, 4096, 8192])
        address = generator.randrange(0, 0x8000 // config.port_bytes) * config.port_bytes
        if near:
            address = near + config.port_bytes * generator.choice([-beats, -beats + 1, -1, 0, 1])
        segments.append((max(0, address), beats))
    return segments


@cocotb.test()
async def streams(dut: Any) -> None:
    beats_out = cocotb_parameters()["beats"]
    for rate, latency, seed in ((1.0, 0, 1), (1.0, 40, 2), (0.5, 10, 3), (0.9, 3, 4)):
        config, bench, memory, ports, segments, rows = await set_up(dut, rate, latency, seed)
        chosen = random_segments(config, bench.random, 25, 3 * config.ring_beats // 4)
        segments.items.extend(a | n << 40 for a, n in chosen)
        beats = [b for a, n in chosen for b in segment_beats(config, memory, a, n)]
        expected = beats if beats_out else gather(beats, 8 * config.beat_bytes, config.groups)
        await bench.until(lambda rows=rows, expected=expected: len(rows.items) == len(expected))
        await bench.step(60)
        assert rows.items == expected
        assert int(dut.idle.value) == (1 << config.ports) - 1
        assert int(dut.level.value) == 0
        assert all(p.most_in_flight <= config.outstanding for p in ports)


@cocotb.test()
async def fills_and_waits(dut: Any) -> None:
    """Nothing is taken: the ports stop exactly where the ring is full; reset in the middle starts over."""
    config, bench, memory, ports, segments, rows = await set_up(dut, 1.0, 5, 5)
    rows.enable = False
    segments.items.append(0x1000 | (4 * config.ring_beats) << 40)
    await bench.step(6 * config.ring_beats + 100)
    whole_bursts = config.ring_beats // config.burst * config.burst
    assert sum(r["len"] + 1 for r in ports[0].requests) == whole_bursts
    assert int(dut.level.value) == whole_bursts // config.groups
    rows.enable = True
    await bench.step(20)
    segments.items.clear()
    await bench.reset()
    for port in ports:
        port.queues.clear()
        port.answer = None
    rows.items.clear()
    rows.forget()
    segments.items.append(0x40 | config.groups << 40)
    await bench.until(lambda: len(rows.items) == 1)
    assert rows.items == gather(segment_beats(config, memory, 0x40, config.groups), 8 * config.beat_bytes, config.groups)


@cocotb.test()
async def sustains_a_word_a_cycle(dut: Any) -> None:
    config, bench, _, ports, segments, rows = await set_up(dut, 1.0, 4, 6)
    total = 40 * config.burst
    segments.items.append(total << 40)
    cycles = await bench.until(lambda: len(rows.items) == total // config.groups)
    if config.burst >= 8:
        assert cycles < total + 40, f"{total} beats took {cycles} cycles"


@cocotb.test()
async def replays(dut: Any) -> None:
    """Operators of any size that fits, read one to four times, with reads ahead going on meanwhile."""
    for rate, seed in ((1.0, 7), (0.6, 8)):
        config, bench, memory, _, segments, rows = await set_up(dut, rate, 7, seed)
        depth = config.ring_beats // config.groups
        for number in range(14):
            count = [1, depth - 1, depth, 2][number] if number < 4 else bench.random.randint(1, depth)
            rounds = bench.random.choice([1, 2, 2, 3, 4])
            address = bench.random.randrange(0x400) * config.port_bytes
            segments.items.append(address | (count * config.groups) << 40)
            expected = gather(segment_beats(config, memory, address, count * config.groups), 8 * config.beat_bytes, config.groups)
            for turn in range(rounds):
                hold = turn < rounds - 1
                dut.hold.value = int(hold)
                rows.enable = False
                await bench.step(bench.random.choice([1, 1, 3, 30]))
                rows.items.clear()
                rows.enable = True
                # The consumer takes exactly the operator's rows and no more.
                while len(rows.items) < count:
                    await bench.step()
                rows.enable = False
                assert rows.items == expected, f"operator {number}, round {turn}"
                if hold:
                    await bench.step(bench.random.choice([0, 0, 5]))
                    dut.hold.value = 0
                    dut.rewind.value = 1
                    rows.forget()
                    await bench.step()
                    dut.rewind.value = 0
        await bench.step(40)
        assert int(dut.level.value) == 0


@cocotb.test()
async def reports_errors(dut: Any) -> None:
    config, bench, _, _, segments, rows = await set_up(dut, 1.0, 2, 9)
    segments.items.append(((1 << 20) + 64) | config.groups << 40)
    seen: set[int] = set()
    while len(rows.items) < 1:
        await bench.step()
        for p in range(config.ports):
            if getattr(dut, f"error__{p}__valid").value:
                assert int(getattr(dut, f"error__{p}__resp").value) == 3
                seen.add(p)
    assert seen == set(range(config.ports))


ROWS = ["streams", "fills_and_waits", "sustains_a_word_a_cycle", "replays", "reports_errors"]


@pytest.mark.parametrize("name", CONFIGS)
def test_rows(name: str, tmp_path: Path) -> None:
    config = CONFIGS[name]
    run_cocotb(StreamPath(config, False), test_module=__name__, build_dir=tmp_path, testcase=ROWS,
               parameters={"config": asdict(config), "beats": False})


def test_beats(tmp_path: Path) -> None:
    run_cocotb(StreamPath(SMALL, True), test_module=__name__, build_dir=tmp_path, testcase="streams",
               parameters={"config": asdict(SMALL), "beats": True})
