"""The unit that ``hwgen serve --systemd`` prints."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hwgen.sw.cli.main import main
from hwgen.sw.cli.systemd import service_unit

WORDS = ["serve", "a model's 100%.hwimage", "--device", "pynq", "--overlay", 'the "best" $one\\.bit', "--drain-seconds", "7"]


def service_of(unit: str) -> dict[str, str]:
    parser = configparser.RawConfigParser()
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # names of systemd have capitals
    parser.read_string(unit)
    return dict(parser["Service"])


def test_the_command_comes_through_both_quotings() -> None:
    """systemd takes double quotes, backslashes, `%` and `$` away; the shell does the rest."""
    line = service_of(service_unit(WORDS, 7))["ExecStart"].removeprefix("/bin/bash -lc ")
    assert line[0] == line[-1] == '"'
    command = re.sub(r'\\(["\\])', r"\1", line[1:-1]).replace("%%", "%").replace("$$", "$")
    assert shlex.split(command) == ["exec", sys.executable, "-m", "hwgen.sw.cli.main", *WORDS]


def test_from_the_command_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No model is read, and no device opened: they may not be there yet."""
    monkeypatch.chdir(tmp_path)
    arguments = ["serve", "none.hwimage", "--device", "pynq", "--systemd", "--drain-seconds", "7"]
    monkeypatch.setattr(sys, "argv", ["hwgen", *arguments])
    assert main(arguments) == 0
    service = service_of(capsys.readouterr().out)
    assert service["WorkingDirectory"] == str(tmp_path) and service["TimeoutStopSec"] == "37"
    assert service["ExecStart"].endswith('serve none.hwimage --device pynq --drain-seconds 7"')


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not here")
def test_systemd_accepts_it(tmp_path: Path) -> None:
    (tmp_path / "hwgen.service").write_text(service_unit(WORDS, 7))
    done = subprocess.run(["systemd-analyze", "verify", "./hwgen.service"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "hwgen.service:" not in done.stderr, done.stderr
