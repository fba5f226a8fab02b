"""Pictures of a pass, without a simulator."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwgen.descriptors import Opcode
from hwgen.sw.analysis.timeline import draw_timeline, timeline_figure
from hwgen.sw.runtime.pass_trace import PassTrace, TraceEntry

CLOCK_MHZ = 250.0
TRACED = PassTrace("decode", 600_000, (
    TraceEntry(0, 1_000, 0, Opcode.EMBED, 1, 0, 10),
    TraceEntry(1_000, 250_000, 1, Opcode.LINEAR, 1, 10, 400),
    TraceEntry(250_000, 500_000, 2, Opcode.DRAIN, 1, 400, 20),
))


@pytest.mark.parametrize(("cycles", "last_ms"), [(None, 2.0), (250_000, 1.0)])
def test_time_is_in_milliseconds_of_the_clock(cycles: int | None, last_ms: float) -> None:
    bars, ring = timeline_figure(TRACED, title="a shape", capacity=512, clock_mhz=CLOCK_MHZ, cycles=cycles).axes
    assert ring.get_xlabel() == "ms after the doorbell, at 250 MHz; a shape"
    assert ring.get_xlim() == bars.get_xlim() == pytest.approx((0, last_ms))
    linear = next(c for c in bars.collections if c.get_label() == "LINEAR").get_paths()[0].get_extents()
    assert (linear.x0, linear.x1) == pytest.approx((0.004, 1.0))


def test_the_file_has_the_format_of_its_name(tmp_path: Path) -> None:
    draw_timeline(tmp_path / "a.png", TRACED, title="a", capacity=512, clock_mhz=CLOCK_MHZ)
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
