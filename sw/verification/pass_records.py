"""What the machine tells about a pass, its counters and its trace, against what is counted beside it and against each other."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from ...descriptors import Descriptor, Format, Opcode
from ...registers import ENGINE_COUNTERS
from ..runtime.engine import Engine, PassResult
from ..runtime.pass_trace import TraceEntry, read_trace

if TYPE_CHECKING:
    from ...sim.dram import PortStatistics
    from ..devices.verilator import VerilatorDevice

__all__ = ["PassRecords"]


class PassRecords:
    """Follows the passes of a simulated device: :meth:`begin` before one, :meth:`retired` at the end of every operator, then
    :meth:`wrong`.
    """

    def __init__(self, engine: Engine, device: VerilatorDevice) -> None:
        self.engine, self.device = engine, device
        #: Tag and cycle of every operator of the pass that has ended.
        self.ended: list[tuple[int, int]] = []
        self._before: list[PortStatistics] = []
        self._unasked = 0

    def begin(self) -> None:
        self.ended.clear()
        self._before = self.device.accelerator.port_statistics()
        self._unasked = self.engine._read("UNASKED")

    def retired(self, tag: int) -> None:
        self.ended.append((tag, self.device.accelerator.cycle))

    def wrong(self, result: PassResult) -> str:
        """The first thing of the pass that is not so, in a line; empty if all is."""
        entries = read_trace(self.engine, "", result.cycles).entries
        return self._of_counters(result) or self._of_ports(result) or self._of_trace(result, entries)

    def _linear(self) -> list[Descriptor]:
        return [d for d in (self.engine.image.descriptors[tag] for tag, _ in self.ended) if d.opcode is Opcode.LINEAR]

    def _of_counters(self, result: PassResult) -> str:
        counters = result.counters
        causes = sum(counters[name] for name, _ in ENGINE_COUNTERS)
        if causes != result.cycles:
            return f"causes of the engine's cycles add up to {causes}, not {result.cycles}"
        if counters["operators"] != len(self.ended):
            return f"{counters['operators']} operators are counted, {len(self.ended)} have ended"
        config = self.engine.config
        groups = config.groups
        rows = sum(d.slices * d.row_blocks for d in self._linear()) // groups
        # A row takes one cycle where the lanes work together; the INT4 engine reads scales besides. With scales of groups a beat
        # has several short row blocks, and rows say nothing of cycles.
        grouped = any(Format.GROUPED in d.format for d in self._linear())
        if not grouped and (counters["engine_busy"] < rows or (not config.has_int4 and counters["engine_busy"] > rows * groups)):
            return f"the engine was busy for {counters['engine_busy']} cycles, with {rows} rows of {groups} beats"
        if counters["engine_rows"] > counters["ring_empty"]:
            return f"the engine waited {counters['engine_rows']} cycles for rows, the ring was empty for {counters['ring_empty']}"
        return ""

    def _of_ports(self, result: PassResult) -> str:
        config = self.engine.config
        now = self.device.accelerator.port_statistics()
        left_over = 0  # words from before a reset
        for port, (before, after) in enumerate(zip(self._before, now, strict=True)):
            stalled = after.read_stalled - before.read_stalled
            told = self.engine._read("COUNT_PORT_STALL", port)
            if told != stalled:
                return f"COUNT_PORT_STALL of port {port} is {told}, the memory counted {stalled}"
            left_over += after.read_beats - before.read_beats - self.engine._read("COUNT_PORT_BUSY", port)
        told = self.engine._read("UNASKED") - self._unasked
        if not 0 <= left_over <= told:  # they count too from the doorbell on
            return f"the memory sent {left_over} words more than the ports counted, {told} are counted as nobody's"
        words = sum(after.write_beats - before.write_beats for before, after in zip(self._before, now, strict=True))
        wanted = words * config.port_bits // 8
        told = result.counters["write_beats"] * config.beat_bytes
        return "" if told == wanted else f"{told} bytes are counted as written, the memory counted {wanted}"

    def _of_trace(self, result: PassResult, entries: tuple[TraceEntry, ...]) -> str:
        config, descriptors = self.engine.config, self.engine.image.descriptors
        tags = [tag for tag, _ in self.ended[: config.trace_entries]]
        if [entry.tag for entry in entries] != tags:
            return f"the trace has operators {[entry.tag for entry in entries]}, {tags} have ended"
        if len({cycle - entry.end for entry, (_, cycle) in zip(entries, self.ended, strict=False)}) > 1:
            return "ends in the trace are not as far apart as the operators ended"
        for e in entries:
            d = descriptors[e.tag]
            if e.opcode is not d.opcode or not 0 < e.start < e.end <= result.cycles:
                return f"the trace has {e} for {d.opcode.name}, in a pass of {result.cycles} cycles"
            if not 1 <= e.tokens <= max(1, d.token_count) or max(e.level_start, e.level_end) > config.ring_beats:
                return f"the trace has {e}: it has at most {d.token_count} tokens, the ring {config.ring_beats} beats"
        if len(entries) < len(self.ended):
            return ""
        spent: Counter[str] = Counter()
        for e in entries:
            spent[e.opcode.name.lower()] += e.end - e.start
        told = {name: cycles for name, cycles in result.opcode_cycles.items() if cycles}
        return "" if told == spent else f"cycles by operator are {told}, by the trace {dict(spent)}"
