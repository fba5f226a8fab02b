"""``hwgen verify``."""

from __future__ import annotations

from pathlib import Path

import pytest

from .calls import call


def test_verify_fails_with_exit_code_1(
    capsys: pytest.CaptureFixture[str], model_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hwgen.sw.verification.lock_step import Mismatch, Outcome

    wrong = Outcome(operators_compared=3, mismatches=2, first=Mismatch("LINEAR", 1, 9, 4, -3, 5, "accumulator"))
    monkeypatch.setattr("hwgen.sw.cli.verify.verify_model", lambda *a, **k: wrong)
    code, result = call(capsys, "verify", "--model", str(model_directory))
    assert code == 1 and result["first"]["operator"] == "LINEAR" and result["first"]["rtl"] == -3
    assert {"operators_compared", "elements_compared", "mismatches", "first"} <= set(result)
    assert {"operator", "layer", "token", "element", "rtl", "golden"} <= set(result["first"])
