"""What is said of matrices that were made 4-bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hwgen.sw.models.four_bits import OnTheFly


def test_the_report_is_of_what_was_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HWGEN_CACHE", str(tmp_path))
    said: list[str] = []
    made = OnTheFly(progress=said.append)
    made.report()
    assert said == []
    for _ in range(2):
        made("layer 0", "F16", np.random.default_rng(1).standard_normal((8, 64)).astype(np.float32))
    made.report()
    assert said[-1].startswith("2 matrices (2 of F16) made 4-bit") and "; 1 of them from " in said[-1]
