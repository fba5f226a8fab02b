"""The picture at the top of README.md, docs/story.svg: a run of the story model on the generated Verilog, and what the machine does
in one of its tokens. The text, the cycles and the bars are those of the run that the script makes.

    python tools/draw_story.py
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hwgen.sw.runtime.llm import LLM
from hwgen.sw.runtime.pass_trace import TRACKS, PassTrace, read_trace
from tools.svg import SOFT, box, document, line, text

__all__ = ["NEW_TOKENS", "PICTURE", "PROMPT", "draw"]

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "story.svg"

PROMPT, NEW_TOKENS = "Once upon a time", 72

#: Seconds of the picture: typing, a token, and the pass that is drawn.
TYPING, TOKEN, PASS = 1.6, 0.11, 5.0

#: Characters of a line, its height, and what stands before the first.
COLUMNS, LEADING, MARGIN = 88, 22, 44

COLOURS = {
    "EMBED": "#8a7fb8", "PARAM": "#b79fd0", "ROTARY": "#6f63a5", "NORM": "#d99a2b", "DRAIN": "#e3bb63", "ROPE": "#b97b1c",
    "LINEAR": "#12806f", "ATTENTION": "#c1553b", "HEAD": "#8c3d5d", "KV_WRITE": "#4a78a8",
}

#: Everything comes once and stays; where motion is not wanted, it is there from the start.
STYLE = """
.in { opacity: 0; animation: in .25s ease-out forwards; }
.run { opacity: .16; animation: run .12s linear forwards; }
.head { animation: sweep 5s linear 1.6s both; }
@keyframes in { to { opacity: 1; } }
@keyframes run { to { opacity: 1; } }
@keyframes sweep {
  0% { transform: translateX(0); opacity: .8; } 98% { opacity: .8; } 100% { transform: translateX(748px); opacity: 0; }
}
@media (prefers-reduced-motion: reduce) { .in, .run { animation: none; opacity: 1; } .head { display: none; } }
"""


def lines_of(pieces: Sequence[str]) -> Iterator[list[tuple[int, str]]]:
    """Pieces of a text in lines of at most `COLUMNS` characters, each with its number."""
    row: list[tuple[int, str]] = []
    length = 0
    for number, piece in enumerate(pieces):
        first, *others = piece.split("\n")
        for part, new in [(first, False), *[(p, True) for p in others]]:
            if row and (new or length + len(part) > COLUMNS):
                yield row
                row, length = [], 0
                part = part.lstrip()
            if part:
                row.append((number, part))
                length += len(part)
    if row:
        yield row


def mono(x: float, y: float, spans: Sequence[tuple[float, str]], fill: str) -> str:
    """One line of the terminal; each span comes at its second."""
    inner = "".join(
        f'<tspan class="in" style="animation-delay:{at:.2f}s">{escape(words)}</tspan>' for at, words in spans
    )
    font = 'font-family="ui-monospace, SF Mono, Menlo, Consolas, DejaVu Sans Mono, monospace" font-size="14"'
    return f'<text x="{x:g}" y="{y:g}" {font} fill="{fill}" xml:space="preserve">{inner}</text>'


def terminal(pieces: Sequence[str], summary: str) -> tuple[list[str], float]:
    """The upper half of the picture, and where it ends."""
    rows = list(lines_of([PROMPT, *pieces]))
    height = 92 + LEADING * (len(rows) + 1)
    parts = [box(20, 16, 860, height, fill="#151b1a", radius=12)]
    parts += [f'<circle cx="{42 + 20 * i}" cy="36" r="5.5" fill="{c}"/>' for i, c in enumerate(("#c1553b", "#d99a2b", "#12806f"))]
    command = f'hwgen run stories "{PROMPT}"'
    step = TYPING / len(command)
    parts.append(mono(MARGIN, 70, [(0, "$ "), *[(step * i, c) for i, c in enumerate(command)]], "#e6e4dc"))
    y = 70.0
    for row in rows:
        y += LEADING
        parts.append(mono(MARGIN, y, [(TYPING + 0.3 + TOKEN * number, part) for number, part in row], "#bfe3d8"))
    parts.append(mono(MARGIN, y + LEADING + 8, [(TYPING + 0.6 + TOKEN * len(pieces), summary)], "#e5b04e"))
    return parts, 16 + height


def machine(trace: PassTrace, top: float, capacity: int, clock_mhz: float) -> list[str]:
    """The lower half: the units in one token, and the ring."""
    left, width, lane = 112, 748, 22
    scale = width / trace.cycles
    parts = [text(24, top + 34, "One of these tokens in the machine", size=15, bold=True),
             text(880, top + 34, f"{trace.cycles:,} cycles, {trace.cycles / clock_mhz:.1f} µs at {clock_mhz:g} MHz (simulated)",
                  size=12, anchor="end", fill=SOFT)]
    for row, name in enumerate(TRACKS):
        parts.append(text(left - 10, top + 66 + lane * row, name, size=12, anchor="end", fill=SOFT))
    tracks = [opcode for opcodes in TRACKS.values() for opcode in opcodes]
    row_of = {opcode: row for row, opcodes in enumerate(TRACKS.values()) for opcode in opcodes}
    for e in trace.entries:
        delay = f' class="run" style="animation-delay:{TYPING + PASS * e.start / trace.cycles:.2f}s"'
        x, span = left + scale * e.start, max(1.0, scale * (e.end - e.start) - 0.4)
        parts.append(box(x, top + 53 + lane * row_of[e.opcode], span, 17, fill=COLOURS[e.opcode.name], radius=1.5, extra=delay))
    points = sorted([(e.start, e.level_start) for e in trace.entries] + [(e.end, e.level_end) for e in trace.entries])
    base = top + 53 + lane * len(TRACKS) + 44
    curve = [(left + scale * cycle, base - 38 * level / capacity) for cycle, level in points]
    parts += [
        text(left - 10, base - 12, "ring", size=12, anchor="end", fill=SOFT),
        line([(left, base), (left + width, base)], stroke="#d5d0c2", width=1),
        line(curve, stroke=COLOURS["LINEAR"], width=1.6),
        f'<rect class="head" x="{left}" y="{top + 48:g}" width="1.5" height="{base - top - 48:g}" fill="#1f2726"/>',
    ]
    x = left
    for opcode in tracks:
        parts.append(box(x, base + 16, 11, 11, fill=COLOURS[opcode.name], radius=3))
        parts.append(text(x + 15, base + 26, opcode.name, size=10.5, fill=SOFT))
        x += 32 + 7 * len(opcode.name)
    return parts


def draw(pieces: Sequence[str], trace: PassTrace, summary: str, capacity: int, clock_mhz: float) -> str:
    """The picture as SVG."""
    upper, top = terminal(pieces, summary)
    height = round(top + 53 + 22 * len(TRACKS) + 44 + 44)
    title = f"hwgen run stories: {PROMPT}{''.join(pieces)}"
    return document(900, height, " ".join(title.split()), [*upper, *machine(trace, top, capacity, clock_mhz)], STYLE)


def main() -> None:
    """Run the model and draw it."""
    llm = LLM("stories", "verilator", progress=print)
    config = llm.engine.config
    answer = llm.generate(PROMPT, max_new_tokens=NEW_TOKENS)
    pieces = list(answer)
    decode = answer.generation.decode
    trace = read_trace(llm.engine, "last token", llm.engine.device.read_register(0x400))
    rate = decode.rate(config.clock_mhz) or 0.0
    summary = (f"{len(answer.generation.tokens)} tokens, {rate:,.0f} tokens/s simulated at {config.clock_mhz:g} MHz, "
               f"ports {decode.port_utilisation:.0%} busy")
    PICTURE.write_text(draw(pieces, trace, summary, config.ring_beats, config.clock_mhz), encoding="utf-8")


if __name__ == "__main__":
    main()
