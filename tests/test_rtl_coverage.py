"""Coverage of units: runs of a build are united, builds of a unit added."""

from __future__ import annotations

from pathlib import Path

from tools.rtl_coverage import by_unit, read_points


def point(kind: str, place: str, count: int, folder: str = "a") -> str:
    return f"C '\x01f\x02/tmp/{folder}/top.v\x01l\x02{place}\x01page\x02v_{kind}/top\x01o\x02block\x01h\x02top' {count}\n"


def test_points_are_read_without_the_folder_of_the_build() -> None:
    text = "# SystemC::Coverage-3\n" + point("line", "3", 4) + point("line", "3", 2, "b") + point("branch", "9", 1)
    (((kind, place), count),) = read_points(text).items()
    assert kind == "line" and "/tmp" not in place and count == 6


def test_runs_and_builds(tmp_path: Path) -> None:
    for name, text in (
        ("hw.float.add-x-1", point("line", "1", 1) + point("line", "2", 0) + point("toggle", "1", 0)),
        ("hw.float.add-x-2", point("line", "1", 0) + point("line", "2", 3) + point("toggle", "1", 0)),
        ("hw.float.add-y-1", point("line", "1", 0) + point("line", "2", 0) + point("toggle", "1", 5)),
        ("hw.axi.merge-z-1", point("line", "1", 7)),
    ):
        (tmp_path / f"{name}.dat").write_text(text)
    merge, add = by_unit(tmp_path)
    assert merge == {"unit": "hw.axi.merge", "builds": 1, "line_percent": 100.0, "toggle_percent": 100.0, "lines": 1, "toggles": 0}
    assert add == {"unit": "hw.float.add", "builds": 2, "line_percent": 50.0, "toggle_percent": 50.0, "lines": 4, "toggles": 2}
