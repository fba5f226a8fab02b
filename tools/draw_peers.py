"""Our figures beside those of others on the same board, docs/peers.svg; simulated and measured are told apart.

    python tools/draw_peers.py

Ours are read from docs/data, where `hwgen bench` wrote them.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.svg import SOFT, box, document, text

__all__ = ["charts", "draw"]

DOCS = Path(__file__).resolve().parents[1] / "docs"
PICTURE = DOCS / "peers.svg"

SIMULATED, MEASURED = "#12806f", "#8f958f"


@dataclass(frozen=True)
class Bar:
    """A rate in tokens a second, of whom, and whether it was measured on a board."""

    who: str
    rate: float
    measured: bool = True


def ours(run: str, phase: str) -> list[Bar]:
    """What a bench printed; nothing where it was not run."""
    path = DOCS / "data" / f"bench-{run}.json"
    if not path.exists():
        return []
    return [Bar("hwgen", float(json.loads(path.read_text(encoding="utf-8"))[phase]["tok_s"]), measured=False)]


def charts() -> dict[str, list[Bar]]:
    """Bars by what they show. The others' are what their authors publish of a KV260: TeLLMe v2, arXiv 2510.15926; PD-Swap, of the
    same group; bitnet-kv260, its repository, September 2026 (2B4T, prompt of 250 tokens; its best prompt rate), and bitnet.cpp on
    the processor of the same board by the same author.
    """
    return {
        "0.73 B ternary, new tokens": [Bar("TeLLMe v2", 25), Bar("PD-Swap", 27.8), *ours("bitnet-0.73b-slow", "decode")],
        "0.73 B ternary, prompt": [Bar("TeLLMe v2", 143), Bar("PD-Swap", 148), *ours("bitnet-0.73b-prompt-128", "prefill")],
        "2B4T ternary, new tokens": [Bar("bitnet.cpp, CPU", 2.77), Bar("bitnet-kv260", 18.57), *ours("bitnet-2b4t-slow", "decode")],
        "2B4T ternary, prompt": [
            Bar("bitnet.cpp, CPU", 4.49), Bar("bitnet-kv260", 28.78), *ours("bitnet-2b4t-prompt-24", "prefill"),
        ],
    }


def draw() -> str:
    """The picture as SVG: a chart a row of bars, each to its own scale."""
    parts = [text(24, 32, "Tokens a second on a KV260", size=17, bold=True)]
    kinds = {"hwgen: generated Verilog, simulated at 250 MHz": SIMULATED, "others: measured on the board, as published": MEASURED}
    for x, (name, colour) in zip((24, 360), kinds.items(), strict=True):
        parts += [box(x, 46, 13, 13, fill=colour, radius=3), text(x + 20, 57, name, size=12, fill=SOFT)]
    for number, (title, bars) in enumerate(charts().items()):
        left, top = 24 + 430 * (number % 2), 92 + 136 * (number // 2)
        parts.append(text(left, top, title, bold=True))
        most = max(bar.rate for bar in bars)
        for row, bar in enumerate(bars):
            y = top + 14 + 30 * row
            width = 215 * bar.rate / most
            rate = f"{bar.rate:.3g}" if bar.rate < 100 else f"{bar.rate:.0f}"
            parts += [
                text(left + 108, y + 15, bar.who, size=12, anchor="end", fill=SOFT),
                box(left + 116, y, max(2, width), 21, fill=MEASURED if bar.measured else SIMULATED, radius=4),
                text(left + 124 + width, y + 15, rate, size=12, bold=not bar.measured),
            ]
    note = (
        "Ours ran on no board yet: no vendor tool, no measured clock. "
        "Prompts at 320 ns, new tokens at 480 ns and 1 GB/s beside: docs/results.md."
    )
    parts.append(text(24, 358, note, size=12, fill=SOFT))
    return document(880, 376, "Tokens a second on a KV260: hwgen simulated, others measured", parts)


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
