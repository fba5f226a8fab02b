"""`--latency-ns` and `--cpu-bytes-per-s`."""

from __future__ import annotations

import json

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
    assert busy == sorted(busy, reverse=True) and busy[0] > 0.9 > busy[1]
    assert usual["decode"]["port_limit_tok_s"] == shared["decode"]["port_limit_tok_s"]


def test_people_see_the_memory(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ESTIMATE, "--latency-ns", "400", "--cpu-bytes-per-s", "5e8"]) == 0
    assert "idle latency 400 ns, the processor reads 0.5 GB/s" in capsys.readouterr().out


@pytest.mark.parametrize(("option", "value"), [("--latency-ns", "-3"), ("--cpu-bytes-per-s", "-1")])
def test_refuses(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ESTIMATE, f"{option}={value}"]) == 2
    assert "latency must be at least one cycle and traffic at least 0" in capsys.readouterr().err
