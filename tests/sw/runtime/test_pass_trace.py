"""The trace memory as it stands in registers."""

from __future__ import annotations

from types import SimpleNamespace

from hwgen.config import BuildConfig
from hwgen.descriptors import Opcode
from hwgen.operators import OPERATORS
from hwgen.registers import TRACE_WORDS, register
from hwgen.sw.runtime.pass_trace import TRACKS, TracedRun, TraceEntry, read_trace

CONFIG = BuildConfig(name="traced")


def test_entries_are_read_from_the_window() -> None:
    entries = (TraceEntry(3, 90, 0, Opcode.ROPE, 255, 0, 9), TraceEntry(95, 2**31, 0xFFFF, Opcode.LINEAR, 1, 0xFFFF, 0x8001))
    window, count = register(CONFIG, "TRACE"), register(CONFIG, "TRACE_COUNT").offset
    words = [word for e in entries for word in (e.start, e.end, e.tag | e.opcode << 16 | e.tokens << 24,
                                                e.level_start | e.level_end << 16)]
    assert len(words) == TRACE_WORDS * len(entries)
    values = {window.offset + i * window.step: word for i, word in enumerate(words)}
    values[count] = len(entries)
    engine = SimpleNamespace(config=CONFIG, device=SimpleNamespace(read_register=values.__getitem__))
    trace = read_trace(engine, "one", 2**31 + 5, [TracedRun(0, 1, 2)], {"beats": 3})  # type: ignore[arg-type]  # a stand-in
    assert trace.entries == entries and (trace.name, trace.cycles) == ("one", 2**31 + 5)
    assert trace.runs == ((0, 1, 2),) and trace.counters == {"beats": 3}
    values[count] = 0
    assert read_trace(engine, "none", 1).entries == () and not read_trace(engine, "none", 1).counters  # type: ignore[arg-type]  # likewise


def test_every_operator_has_its_track() -> None:
    assert sorted(opcode for opcodes in TRACKS.values() for opcode in opcodes) == sorted(OPERATORS)
    for name, opcodes in TRACKS.items():
        assert {OPERATORS[opcode].unit.name.lower().replace("_", " ") for opcode in opcodes} <= {name}
