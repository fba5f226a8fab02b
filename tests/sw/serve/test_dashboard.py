"""The dashboard asks for what `/metrics` has, and for nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("prometheus_client", reason="serving needs prometheus_client")
pytest.importorskip("httpx", reason="the front of several boards needs httpx")

from hwgen.sw.cli.main import main
from hwgen.sw.devices import power
from hwgen.sw.serve.dashboard import GRID, HEIGHT, WIDTH
from hwgen.sw.serve.front.board_link import BoardLink
from hwgen.sw.serve.front.front_metrics import FrontMetrics
from hwgen.sw.serve.metrics import Metrics
from hwgen.sw.serve.services import Services


def names_of(registry: Any) -> dict[str, set[str]]:
    """Labels by the names of samples that a registry can show; a histogram and a counter have several."""
    suffixes = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
    found: dict[str, set[str]] = {}
    for collector in registry._collector_to_names:
        (family,) = collector.describe()
        for suffix in suffixes[family.type]:
            found[family.name + suffix] = {*collector._labelnames, *(("le",) if suffix == "_bucket" else ())}
    return found


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, set[str]]:
    """All that a server of several models on a board with a sensor, and a front, show."""
    (tmp_path / "hwmon0").mkdir()
    (tmp_path / "hwmon0" / "name").write_text("ina260_u14")
    (tmp_path / "hwmon0" / "power1_input").write_text("4500000")
    monkeypatch.setattr(power, "HWMON", tmp_path)
    metrics, image = Metrics(), SimpleNamespace(pages=4)
    llm: Any = SimpleNamespace(device=SimpleNamespace(is_here=True), image=image, engine=None, prefixes=None)
    metrics.watch(llm, SimpleNamespace())  # type: ignore[arg-type]  # asked when somebody scrapes
    service: Any = SimpleNamespace(name="a", llm=llm, limits=None, metrics=metrics)
    services = Services([service], SimpleNamespace())  # type: ignore[arg-type]
    front = FrontMetrics([BoardLink("b", "http://b")])
    return {**names_of(metrics.registry), **names_of(services.metrics.registry), **names_of(front.registry)}


def test_every_name_and_label_is_shown(capsys: pytest.CaptureFixture[str], shown: dict[str, set[str]]) -> None:
    assert main(["serve", "--grafana"]) == 0
    board = json.loads(capsys.readouterr().out)
    asked: set[str] = set()
    for panel in board["panels"]:
        for target in panel["targets"]:
            expression, legend = target["expr"], target["legendFormat"]
            names = set(re.findall(r"hwgen_\w+", expression))
            assert names and names <= set(shown), f"{names - set(shown)} of {panel['title']!r}"
            asked |= names
            labels = {"board", "model"}.union(*(shown[name] for name in names))  # the first two come from the front and the server
            by = {label.strip() for group in re.findall(r"by \((.*?)\)", expression) for label in group.split(",")}
            assert by | set(re.findall(r"{{(\w+)}}", legend)) | set(re.findall(r"{(\w+)[=~!]", expression)) <= labels, expression
            assert expression.count("(") == expression.count(")")
    left = {name for name in shown if not name.endswith(("_sum", "_count"))} - asked
    assert not left, f"{left} are shown nowhere"


def test_panels_lie_beside_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--grafana"]) == 0
    board = json.loads(capsys.readouterr().out)
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in board["panels"]}
    assert len(places) == len(board["panels"]) == len({panel["id"] for panel in board["panels"]})
    assert all(x + WIDTH <= GRID and x % WIDTH == y % HEIGHT == 0 for x, y in places)
    (variable,) = board["templating"]["list"]
    assert {panel["datasource"]["uid"] for panel in board["panels"]} == {f"${{{variable['name']}}}"}
