"""Pictures of a pass, without a simulator."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwgen.descriptors import Descriptor, Flag, Opcode
from hwgen.sw.analysis.timeline import draw_timeline, perfetto_events, timeline_figure
from hwgen.sw.runtime.pass_trace import PassTrace, TracedRun, TraceEntry

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


def test_a_choice_of_blocks_has_its_name() -> None:
    entries = (TraceEntry(0, 1_000, 0, Opcode.ATTENTION, 1, 0, 10), TraceEntry(1_000, 2_000, 1, Opcode.ATTENTION, 1, 10, 0))
    program = [Descriptor(opcode=Opcode.ATTENTION, flags=Flag.CHOOSE), Descriptor(opcode=Opcode.ATTENTION)]
    events = perfetto_events([PassTrace("decode", 2_000, entries)], program, CLOCK_MHZ)
    assert [e["name"] for e in events if e["ph"] == "X"] == ["CHOOSE", "ATTENTION"]


def test_runs_of_a_pass() -> None:
    """Each has a thread as long as the pass; attention says through which runs it goes, other operators do not."""
    runs = (TracedRun(0, 128, 1), TracedRun(3, 40, 6))
    entries = (TraceEntry(0, 1_000, 0, Opcode.LINEAR, 7, 0, 10), TraceEntry(1_000, 2_000, 1, Opcode.ATTENTION, 7, 10, 0))
    passes = [PassTrace(name, 2_500, entries, runs, {"cycles": 2_500}) for name in ("one", "two")]
    events = perfetto_events(passes, [Descriptor(opcode=e.opcode) for e in entries], CLOCK_MHZ)
    slices = [e for e in events if e["ph"] == "X"]
    of_runs = [e for e in slices if "position" in e["args"]]
    assert [(e["pid"], e["name"], e["ts"], e["dur"]) for e in of_runs] == [
        (1, "1 token from position 128", 0.0, 10.0), (1, "6 tokens from position 40", 0.0, 10.0),
        (2, "1 token from position 128", 10.0, 10.0), (2, "6 tokens from position 40", 10.0, 10.0),
    ]
    names = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert [names[e["pid"], e["tid"]] for e in of_runs[:2]] == ["run of sequence 0", "run of sequence 3"]
    assert len(names) == len({(e["pid"], e["tid"]) for e in events if e["name"] == "thread_name"}), "no thread is two things"
    assert of_runs[1]["args"]["counters of the pass"] == {"cycles": 2_500}
    through = {e["name"]: e["args"].get("runs") for e in slices if e not in of_runs}
    assert through == {"LINEAR": None, "ATTENTION": [run._asdict() for run in runs]}
