"""Figures of whole models in the documents are those of committed runs."""

from __future__ import annotations

import json

import pytest

from tools import whole_models
from tools.whole_models import DATA, PAGE, RUNS, Run


def test_the_page_has_what_was_run() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == whole_models.written(page), "run python tools/whole_models.py --write"
    assert all(f"<!-- {mark} -->\n{table}\n<!-- /{mark} -->" in page for mark, table in whole_models.sections().items())


@pytest.mark.parametrize("path", sorted(DATA.glob("bench-*.json")), ids=lambda path: path.stem)
def test_a_kept_run_is_whole_and_equal_to_golden(path: object) -> None:
    run = next((run for run in RUNS if run.path == path), None)
    assert run is not None, f"{path} is of no run"
    result = run.result()
    assert result is not None, f"{path} was made with other options"
    assert (result["mismatches"], result["checked"], result["simulated"]) == (0, "outputs", True)
    assert result["compared"] > 0 and result["layers"] == result["layers_full"]


def test_a_run_with_other_options_is_none(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole_models, "DATA", tmp_path)
    run = Run("a", "b", "--board kv260 --decode 1")
    assert run.result() is None
    run.path.write_text(json.dumps({"command": "hwgen bench --board kv260 --decode 1 --json"}))
    assert run.result() is not None and Run("a", "b", "--board kv260 --decode 2").result() is None
