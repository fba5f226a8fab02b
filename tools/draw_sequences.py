"""Tokens a second, and bytes read a token, against the number of answers that share every pass: docs/sequences.svg; estimated.

    python tools/draw_sequences.py --estimate

asks the model of a pass first (a minute or two) and keeps its figures in docs/data/sequences.json; without the option they are
drawn as they are there.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.svg import SOFT, document, line, text

__all__ = ["draw", "estimate"]

DOCS = Path(__file__).resolve().parents[1] / "docs"
PICTURE, DATA = DOCS / "sequences.svg", DOCS / "data" / "sequences.json"

#: Board and context; published sizes, their heads and colours; answers at a time.
BOARD, CONTEXT = "kv260", 128
SHAPES = {"bitnet-0.73b": ("exact", "#12806f"), "bitnet-2b4t": ("shortlist", "#b0562a")}
SEQUENCES = (1, 2, 4, 6, 8, 12, 18, 24)


def estimate() -> dict[str, Any]:
    """Tokens a second of all answers together, and MB that the ports read a token."""
    from hwgen.boards import load_board
    from hwgen.sw.analysis.estimate import estimate_json

    out: dict[str, Any] = {}
    for shape, (head, _) in SHAPES.items():
        rows = []
        for number in SEQUENCES:
            decode = estimate_json(load_board(BOARD), shape, 0, 1, cached=CONTEXT, sequences=number, head=head)["decode"]
            rows.append([number, round(decode["tok_s"], 2), round(decode["bytes_per_token"] / 1e6, 2)])
        out[shape] = {"head": head, "rows": rows}
    return out


def chart(left: float, column: int, title: str, content: dict[str, Any]) -> list[str]:
    """One chart: a line a model over the number of answers."""
    top, width, height = 100.0, 330.0, 200.0
    rows = [row for entry in content.values() for row in entry["rows"]]
    most_x, most_y = max(row[0] for row in rows), 1.1 * max(row[column] for row in rows)
    parts = [text(left, top - 18, title, bold=True)]
    parts.append(line([(left, top), (left, top + height), (left + width, top + height)]))
    for number in SEQUENCES:
        x = round(left + width * number / most_x, 1)
        parts.append(text(x, top + height + 17, str(number), size=11, anchor="middle", fill=SOFT))
    ends: list[float] = []
    for shape, entry in sorted(content.items(), key=lambda item: -float(item[1]["rows"][-1][column])):
        colour = SHAPES[shape][1]
        points = [(left + width * row[0] / most_x, top + height * (1 - row[column] / most_y)) for row in entry["rows"]]
        parts.append(line([(round(x, 1), round(y, 1)) for x, y in points], stroke=colour, width=2.5))
        # The first value stands at the axis, the last one above its line, or below where another line is close above.
        first, (x, y) = points[0], points[-1]
        ends.append(y)
        below = any(0 < y - other < 20 for other in ends)
        for place, at in ((0, (left - 5, first[1] + 4)), (-1, (x, y + 16 if below else y - 8))):
            value = f"{entry['rows'][place][column]:.0f}"
            parts.append(text(round(at[0], 1), round(at[1], 1), value, size=12, anchor="end", fill=colour))
    return parts


def draw() -> str:
    """The picture as SVG."""
    content = json.loads(DATA.read_text(encoding="utf-8"))
    parts = [text(24, 32, f"Answers that share every pass: {BOARD}, context {CONTEXT}", size=17, bold=True)]
    for x, (shape, entry) in zip((24, 250), content.items(), strict=True):
        parts.append(text(x, 54, f"{shape}, {entry['head']} head", size=12, fill=SHAPES[shape][1], bold=True))
    parts += chart(40, 1, "tokens a second, all answers together", content)
    parts += chart(460, 2, "MB read from memory a token", content)
    note = "Along the axis: answers. Estimated by the model of a pass at 250 MHz: python tools/draw_sequences.py --estimate"
    parts.append(text(24, 344, note, size=12, fill=SOFT))
    return document(830, 360, "Tokens a second and bytes read a token against the number of answers, estimated", parts)


if __name__ == "__main__":
    if "--estimate" in sys.argv[1:]:
        DATA.write_text(json.dumps(estimate(), indent=1) + "\n", encoding="utf-8")
    PICTURE.write_text(draw(), encoding="utf-8")
