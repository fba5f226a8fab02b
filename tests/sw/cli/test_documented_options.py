"""The commands of docs/quickstart.md have the options that it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hwgen.sw.cli.main import main

TEXT = (Path(__file__).parents[3] / "docs" / "quickstart.md").read_text(encoding="utf-8")

#: Text about each command, by its name.
SECTIONS = {part[1]: part[0] for part in re.finditer(r"^### `hwgen (\w+).*?(?=^### |\Z)", TEXT, re.MULTILINE | re.DOTALL)}


def options_of(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][\w-]*", text))


def test_sections_are_found() -> None:
    assert {"run", "serve", "compile", "selftest"} <= set(SECTIONS) and "--systemd" in options_of(SECTIONS["serve"])


@pytest.mark.parametrize("command", SECTIONS)
def test_options_exist(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    missing = options_of(SECTIONS[command]) - options_of(capsys.readouterr().out)
    assert not missing
