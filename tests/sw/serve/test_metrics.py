"""What `/metrics` says of energy."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hwgen.sw.devices import power

pytest.importorskip("prometheus_client", reason="serving needs prometheus_client")

from hwgen.sw.serve.metrics import Metrics


def scrape(is_here: bool) -> str:
    metrics = Metrics()
    image: Any = SimpleNamespace(pages=4)
    engine = SimpleNamespace(pages=SimpleNamespace(free=1))
    llm: Any = SimpleNamespace(device=SimpleNamespace(is_here=is_here), image=image, engine=engine, prefixes=None)
    scheduler: Any = SimpleNamespace(kept_bound=0.0, running=0, waiting=0, reopened=0, failure=None)
    metrics.watch(llm, scheduler)
    for seconds in (0.5, 1.5):
        metrics.observe(SimpleNamespace(cycles=10, passes=1), False, seconds)  # type: ignore[arg-type]  # all that is asked of them
    return metrics.text().decode()


def test_joules_of_passes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(power, "HWMON", tmp_path)
    assert "joules" not in scrape(True)  # no sensor
    (tmp_path / "hwmon0").mkdir()
    (tmp_path / "hwmon0" / "name").write_text("ina260_u14")
    (tmp_path / "hwmon0" / "power1_input").write_text("4500000")
    assert 'hwgen_pass_joules_total{phase="decode"} 9.0' in scrape(True)
    assert "joules" not in scrape(False)  # simulated, or another machine's
