"""``hwgen perplexity``."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from .calls import SMALL, call


def test_perplexity(capsys: pytest.CaptureFixture[str], model_directory: Path, tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text("Once upon a time there was a cat.\n<|endoftext|>\nThe cat sat upon a cat.\n")
    code, result = call(capsys, "perplexity", str(model_directory), str(file), *SMALL)
    assert code == 0 and result["bytes"] == file.stat().st_size - len("<|endoftext|>\n")
    for name in ("float", "bit_exact"):
        row = result[name]
        assert row["perplexity"] == pytest.approx(math.exp(row["nats_per_token"]))
        assert row["bits_per_byte"] * math.log(2) * result["bytes"] == pytest.approx(
            row["nats_per_token"] * result["tokens"]
        )
    assert result["gap"] == pytest.approx(result["bit_exact"]["perplexity"] / result["float"]["perplexity"] - 1)
    code, machine = call(capsys, "perplexity", str(model_directory), str(file), "--device", "golden", *SMALL)
    assert code == 0 and machine["tokens"] == result["tokens"] > 40 and machine["window"] == result["window"] == 64
    for name, value in result["bit_exact"].items():
        assert machine["machine"][name] == pytest.approx(value, rel=1e-12)
    _, short = call(capsys, "perplexity", str(model_directory), str(file), "--tokens", "4", *SMALL)
    assert short["tokens"] == 4 and short["bytes"] < result["bytes"]
    assert result["kv"] == "k8v8"
    exact = {kv: call(capsys, "perplexity", str(model_directory), str(file), "--kv", kv, *SMALL)[1] for kv in ("k8v4", "k4v4")}
    assert [row["kv"] for row in exact.values()] == list(exact)
    gaps = [abs(row["gap"]) for row in (result, *exact.values())]
    assert len(set(gaps)) == 3 and all(gap < 0.2 for gap in gaps)
    assert all(row["float"] == result["float"] for row in exact.values())
