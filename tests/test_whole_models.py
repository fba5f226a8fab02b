"""Figures of whole models in the documents are those of committed runs."""

from __future__ import annotations

import argparse
import json

import pytest

from hwgen.published import published_model
from hwgen.sw.cli import bench
from hwgen.sw.cli.kv_budget import kv_budget_of
from hwgen.sw.cli.options import configured_board
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


def test_runs_have_names_of_their_own_and_options_that_the_bench_takes() -> None:
    assert len({run.name for run in RUNS}) == len(RUNS)
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    for run in RUNS:
        options = parser.parse_args(run.options.split())
        assert options.kv_budget == (32 if "budget-32" in run.name else 0)
        config = configured_board(options, published_model(options.shape).engine).config
        assert kv_budget_of(options, config) == config.kv_budget, "a build has what its run needs"
        assert options.kv is None or config.int4_kv
