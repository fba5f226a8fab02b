"""A command as its user types it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hwgen.sw.cli.main import main

from ..conftest import CONFIG

__all__ = ["SMALL", "call"]

#: Options of commands that take the small model.
SMALL = ["--set", f"max_context={CONFIG.max_context}"]


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    code = main([*arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)
