from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hwgen.errors import HwgenError
from hwgen.sw.analysis.area_chart import draw_resources, shares

RESULT: dict[str, Any] = {
    "board": "kv260",
    "units": [{"name": "memory", "lut": 200, "ff": 10, "uram": 4}, {"name": "linear", "lut": 300, "ff": 30, "uram": 0}],
    "outside_sources": ["interconnect"],
    "outside": {"lut": 100, "ff": 5},
    "available": {"lut": 1000, "ff": 100, "uram": 8},
    "ceilings": {"lut": 0.7, "ff": 0.5},
}


def test_shares() -> None:
    assert shares(RESULT) == {
        "memory": {"lut": 0.2, "ff": 0.1, "uram": 0.5},
        "linear": {"lut": 0.3, "ff": 0.3, "uram": 0.0},
        "outside the core": {"lut": 0.1, "ff": 0.05, "uram": 0.0},
    }


def test_picture(tmp_path: Path) -> None:
    draw_resources(tmp_path / "a.svg", RESULT)
    picture = (tmp_path / "a.svg").read_text()
    for name in ("memory", "linear", "outside the core", "lut  60.0%", "ff  45.0%", "uram  50.0%"):
        assert f"<!-- {name} -->" in picture


def test_without_a_device(tmp_path: Path) -> None:
    with pytest.raises(HwgenError, match="no device"):
        draw_resources(tmp_path / "a.svg", RESULT | {"available": {}})
    assert list(tmp_path.iterdir()) == []
