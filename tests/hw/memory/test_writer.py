"""StreamWriter: every byte in its place, nothing else touched, idle only when all is answered."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import cocotb
import pytest

from hwgen.config import BuildConfig
from hwgen.hw.memory.writer import BURST_WORDS, StreamWriter
from tests.cocotb_runner import cocotb_parameters, run_cocotb
from tests.hw.axi.bench import AxiMemory, Bench, Source
from tests.hw.memory.test_stream import CONFIGS, random_segments

SENTINEL = 0xA5


def set_up(dut: Any, seed: int, memory: bytearray, rate: float = 1.0, latency: int = 0) -> tuple[
    BuildConfig, Bench, Source, Source, AxiMemory
]:
    config = BuildConfig.from_dict(cocotb_parameters()["config"])
    bench = Bench(dut, seed)
    dut.halt.value = 0
    segments, beats = Source(bench, "segments", rate=0.5), Source(bench, "beats", rate=rate)
    words = max(config.beat_words, min(config.burst, BURST_WORDS))
    return config, bench, segments, beats, AxiMemory(
        bench, "axi", memory, config.port_bytes, max_words=words, rate=rate, latency=latency, read=False
    )


def ask(config: BuildConfig, bench: Bench, segments: Source, beats: Source, expected: bytearray, count: int) -> None:
    """Random segments with random strobes, and what they leave in memory."""
    for address, length in random_segments(config, bench.random, count, 3 * config.burst_beats):
        segments.items.append(address | length << 40)
        for i in range(length):
            data, strobe = bench.random.randbytes(config.beat_bytes), bench.random.getrandbits(config.beat_bytes)
            strobe = bench.random.choice([strobe, (1 << config.beat_bytes) - 1, 0])
            beats.items.append(int.from_bytes(data, "little") | strobe << 8 * config.beat_bytes)
            for b in range(config.beat_bytes):
                if strobe >> b & 1:
                    expected[address + i * config.beat_bytes + b] = data[b]


@cocotb.test()
async def writes(dut: Any) -> None:
    for rate, latency, seed in ((1.0, 0, 1), (1.0, 30, 2), (0.5, 5, 3), (0.8, 60, 4)):
        memory = bytearray([SENTINEL]) * (1 << 16)
        expected = bytearray(memory)
        config, bench, segments, beats, port = set_up(dut, seed, memory, rate, latency)
        await bench.start()
        ask(config, bench, segments, beats, expected, 16)
        await bench.step(4)
        await bench.until(lambda s=segments, b=beats: not s.items and not b.items and bool(dut.idle.value))
        assert memory == expected
        assert not port.responses and not port.bursts and not port.words and not dut.in_flight.value
        assert port.most_in_flight <= config.outstanding


@cocotb.test()
async def data_does_not_wait_for_its_address(dut: Any) -> None:
    """A port that takes no address before the data."""
    memory = bytearray(1 << 16)
    expected = bytearray(memory)
    config, bench, segments, beats, port = set_up(dut, 5, memory)
    await bench.start()
    ask(config, bench, segments, beats, expected, 1)
    for _ in range(200):
        port.aw.rate = float(len(port.words) >= config.beat_words)
        await bench.step()
    port.aw.rate = 1.0
    await bench.until(lambda: not segments.items and not beats.items and bool(dut.idle.value))
    assert memory == expected and port.early_words >= config.beat_words


@cocotb.test()
async def halts_and_drains(dut: Any) -> None:
    """Halted at any time, even when no more beats come, it drains; then it goes on."""
    memory = bytearray([SENTINEL]) * (1 << 16)
    expected = bytearray(memory)
    config, bench, segments, beats, port = set_up(dut, 6, memory, 0.8, 12)
    await bench.start()
    ask(config, bench, segments, beats, expected, 20)
    for _ in range(12):
        await bench.step(bench.random.randint(1, 50))
        dut.halt.value = 1
        held, beats.items = beats.items, type(beats.items)(list(beats.items)[:1] if beats.offered else [])
        taken = len(beats.items)
        await bench.step(2)
        await bench.until(lambda: not dut.in_flight.value)
        requests = len(port.requests)
        await bench.step(30)
        assert not dut.in_flight.value and len(port.requests) == requests and not port.bursts and not port.words
        for _ in range(taken - len(beats.items)):
            held.popleft()
        beats.items = held
        dut.halt.value = 0
    await bench.until(lambda: not segments.items and not beats.items and bool(dut.idle.value))
    assert memory == expected


@cocotb.test()
async def drops_responses_of_before_a_reset(dut: Any) -> None:
    memory = bytearray(1 << 16)
    config, bench, segments, beats, port = set_up(dut, 7, memory, latency=40)
    await bench.start()
    segments.items.append(config.groups << 40)
    beats.items.extend([0] * config.groups)
    await bench.until(lambda: bool(port.responses) and not port.bursts and not beats.items)
    await bench.reset()
    dropped = 0
    for _ in range(60):
        await bench.step()
        dropped += int(dut.unasked.value)
    assert dropped >= 1 and not port.responses and dut.idle.value
    expected = bytearray(memory)
    ask(config, bench, segments, beats, expected, 3)
    await bench.step(4)
    await bench.until(lambda: not segments.items and not beats.items and bool(dut.idle.value))
    assert memory == expected


@cocotb.test()
async def reports_errors(dut: Any) -> None:
    config, bench, segments, beats, _ = set_up(dut, 8, bytearray(4096))
    await bench.start()
    segments.items.append(1 << 20 | config.groups << 40)
    beats.items.extend([0] * config.groups)
    seen = 0
    for _ in range(100):
        await bench.step()
        if dut.error__valid.value:
            assert int(dut.error__resp.value) == 3
            seen += 1
    assert seen and dut.idle.value


@cocotb.test()
async def sustains_a_word_a_cycle(dut: Any) -> None:
    config, bench, segments, beats, _ = set_up(dut, 9, bytearray(1 << 16), latency=4)
    await bench.start()
    total = 16 * config.burst_beats
    segments.items.append(total << 40)
    beats.items.extend([0] * total)
    cycles = await bench.until(lambda: not beats.items)
    if config.burst >= 8:
        assert cycles < total * config.beat_words + 60, f"{total} beats took {cycles} cycles"


@pytest.mark.parametrize("name", CONFIGS)
def test_writer(name: str, tmp_path: Path) -> None:
    config = CONFIGS[name]
    run_cocotb(partial(StreamWriter, config), test_module=__name__, build_dir=tmp_path, parameters={"config": asdict(config)})
