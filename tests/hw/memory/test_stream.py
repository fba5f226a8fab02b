"""Segments -> ports -> ring -> rows: data, protocol, room, order, replay, and ports that behave badly."""

from __future__ import annotations

import random
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import cocotb
import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hwgen.config import BuildConfig
from hwgen.hw.interfaces import BeatStream, Segment
from hwgen.hw.memory.beats import RowToBeats
from hwgen.hw.memory.reader import StreamReader
from tests.cocotb_runner import cocotb_parameters, run_cocotb
from tests.hw.axi.bench import AxiMemory, Bench, Sink, Source, pattern

# Four banks of two bursts in turn: a block is 64 beats.
SMALL = BuildConfig(ring_beats=256, burst=8, outstanding=3, kv_block=16, chunk=8, bank_bytes=256)
# One port, one beat a burst, a ring of eight bursts.
NARROW = BuildConfig(ports=1, beat_bytes=16, groups=1, lanes=1, rows=2, kv_block=8, builders=7, ring_beats=8, burst=1,
                     outstanding=1)
# More ports than a beat has words: they wait for the ring.
MANY = BuildConfig(ports=6, beat_bytes=32, groups=2, kv_block=16, chunk=8, ring_beats=128, burst=4, outstanding=4, bank_bytes=256)
# Narrow words, as many to a beat as a queue has room for four times.
WORDS = BuildConfig(ports=3, port_bits=32, beat_bytes=64, groups=4, lanes=1, rows=1, kv_block=32, builders=107, ring_beats=64,
                    burst=32, outstanding=2, bank_bytes=128)
# A ring whose depth is not a power of two, nor a multiple of a burst or of a block.
ODD = BuildConfig(ports=3, ring_beats=274, burst=8, outstanding=3, kv_block=16, chunk=8, bank_bytes=256)
CONFIGS = {"small": SMALL, "narrow": NARROW, "many": MANY, "words": WORDS, "odd": ODD}


class BeatPath(wiring.Component):
    """The stream reader with single beats."""

    def __init__(self, config: BuildConfig) -> None:
        self.reader = StreamReader(config)
        self.converter = RowToBeats(config, 1)
        members = dict(self.reader.signature.members.items())
        super().__init__({**members, "rows": Out(BeatStream(config)), "segments": In(Segment())})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.reader, m.submodules.converter = reader, converter = self.reader, self.converter
        connect(m, reader.rows, converter.rows)
        connect(m, converter.beats[0], flipped(self.rows))
        connect(m, flipped(self.segments), reader.segments)
        for name in ("enabled", "halt", "hold", "rewind"):
            m.d.comb += getattr(reader, name).eq(getattr(self, name))
        for name in ("level", "unasked", "beat", "waiting", "idle", "in_flight"):
            m.d.comb += getattr(self, name).eq(getattr(reader, name))
        for outer, inner in zip(self.axi, reader.axi, strict=True):
            connect(m, inner, flipped(outer))
        for outer, inner in zip(self.errors, reader.errors, strict=True):
            connect(m, inner, flipped(outer))
        return m


def segment_beats(config: BuildConfig, memory: bytearray, address: int, beats: int) -> list[int]:
    size = config.beat_bytes
    return [int.from_bytes(memory[address + i * size : address + (i + 1) * size], "little") for i in range(beats)]


def gather(values: list[int], bits: int, group: int) -> list[int]:
    return [sum(v << (bits * k) for k, v in enumerate(values[i : i + group])) for i in range(0, len(values), group)]


class Stream:
    """A bench with a memory behind every port; ``ports`` gives each its rate and latency."""

    def __init__(self, dut: Any, seed: int, ports: list[tuple[float, int]], rate: float = 1.0) -> None:
        self.dut = dut
        self.config = config = BuildConfig.from_dict(cocotb_parameters()["config"])
        self.bench = bench = Bench(dut, seed)
        dut.hold.value = dut.rewind.value = dut.halt.value = 0
        dut.enabled.value = (1 << config.ports) - 1
        self.segments, self.rows = Source(bench, "segments", rate=max(rate, 0.3)), Sink(bench, "rows", rate=rate)
        self.memory = pattern(1 << 16)
        self.ports = [
            AxiMemory(bench, f"axi__{p}", self.memory, config.port_bytes, max_words=config.burst, rate=of_port, latency=latency,
                      write=False)
            for p, (of_port, latency) in zip(range(config.ports), ports * config.ports, strict=False)
        ]

    async def start(self) -> None:
        await self.bench.start()

    def ask(self, segments: list[tuple[int, int]]) -> list[int]:
        """Queues segments; returns their rows (or beats)."""
        self.segments.items.extend(a | n << 40 for a, n in segments)
        beats = [b for a, n in segments for b in segment_beats(self.config, self.memory, a, n)]
        if cocotb_parameters()["beats"]:
            return beats
        return gather(beats, 8 * self.config.beat_bytes, self.config.groups)

    async def expect(self, rows: list[int]) -> None:
        await self.bench.until(lambda: len(self.rows.items) >= len(rows))
        await self.bench.step(20)
        assert self.rows.items == rows
        assert int(self.dut.level.value) == 0 and self.dut.idle.value and not self.dut.in_flight.value
        self.rows.items.clear()


def random_segments(config: BuildConfig, generator: random.Random, count: int, longest: int) -> list[tuple[int, int]]:
    """Some start or end at a 4 KB boundary or one beat beside it; some are one row, some at an uneven beat."""
    segments = []
    for _ in range(count):
        beats = config.groups * generator.choice([1, generator.randint(1, max(1, longest // config.groups))])
        near = generator.choice([0, 0, 4096, 8192])
        address = generator.randrange(0, 0x8000 // config.beat_bytes) * config.beat_bytes
        if near:
            address = near + config.beat_bytes * generator.choice([-beats, -beats + 1, -1, 0, 1])
        segments.append((max(0, address), beats))
    return segments


def longest_segment(config: BuildConfig) -> int:
    return min(3 * config.ring_beats // 2, 0x8000 // config.beat_bytes)


#: Rate of data and ready, and latency, of every port in turn.
PORTS = {
    "ideal": [(1.0, 0)],
    "late": [(1.0, 40)],
    "halting": [(0.5, 10)],
    "unequal": [(1.0, 3), (0.7, 30), (0.3, 12)],
    "one_slow": [(0.05, 90), (1.0, 2), (1.0, 5), (0.9, 7), (1.0, 3), (0.8, 1)],
}


@cocotb.test()
async def streams(dut: Any) -> None:
    for seed, (name, ports) in enumerate(PORTS.items()):
        path = Stream(dut, seed, ports, rate=0.9 if name == "unequal" else 1.0)
        await path.start()
        most = 6 if name == "one_slow" else 12
        await path.expect(path.ask(random_segments(path.config, path.bench.random, most, longest_segment(path.config))))
        assert all(0 < p.most_in_flight <= path.config.outstanding for p in path.ports)
        assert all(r["addr"] // unit == (r["addr"] + r["len"] * path.config.port_bytes) // unit
                   for p in path.ports for r in p.requests for unit in [path.config.burst * path.config.port_bytes])


@cocotb.test()
async def stops_where_the_ring_is_full(dut: Any) -> None:
    path = Stream(dut, 5, [(1.0, 5)])
    config = path.config
    await path.start()
    path.rows.enable = False
    # Only just not a block, so that everything is asked for in ascending order.
    beats = [(config.ring_beats // config.burst_beats + 2) * config.burst_beats]
    path.ask([(config.beat_bytes, n - config.groups) for n in beats])
    await path.bench.step(6 * config.ring_beats + 100)
    asked = sum(r["len"] + 1 for p in path.ports for r in p.requests) // config.beat_words
    assert config.ring_beats - config.block_beats < asked <= config.ring_beats
    assert path.dut.waiting.value and not path.dut.in_flight.value
    path.rows.enable = True
    await path.bench.step(20)
    path.segments.items.clear()
    path.segments.offered = False
    await path.bench.until(lambda: bool(path.dut.idle.value))
    await path.bench.step(config.ring_beats + 20)
    await path.bench.reset()
    path.rows.items.clear()
    await path.expect(path.ask([(0x40, config.groups)]))


@cocotb.test()
async def sustains_a_beat_a_cycle(dut: Any) -> None:
    path = Stream(dut, 6, [(1.0, 4)])
    config = path.config
    await path.start()
    total = min(60 * config.burst_beats, 0x10000 // config.beat_bytes)
    rows = path.ask([(0, total)])
    cycles = await path.bench.until(lambda: len(path.rows.items) == len(rows))
    words_a_cycle = min(config.beat_words, config.ports)
    if config.outstanding * config.burst >= 24 and config.burst_beats > 1:
        longest = total * config.beat_words // words_a_cycle + 50 + config.block_beats // config.groups
        assert cycles < longest, f"{total} beats: {cycles} cycles"


@cocotb.test()
async def replays(dut: Any) -> None:
    """Operators of any size that fits, read one to four times, with reads ahead going on meanwhile."""
    for ports, rate, seed in (("ideal", 1.0, 7), ("unequal", 0.6, 8)):
        path = Stream(dut, seed, PORTS[ports], rate=rate)
        bench, rows, config = path.bench, path.rows, path.config
        await path.start()
        depth = (config.ring_beats - 2 * config.burst_beats) // config.groups
        for number in range(10):
            count = [1, depth - 1, depth, 2][number] if number < 4 else bench.random.randint(1, depth)
            rounds = bench.random.choice([1, 2, 2, 3, 4])
            expected = path.ask([(bench.random.randrange(0x200) * config.beat_bytes, count * config.groups)])
            for turn in range(rounds):
                hold = turn < rounds - 1
                dut.hold.value = int(hold)
                rows.enable = False
                await bench.step(bench.random.choice([2, 3, 30]))
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
                    await bench.step()
                    dut.rewind.value = 0
                    rows.forget()
                    await bench.step()
                    rows.forget()
        await bench.step(40)
        assert int(dut.level.value) == 0


@cocotb.test()
async def uses_enabled_ports_alone(dut: Any) -> None:
    path = Stream(dut, 11, PORTS["unequal"])
    await path.start()
    for number in range(path.config.ports):
        dut.enabled.value = 1 << number
        for port in path.ports:
            port.requests.clear()
        await path.expect(path.ask(random_segments(path.config, path.bench.random, 3, 40)))
        assert [bool(p.requests) for p in path.ports] == [p == number for p in range(path.config.ports)]


@cocotb.test()
async def halts_and_drains(dut: Any) -> None:
    """While halted no burst begins, and what is in flight comes to its end; then everything goes on."""
    path = Stream(dut, 12, PORTS["unequal"])
    bench = path.bench
    await path.start()
    rows = path.ask(random_segments(path.config, bench.random, 12, longest_segment(path.config)))
    for _ in range(8):
        await bench.step(bench.random.randint(1, 60))
        dut.halt.value = 1
        await bench.step(2)
        begun = [len(p.requests) for p in path.ports]
        await bench.until(lambda: not dut.in_flight.value)
        # An address on offer at the halt is still taken: one a port.
        assert all(len(p.requests) <= before + 1 for p, before in zip(path.ports, begun, strict=True))
        begun = [len(p.requests) for p in path.ports]
        await bench.step(bench.random.randint(1, 40))
        assert not dut.in_flight.value and begun == [len(p.requests) for p in path.ports]
        assert not any(p.ar.valid.value for p in path.ports)
        dut.halt.value = 0
    await path.expect(rows)


@cocotb.test()
async def drops_what_nobody_asked_for(dut: Any) -> None:
    """Answers of before a reset are dropped, counted and not delivered."""
    path = Stream(dut, 13, PORTS["late"])
    bench, config = path.bench, path.config
    await path.start()
    path.ask([(0, 4 * config.burst_beats * config.groups)])
    await bench.until(lambda: all(p.queues.get(0) for p in path.ports))
    path.segments.items.clear()
    path.segments.offered = False
    await bench.reset()
    path.rows.items.clear()
    path.rows.forget()
    owed = sum(len(p.queues[0]) + (p.answer is not None) for p in path.ports)
    dropped = 0
    for _ in range(400):
        await bench.step()
        dropped += int(dut.unasked.value).bit_count()
    assert owed - len(path.ports) <= dropped <= owed and dropped > 0
    assert not path.rows.items and int(dut.level.value) == 0 and dut.idle.value
    await path.expect(path.ask(random_segments(config, bench.random, 4, 40)))
    assert not int(dut.unasked.value)


@cocotb.test()
async def reports_errors(dut: Any) -> None:
    path = Stream(dut, 9, [(1.0, 2)])
    config = path.config
    await path.start()
    # As many bursts as ports: each of them gets one.
    path.segments.items.append((1 << 20) | (config.ports * config.burst_beats * config.groups) << 40)
    seen: set[int] = set()
    for _ in range(300):
        await path.bench.step()
        for p in range(config.ports):
            if getattr(dut, f"errors__{p}__valid").value:
                assert int(getattr(dut, f"errors__{p}__resp").value) == 3
                seen.add(p)
    assert seen == set(range(config.ports))
    assert len(path.rows.items) == config.ports * config.burst_beats  # delivered all the same


ROWS = ["streams", "stops_where_the_ring_is_full", "sustains_a_beat_a_cycle", "replays", "uses_enabled_ports_alone",
        "halts_and_drains", "drops_what_nobody_asked_for", "reports_errors"]


@pytest.mark.parametrize("name", CONFIGS)
def test_rows(name: str, tmp_path: Path) -> None:
    config = CONFIGS[name]
    run_cocotb(partial(StreamReader, config), test_module=__name__, build_dir=tmp_path, testcase=ROWS,
               parameters={"config": asdict(config), "beats": False})


def test_beats(tmp_path: Path) -> None:
    run_cocotb(partial(BeatPath, SMALL), test_module=__name__, build_dir=tmp_path, testcase="streams",
               parameters={"config": asdict(SMALL), "beats": True})
