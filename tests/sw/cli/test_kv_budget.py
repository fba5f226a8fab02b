"""A budget of cached blocks in commands that count cycles."""

from __future__ import annotations

import json

import pytest

from hwgen.sw.cli.main import main

from .calls import call

LONG = ["--board", "kv260", "--prompt", "0", "--cached", "4000", "--decode", "1"]
BUILD = ["--set", "kv_budget=32", "--set", "summary_rows=4"]


def test_estimate(capsys: pytest.CaptureFixture[str]) -> None:
    results = {}
    for budget in (0, 16, 32):
        code, results[budget] = call(capsys, "estimate", *LONG, *BUILD, "--kv-budget", str(budget))
        assert code == 0 and results[budget]["kv_budget"] == budget
    rates = [result["decode"]["tok_s"] for result in results.values()]
    assert rates[1] > rates[2] > 1.3 * rates[0]
    assert [result["decode"]["attended"] for result in results.values()] == [4000, 18 * 32, 34 * 32]
    assert [result["decode"]["context"] for result in results.values()] == [4000] * 3
    assert results[0]["decode"]["choosing_per_token"] == 0 < results[32]["decode"]["choosing_per_token"] < 1e6
    code, plain = call(capsys, "estimate", *LONG)
    assert plain["decode"] == results[0]["decode"] and plain["kv_budget"] == 0
    # Pages of summaries beside those of keys and values: 16 and 126.
    assert results[0]["buffers"]["pages"] == pytest.approx(142 / 126 * plain["buffers"]["pages"], rel=0.01)


def test_a_context_within_the_budget_is_attended_to_whole(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["estimate", "--board", "kv260", "--prompt", "0", "--cached", "1000", "--decode", "1", *BUILD]
    results = [call(capsys, *command, "--kv-budget", budget)[1]["decode"] for budget in ("0", "32")]
    assert results[0] == results[1] and results[1]["attended"] == 1000


def test_text_says_what_is_attended_to(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", *LONG, *BUILD, "--kv-budget", "32"]) == 0
    text = capsys.readouterr().out
    assert "k8v8 cache, 32 blocks of it chosen\n" in text and "at context 4000, attending to 1088 tokens of it: " in text
    assert main(["estimate", *LONG]) == 0
    text = capsys.readouterr().out
    assert "k8v8 cache\n" in text and "at context 4000: " in text


@pytest.mark.parametrize("command", ["estimate", "bench"])
@pytest.mark.parametrize(("build", "budget", "fix"), [([], "32", 32), (BUILD, "33", 33), ([], "1", 2)])
def test_a_build_that_chooses_fewer(
    capsys: pytest.CaptureFixture[str], command: str, build: list[str], budget: str, fix: int
) -> None:
    assert main([command, *LONG, *build, "--kv-budget", budget]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and f"build with --set kv_budget={fix}" in lines[0]


@pytest.mark.parametrize(("budget", "why"), [("-1", "at least 0, not -1"), ("254", "at most 253, not 254")])
def test_no_budget(capsys: pytest.CaptureFixture[str], budget: str, why: str) -> None:
    assert main(["estimate", *LONG, "--kv-budget", budget, "--json"]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["kind"] == "usage" and why in error["message"]
