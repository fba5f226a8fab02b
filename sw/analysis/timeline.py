"""The trace of a pass (`hwgen.sw.runtime.pass_trace`) for Perfetto, and as a picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...descriptors import Descriptor, Flag, Opcode
from ...files import replacing, write_whole
from ...operators import OPERATORS
from ...packages import needs
from ..runtime.pass_trace import TRACKS, PassTrace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_timeline", "perfetto_events", "timeline_figure", "write_perfetto"]

#: Operators that go through the runs of a pass.
_BY_RUN = (Opcode.ATTENTION, Opcode.KV_WRITE)


def perfetto_events(
    passes: Sequence[PassTrace], program: Sequence[Descriptor], clock_mhz: float
) -> list[dict[str, Any]]:
    """Trace Event Format: a process a pass, a thread a unit, one a run, a counter for the ring. Times are microseconds at the
    clock. Operators of attention have the runs that they go through, one after the other.
    """
    events: list[dict[str, Any]] = []
    begin = 0.0
    for process, traced in enumerate(passes, 1):  # 0 stands for no process and no thread
        events.append({"ph": "M", "pid": process, "name": "process_name", "args": {"name": traced.name}})
        for thread, track in enumerate(TRACKS, 1):
            events.append({"ph": "M", "pid": process, "tid": thread, "name": "thread_name", "args": {"name": track}})
        for entry in sorted(traced.entries, key=lambda e: e.start):
            descriptor = program[entry.tag]
            of_runs = {"runs": [run._asdict() for run in traced.runs]} if entry.opcode in _BY_RUN and traced.runs else {}
            events.append({
                "ph": "X", "pid": process, "tid": int(OPERATORS[entry.opcode].unit) + 1, "name": _name(entry.opcode, descriptor),
                "ts": (begin + entry.start) / clock_mhz, "dur": (entry.end - entry.start) / clock_mhz,
                "args": {"layer": descriptor.layer, "tag": entry.tag, "tokens": entry.tokens,
                         "first token": descriptor.token_start, "cycles": entry.end - entry.start, **of_runs},
            })
        events += _run_events(process, traced, begin, clock_mhz)
        points = sorted(
            [(e.start, e.level_start) for e in traced.entries] + [(e.end, e.level_end) for e in traced.entries]
        )
        events += [
            {"ph": "C", "pid": process, "name": "ring", "ts": (begin + cycle) / clock_mhz, "args": {"beats": level}}
            for cycle, level in points
        ]
        begin += traced.cycles
    return events


def _name(opcode: Opcode, descriptor: Descriptor) -> str:
    """Of a slice: that of the operator; choosing blocks is no attention."""
    return "CHOOSE" if Flag.CHOOSE in descriptor.flags else opcode.name


def _run_events(process: int, traced: PassTrace, begin: float, clock_mhz: float) -> list[dict[str, Any]]:
    """A thread a run, each as long as the pass; the counters are of all of them together."""
    events: list[dict[str, Any]] = []
    for thread, run in enumerate(traced.runs, len(TRACKS) + 1):
        what = {"pid": process, "tid": thread}
        events.append({"ph": "M", **what, "name": "thread_name", "args": {"name": f"run of sequence {run.sequence}"}})
        events.append({
            "ph": "X", **what, "name": f"{run.tokens} token{'s' if run.tokens > 1 else ''} from position {run.position}",
            "ts": begin / clock_mhz, "dur": traced.cycles / clock_mhz,
            "args": {**run._asdict(), "runs of the pass": len(traced.runs), "counters of the pass": dict(traced.counters)},
        })
    return events


def write_perfetto(
    path: Path, passes: Sequence[PassTrace], program: Sequence[Descriptor], clock_mhz: float
) -> None:
    """A file that https://ui.perfetto.dev and chrome://tracing open."""
    content = {"traceEvents": perfetto_events(passes, program, clock_mhz), "displayTimeUnit": "ns"}
    write_whole(path, json.dumps(content))


def timeline_figure(
    traced: PassTrace, *, title: str, capacity: int, clock_mhz: float, from_cycle: int = 0, cycles: int | None = None
) -> Figure:
    """Bars of every unit above the ring's level, for a window of a pass; time in ms at the clock."""
    with needs("drawing", "hwgen[plot]"):
        import matplotlib
        from matplotlib.figure import Figure

    ms = 1e-3 / clock_mhz  # of a cycle
    last = max((e.end for e in traced.entries), default=1)
    to_cycle = last if cycles is None else min(last, from_cycle + cycles)
    shown = [e for e in traced.entries if e.end >= from_cycle and e.start <= to_cycle]
    kinds = sorted({e.opcode for e in shown})
    palette = matplotlib.colormaps["tab10"]
    figure = Figure(figsize=(12, 4.5), layout="constrained")  # of no window system and no notebook
    bars, ring = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    for kind in kinds:
        for row, opcodes in enumerate(TRACKS.values()):
            if kind in opcodes:
                spans = [(e.start * ms, (e.end - e.start) * ms) for e in shown if e.opcode is kind]
                style = {"color": palette(int(kind) % 10), "label": kind.name, "edgecolor": "white", "linewidth": 0.3}
                bars.broken_barh(spans, (row - 0.4, 0.8), **style)
    bars.set_yticks(range(len(TRACKS)), list(TRACKS))
    bars.invert_yaxis()
    bars.legend(loc="upper center", bbox_to_anchor=(0.5, 1.22), ncols=len(kinds) or 1, frameon=False, fontsize=8)
    points = sorted([(e.start, e.level_start) for e in shown] + [(e.end, e.level_end) for e in shown])
    ring.plot([p[0] * ms for p in points], [p[1] for p in points], linewidth=1)
    ring.set_ylim(0, capacity * 1.05)
    ring.set_ylabel("beats in ring")
    ring.set_xlabel(f"ms after the doorbell, at {clock_mhz:g} MHz; {title}")
    ring.set_xlim(from_cycle * ms, to_cycle * ms)
    return figure


def draw_timeline(
    path: Path, traced: PassTrace, *, title: str, capacity: int, clock_mhz: float, from_cycle: int = 0,
    cycles: int | None = None,
) -> None:
    """:func:`timeline_figure` as a file; the format follows the name of ``path``."""
    figure = timeline_figure(traced, title=title, capacity=capacity, clock_mhz=clock_mhz, from_cycle=from_cycle, cycles=cycles)
    with replacing(path) as part:
        figure.savefig(part, format=path.suffix[1:] or "png", dpi=150)
