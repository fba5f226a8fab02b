"""``hwgen doctor``."""

from __future__ import annotations

import pytest

from hwgen.sw.cli import doctor

from .calls import call


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    _, result = call(capsys, "doctor")
    assert all(set(c) >= {"name", "ok", "found", "fix"} for c in result["checks"])
    assert {c["name"]: c["ok"] for c in result["checks"]}["numpy"]
    assert not doctor.check_package("no-such-distribution", "sim", False).ok
