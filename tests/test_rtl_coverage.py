"""Coverage of units: runs of a build are united, builds of a unit added, and a unit counts where it stands outermost."""

from __future__ import annotations

import json
from pathlib import Path

from tools.rtl_coverage import by_folder, by_unit, read_points


def point(kind: str, place: str, count: int, module: str = "top", folder: str = "a") -> str:
    return (
        f"C '\x01f\x02/tmp/{folder}/top.v\x01l\x02{place}\x01page\x02v_{kind}/{module}\x01o\x02block\x01h\x02{module}' {count}\n"
    )


def test_points_are_read_without_the_folder_of_the_build() -> None:
    text = "# SystemC::Coverage-3\n" + point("line", "3", 4) + point("line", "3", 2, folder="b") + point("branch", "9", 1)
    ((found, count),) = read_points(text).items()
    assert (found.kind, found.module) == ("line", "top") and "/tmp" not in found.place and count == 6


def test_runs_and_builds(tmp_path: Path) -> None:
    alone, around = {"top": "hw.float.add"}, {"top": "", "top.sums": "hw.vector.unit", "top.sums.add": "hw.float.add"}
    for name, generators in (("x", alone), ("y", alone), ("z", around)):
        (tmp_path / f"{name}.json").write_text(json.dumps(generators))
    for name, text in (
        ("x-1", point("line", "1", 1) + point("line", "2", 0) + point("toggle", "1", 0)),
        ("x-2", point("line", "1", 0) + point("line", "2", 3) + point("toggle", "1", 0)),
        ("y-1", point("line", "1", 0) + point("line", "2", 0) + point("toggle", "1", 5)),
        ("z-1", point("line", "1", 0) + point("line", "2", 7, "top.sums") + point("line", "3", 0, "top.sums.add")),
    ):
        (tmp_path / f"{name}.dat").write_text(text)
    add, vector = by_unit(tmp_path)
    assert add == {
        "unit": "hw.float.add", "builds": 2, "lines": 4, "lines_taken": 2, "line_percent": 50.0,
        "toggles": 2, "toggles_taken": 1, "toggle_percent": 50.0,
    }
    assert (vector["unit"], vector["builds"], vector["lines"], vector["line_percent"]) == ("hw.vector.unit", 1, 1, 100.0)
    folders = [(row["unit"], row["lines"], row["line_percent"]) for row in by_folder([add, vector])]
    assert folders == [("hw/float", 4, 50.0), ("hw/vector", 1, 100.0), ("all", 5, 60.0)]
