"""StreamWriter: every byte in its place, nothing else touched, idle only when all is answered."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import cocotb
import pytest

from hwgen.config import BuildConfig
from hwgen.hw.memory.writer import StreamWriter
from tests.cocotb_runner import cocotb_parameters, run_cocotb
from tests.hw.axi.bench import AxiMemory, Bench, Source
from tests.hw.memory.test_stream import CONFIGS, random_segments

SENTINEL = 0xA5


@cocotb.test()
async def writes(dut: Any) -> None:
    config = BuildConfig.from_dict(cocotb_parameters()["config"])
    for rate, latency, seed in ((1.0, 0, 1), (1.0, 30, 2), (0.5, 5, 3), (0.8, 60, 4)):
        bench = Bench(dut, seed)
        segments, beats = Source(bench, "segments", rate=0.5), Source(bench, "beats", rate=rate)
        memory = bytearray([SENTINEL]) * (1 << 16)
        expected = bytearray(memory)
        ports = [
            AxiMemory(bench, f"axi__{p}", memory, config.port_bytes, max_words=config.burst, rate=rate, latency=latency, read=False)
            for p in range(config.ports)
        ]
        await bench.start()
        end = 0
        # Ports run apart, so segments must not overlap.
        for address, count in sorted(random_segments(config, bench.random, 16, 3 * config.burst)):
            if address < end:
                continue
            end = address + count * config.beat_bytes
            segments.items.append(address | count << 40)
            for i in range(count):
                data, strobe = bench.random.randbytes(config.beat_bytes), bench.random.getrandbits(config.beat_bytes)
                strobe = bench.random.choice([strobe, (1 << config.beat_bytes) - 1, 0])
                beats.items.append(int.from_bytes(data, "little") | strobe << 8 * config.beat_bytes)
                for b in range(config.beat_bytes):
                    plane, byte = divmod(b, config.port_bytes)
                    if strobe >> b & 1:
                        expected[address + (plane * count + i) * config.port_bytes + byte] = data[b]
        await bench.step(4)
        await bench.until(lambda beats=beats: not beats.items and bool(dut.idle.value))
        assert memory == expected
        assert all(not p.responses and not p.bursts for p in ports)
        assert all(p.most_in_flight <= config.outstanding for p in ports)


@cocotb.test()
async def reports_errors(dut: Any) -> None:
    config = BuildConfig.from_dict(cocotb_parameters()["config"])
    bench = Bench(dut, 5)
    segments, beats = Source(bench, "segments"), Source(bench, "beats")
    for p in range(config.ports):
        AxiMemory(bench, f"axi__{p}", bytearray(4096), config.port_bytes, max_words=config.burst, read=False)
    await bench.start()
    segments.items.append(1 << 20 | config.groups << 40)
    beats.items.extend([0] * config.groups)
    seen: set[int] = set()
    for _ in range(60):
        await bench.step()
        for p in range(config.ports):
            if getattr(dut, f"errors__{p}__valid").value:
                assert int(getattr(dut, f"errors__{p}__resp").value) == 3
                seen.add(p)
    assert seen == set(range(config.ports))
    assert dut.idle.value


@cocotb.test()
async def sustains_a_beat_a_cycle(dut: Any) -> None:
    config = BuildConfig.from_dict(cocotb_parameters()["config"])
    bench = Bench(dut, 6)
    segments, beats = Source(bench, "segments"), Source(bench, "beats")
    for p in range(config.ports):
        AxiMemory(bench, f"axi__{p}", bytearray(1 << 16), config.port_bytes, max_words=config.burst, latency=4, read=False)
    await bench.start()
    total = 16 * config.burst
    segments.items.append(total << 40)
    beats.items.extend([0] * total)
    cycles = await bench.until(lambda: not beats.items)
    if config.burst >= 8:
        assert cycles < total + 40, f"{total} beats took {cycles} cycles"


@pytest.mark.parametrize("name", CONFIGS)
def test_writer(name: str, tmp_path: Path) -> None:
    run_cocotb(StreamWriter(CONFIGS[name]), test_module=__name__, build_dir=tmp_path, parameters={"config": asdict(CONFIGS[name])})
