"""The result of ``hwgen report`` as a chart: what every unit takes of the device, and the planning ceilings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...boards import RESOURCES
from ...errors import HwgenError
from ...files import replacing
from ...packages import needs

__all__ = ["draw_resources", "shares"]


def shares(result: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Of every unit, and of what lies outside the core, the share of the device by kind of resource; kinds that the device has."""
    available = result["available"]
    kinds = [kind for kind in RESOURCES if available.get(kind)]
    rows = {unit["name"]: unit for unit in result["units"]}
    if result["outside_sources"]:
        rows["outside the core"] = result["outside"]
    return {name: {kind: row.get(kind, 0) / available[kind] for kind in kinds} for name, row in rows.items()}


def draw_resources(path: Path, result: dict[str, Any]) -> None:
    """A bar a kind of resource, a piece a unit; the format follows the name of ``path``."""
    found = shares(result)
    kinds = list(next(iter(found.values()), {}))
    if not kinds:
        raise HwgenError("configuration", f"board {result['board']} has no device to draw a share of", "choose a board with a part")
    with needs("drawing", "hwgen[plot]"):
        import matplotlib
        from matplotlib.figure import Figure
        from matplotlib.ticker import PercentFormatter
    figure = Figure(figsize=(9, 1.4 + 0.5 * len(kinds)), layout="constrained")
    axes = figure.subplots()
    left = dict.fromkeys(kinds, 0.0)
    palette = matplotlib.colormaps["tab20"]
    for number, (name, row) in enumerate(found.items()):
        pieces, begin = [row[k] for k in kinds], [left[k] for k in kinds]
        axes.barh(kinds, pieces, left=begin, label=name, color=palette(number % 20), height=0.62)
        left = {kind: left[kind] + row[kind] for kind in kinds}
    for place, kind in enumerate(kinds):
        if kind in result["ceilings"]:
            axes.vlines(result["ceilings"][kind], place - 0.42, place + 0.42, colors="black", linewidth=1.4)
    axes.set_yticks(range(len(kinds)), [f"{kind}  {left[kind]:.1%}" for kind in kinds])
    axes.invert_yaxis()
    axes.set_xlim(0, max(1.0, 1.1 * max(left.values())))
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    title = f"{result['board']}: share of the device (estimated with Yosys); lines are planning ceilings"
    axes.set_title(title, loc="left", fontsize=10)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=8)
    with replacing(path) as part:
        figure.savefig(part, format=path.suffix[1:] or "png", dpi=150)
