"""BurstSplitter: every beat once, aligned, in the order that its contract names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cocotb
import pytest

from hwgen.hw.axi.burst import BurstSplitter, Interleave
from tests.cocotb_runner import cocotb_parameters, run_cocotb
from tests.hw.axi.bench import Bench, Sink, Source

#: Beat bytes, beats of a burst, streams, bursts of a stretch.
CASES = {"ascending": (16, 4, 1, 1), "two": (16, 2, 1, 1), "single": (64, 1, 2, 4), "blocks": (32, 8, 4, 2), "pairs": (16, 2, 2, 1)}


def bursts_of(address: int, beats: int, beat_bytes: int, burst: int, order: Interleave) -> list[tuple[int, ...]]:
    """The naive cutter: address, beats, position, advance, defer, opens."""
    found = []
    unit, first, end = burst * beat_bytes, address // beat_bytes, address // beat_bytes + beats
    block = order.bursts * burst
    while first < end:
        if order.bursts > 1 and first % block == 0 and first + block <= end:
            for index in range(order.stretch):
                for stream in range(order.streams):
                    position = (stream * order.stretch + index) * burst
                    last = stream == order.streams - 1 and index == order.stretch - 1
                    found.append((first * beat_bytes + position * beat_bytes, burst, position, block if last else 0,
                                  int(stream > 0 and not last), int(position == 0)))
            first += block
            continue
        count = min(end, (first // burst + 1) * burst) - first
        found.append((first * beat_bytes, count, 0, count, 0, 0))
        assert found[-1][0] // unit == (found[-1][0] + count * beat_bytes - 1) // unit
        first += count
    return found


@cocotb.test()
async def cuts(dut: Any) -> None:
    beat_bytes, burst, streams, stretch = cocotb_parameters()["case"]
    order = Interleave(streams, stretch)
    widths = [40, burst.bit_length(), (burst * order.bursts - 1).bit_length() or 1, (burst * order.bursts).bit_length(), 1, 1]
    for rate, seed in ((1.0, 1), (0.6, 2)):
        bench = Bench(dut, seed)
        segments, bursts = Source(bench, "segments", rate=rate), Sink(bench, "bursts", rate=rate)
        await bench.start()
        expected = []
        for _ in range(60):
            beats = bench.random.choice([0, 1, burst, bench.random.randint(1, 5 * burst * order.bursts)])
            address = bench.random.choice([bench.random.randrange(1 << 12), 64 * bench.random.randrange(64)]) * beat_bytes
            segments.items.append(address | beats << 40)
            expected += bursts_of(address, beats, beat_bytes, burst, order)
        await bench.until(lambda s=segments, e=expected, b=bursts: not s.items and len(b.items) >= len(e))
        await bench.step(4)
        found = []
        for word in bursts.items:
            fields = []
            for width in widths:
                fields.append(word & (1 << width) - 1)
                word >>= width
            found.append(tuple(fields))
        assert found == expected
        assert dut.idle.value
    bench = Bench(dut, 3)
    segments, bursts = Source(bench, "segments"), Sink(bench, "bursts")
    await bench.start()
    segments.items.append(200 * burst << 40)
    assert await bench.until(lambda: len(bursts.items) == 200) <= 204, "a burst a cycle"


@pytest.mark.parametrize("name", CASES)
def test_splitter(name: str, tmp_path: Path) -> None:
    beat_bytes, burst, streams, stretch = CASES[name]
    splitter = BurstSplitter(beat_bytes=beat_bytes, burst=burst, order=Interleave(streams, stretch))
    run_cocotb(splitter, test_module=__name__, build_dir=tmp_path, parameters={"case": CASES[name]})


@pytest.mark.parametrize(("beat_bytes", "burst"), [(16, 3), (16, 0), (64, 128)])
def test_refusal(beat_bytes: int, burst: int) -> None:
    with pytest.raises(ValueError, match=f"burst must be a power of two .* not {burst} beats of {beat_bytes} bytes"):
        BurstSplitter(beat_bytes=beat_bytes, burst=burst)
    with pytest.raises(ValueError, match="streams must be a power of two, not 3"):
        Interleave(3)
