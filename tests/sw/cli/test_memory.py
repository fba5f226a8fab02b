"""`--latency-ns`, `--cpu-bytes-per-s` and `--memory`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hwgen.sw.cli.main import main

ESTIMATE = ["estimate", "--board", "kv260", "--shape", "bitnet-0.73b", "--prompt", "0", "--decode", "1", "--cached", "128"]


def estimate(capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, dict[str, float]]:
    assert main([*ESTIMATE, *options, "--json"]) == 0
    result: dict[str, dict[str, float]] = json.loads(capsys.readouterr().out)
    return result


def test_the_estimate_follows_the_memory(capsys: pytest.CaptureFixture[str]) -> None:
    usual = estimate(capsys)
    slow = estimate(capsys, "--latency-ns", "480")
    shared = estimate(capsys, "--latency-ns", "480", "--cpu-bytes-per-s", "1e9")
    assert usual["memory"] == {"latency_ns": 320.0, "cpu_bytes_per_s": 0.0}
    assert shared["memory"] == {"latency_ns": 480.0, "cpu_bytes_per_s": 1e9}
    busy = [result["decode"]["port_utilisation"] for result in (usual, slow, shared)]
    assert busy == sorted(busy, reverse=True) and busy[0] > 0.95 > busy[2] > 0.85
    assert usual["decode"]["port_limit_tok_s"] == shared["decode"]["port_limit_tok_s"]


def test_people_see_the_memory(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ESTIMATE, "--latency-ns", "400", "--cpu-bytes-per-s", "5e8"]) == 0
    assert "idle latency 400 ns, the processor reads 0.5 GB/s" in capsys.readouterr().out


@pytest.mark.parametrize(("option", "value"), [("--latency-ns", "-3"), ("--cpu-bytes-per-s", "-1")])
def test_refuses(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ESTIMATE, f"{option}={value}"]) == 2
    assert "latency must be at least one cycle and traffic at least 0" in capsys.readouterr().err


def write_report(path: Path, **changes: object) -> Path:
    path.write_text(json.dumps({"memory": {"board": "kv260", "latency_ns": 480.0, "port_rate": 0.5, **changes}}))
    return path


def test_the_report_of_a_self_test(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    report = str(write_report(tmp_path / "a.json"))
    usual, measured = estimate(capsys), estimate(capsys, "--memory", report)
    assert measured["memory"] == {"latency_ns": 480.0, "cpu_bytes_per_s": 0.0, "port_rate": 0.5}
    assert measured["decode"]["tok_s"] < 0.6 * usual["decode"]["tok_s"]
    assert estimate(capsys, "--memory", report, "--latency-ns", "200")["memory"]["latency_ns"] == 200.0
    assert main([*ESTIMATE, "--memory", report]) == 0
    assert "all ports sustain 50.0% as a self-test found" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"board": "zcu104"}, "is of board 'zcu104', not 'kv260'"), ({"port_rate": 1.5}, "1.5 beats a cycle"),
     ({"latency_ns": "soon"}, "has no measured memory")],
)
def test_refuses_a_report(
    changes: dict[str, object], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main([*ESTIMATE, "--memory", str(write_report(tmp_path / "a.json", **changes))]) == 2
    assert message in capsys.readouterr().err


def test_refuses_what_is_not_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main([*ESTIMATE, "--memory", str(tmp_path / "b.json")]) == 2
    assert "has no measured memory" in capsys.readouterr().err
