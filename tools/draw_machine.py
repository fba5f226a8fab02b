"""The block diagram of the machine, docs/machine.svg: boxes are components of `hwgen.hw`, operators those of `hwgen.operators`.

    python tools/draw_machine.py
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hwgen.operators import OPERATORS, Unit
from tools.svg import SOFT, box, document, line, text

__all__ = ["BLOCKS", "draw"]

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "machine.svg"

#: Colours of what moves data, what computes, what remembers, and what decides.
STREAM, COMPUTE, MEMORY, CONTROL = "#e6eef6", "#e3f0ea", "#fbeedb", "#efe9f5"
STROKES = {STREAM: "#5b7fa6", COMPUTE: "#2c7a68", MEMORY: "#b9842c", CONTROL: "#7c67a3"}


@dataclass(frozen=True)
class Block:
    """A component of the hardware and where it is drawn."""

    title: str
    #: Module below `hwgen.hw` and class.
    component: str
    kind: str
    x: int
    y: int
    width: int
    note: str = ""
    #: Unit of `hwgen.operators` whose operators it runs.
    unit: Unit | None = None
    height: int = 58

    @property
    def subtitle(self) -> str:
        """The note, or the operators."""
        if self.unit is None:
            return self.note
        return ", ".join(opcode.name for opcode, row in OPERATORS.items() if row.unit is self.unit)


BLOCKS = (
    Block("Port readers", "memory.port:PortReader", STREAM, 40, 110, 190, "bursts, from any port"),
    Block("Dispatcher", "memory.dispatch:Dispatcher", CONTROL, 290, 110, 160, "bursts to free ports"),
    Block("Prefetcher", "memory.prefetch:Prefetcher", CONTROL, 520, 110, 160, "descriptors to segments"),
    Block("Program reader", "memory.program:ProgramReader", STREAM, 750, 110, 160, "64-byte descriptors"),
    Block("Stream writer", "memory.writer:StreamWriter", STREAM, 970, 110, 170, "through port 0"),
    Block("Gatherer", "memory.gather:Gatherer", STREAM, 40, 210, 190, "beats to their slots"),
    Block("UltraRAM ring", "memory.ring:UramRing", MEMORY, 290, 210, 160, "filled ahead; replay"),
    Block("Sequencer", "control.sequencer:Sequencer", CONTROL, 750, 210, 160, "", None),
    Block("Registers", "control.registers:RegisterFile", CONTROL, 970, 210, 170, "doorbell, counters, trace"),
    Block("Linear engine", "linear.engine:LinearEngine", COMPUTE, 40, 380, 190, unit=Unit.LINEAR),
    Block("Ring loader", "vector.loader:RingLoader", COMPUTE, 290, 380, 160, unit=Unit.LOADER),
    Block("Vector unit", "vector.unit:VectorUnit", COMPUTE, 520, 380, 160, unit=Unit.VECTOR),
    Block("Attention unit", "attention.unit:AttentionUnit", COMPUTE, 750, 380, 160, unit=Unit.ATTENTION),
    Block("KV writer", "attention.writer:KvWriter", COMPUTE, 970, 380, 170, unit=Unit.KV_WRITER),
    Block("Gains, rotary rows", "accelerator:VectorMemory", MEMORY, 290, 540, 160, "parameter memory"),
    Block("Scratch", "accelerator:VectorMemory", MEMORY, 520, 540, 160, "float32 vectors"),
    Block("KV store", "attention.store:KvStore", MEMORY, 970, 540, 170, "keys, values of the pass"),
)

#: What lies in memory outside.
MEMORY_HOLDS = "DDR: programs · weights, gains, rotary rows, head · KV cache pages · logits · embedding rows of the pass"

#: Lines: points, arrow, label and where it stands (x, y, anchor). Labels stand beside lines, never on them.
LINES: tuple[tuple[tuple[tuple[int, int], ...], str, str, tuple[int, int, str]], ...] = (
    (((135, 62), (135, 108)), "end", "AXI4 read", (143, 90, "start")),
    (((830, 62), (830, 108)), "end", "port 0", (838, 90, "start")),
    (((1055, 108), (1055, 64)), "end", "AXI4 write", (1063, 90, "start")),
    (((288, 139), (232, 139)), "end", "bursts", (260, 132, "middle")),
    (((518, 139), (452, 139)), "end", "segments", (485, 132, "middle")),
    (((748, 139), (682, 139)), "end", "program", (715, 132, "middle")),
    (((830, 168), (830, 208)), "end", "program", (838, 192, "start")),
    (((135, 168), (135, 208)), "end", "words", (143, 192, "start")),
    (((232, 239), (288, 239)), "end", "beats", (260, 232, "middle")),
    (((968, 239), (912, 239)), "end", "", (0, 0, "")),
    (((370, 268), (370, 318), (135, 318), (135, 378)), "end", "weights: rows", (145, 336, "start")),
    (((370, 318), (370, 378)), "end", "beats", (378, 336, "start")),
    (((370, 318), (795, 318), (795, 378)), "end", "cached keys, values; head", (787, 336, "end")),
    (((865, 268), (865, 350)), "both", "start, done", (857, 300, "end")),
    (((912, 409), (940, 409), (940, 190), (1005, 190), (1005, 170)), "end", "logits", (948, 300, "start")),
    (((1090, 378), (1090, 300), (1150, 300), (1150, 190), (1100, 190), (1100, 170)), "end", "KV blocks", (1098, 318, "start")),
    (((185, 440), (185, 478), (560, 478), (560, 440)), "both", "activations, accumulators", (193, 471, "start")),
    (((350, 440), (350, 538)), "end", "", (0, 0, "")),
    (((410, 440), (410, 500), (575, 500), (575, 538)), "end", "rows", (420, 493, "start")),
    (((452, 560), (490, 560), (490, 420), (518, 420)), "end", "", (0, 0, "")),
    (((620, 440), (620, 538)), "both", "vectors", (628, 530, "start")),
    (((682, 400), (748, 400)), "end", "queries", (715, 393, "middle")),
    (((790, 440), (790, 560), (682, 560)), "end", "outputs", (735, 553, "middle")),
    (((650, 440), (650, 510), (940, 510), (940, 556), (968, 556)), "end", "keys, values", (662, 503, "start")),
    (((968, 580), (850, 580), (850, 440)), "end", "own keys", (905, 595, "middle")),
    (((1055, 538), (1055, 440)), "end", "", (0, 0, "")),
)


def draw() -> str:
    """The picture as SVG."""
    parts = [
        box(20, 18, 1130, 44, fill="#f4f1e8", stroke="#8d8468"),
        text(585, 45, MEMORY_HOLDS, anchor="middle"),
        box(40, 350, 1100, 6, fill=STROKES[CONTROL], radius=3, extra=' opacity="0.35"'),
    ]
    parts += [line(points, arrow=arrow) for points, arrow, _, _ in LINES]
    for block in BLOCKS:
        middle = block.x + block.width / 2
        parts.append(box(block.x, block.y, block.width, block.height, fill=block.kind, stroke=STROKES[block.kind]))
        subtitle = block.subtitle or "starts what is free to run"
        parts.append(text(middle, block.y + 25, block.title, anchor="middle", bold=True))
        parts.append(text(middle, block.y + 43, subtitle, size=11, anchor="middle", fill=SOFT))
    parts += [text(*place[:2], label, size=11, anchor=place[2], fill=SOFT) for _, _, label, place in LINES if label]
    for y, words in (
        (664, "The five units in the middle run at the same time: the sequencer starts an operator, in program order, as soon"),
        (682, "as its unit is idle and nothing it depends on is running, while the prefetcher fills the ring for those to come."),
    ):
        parts.append(text(40, y, words, size=12, fill=SOFT))
    kinds = {"moves data": STREAM, "computes": COMPUTE, "remembers": MEMORY, "decides": CONTROL}
    for x, (name, kind) in zip((40, 150, 250, 360), kinds.items(), strict=True):
        parts += [box(x, 626, 14, 14, fill=kind, stroke=STROKES[kind], radius=3), text(x + 20, 637, name, size=11, fill=SOFT)]
    title = "Block diagram of the machine: memory above, five units that run at the same time, their memories below"
    return document(1170, 700, title, parts)


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
