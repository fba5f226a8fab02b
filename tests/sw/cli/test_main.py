"""What all commands share: errors, exit codes, help."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from hwgen.contract import CONTRACT_VERSION
from hwgen.sw.cli.main import COMMANDS, main

from .calls import call


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (["run"], "usage", "no text to continue"),
        (["run", "MODEL", "x", "--prompt", "x"], "usage", "given twice"),
        (["frobnicate"], "usage", "no command 'frobnicate'"),
        (["run", "nowhere", "--prompt", "x"], "checkpoint", "neither a directory"),
        (["run", "MODEL", "--prompt", "x " * 200, "--device", "golden"], "context", "longer than the context of 64"),
        (["run", "MODEL", "--prompt", "x", "--device", "abacus"], "device", "'abacus' is unknown"),
        (["run", "MODEL", "--prompt", "x", "--device", "golden", "--max-new-tokens", "0"], "usage", "at least 1"),
        (["run", "MODEL", "--prompt", "x", "--device", "golden", "--top-p", "2"], "usage", "top_p must be"),
        (["run", "MODEL", "--prompt", "x", "--device", "golden", "--chat"], "tokenizer", "no chat template"),
        (["run", "MODEL", "--prompt", "x", "--set", "lanes=0"], "configuration", "lanes must be a positive integer"),
        (["run", "MODEL", "--prompt", "x", "--set", "rows=3"], "configuration", "nearest legal value is 2"),
        (["run", "MODEL", "--prompt", "x", "--set", "lanes=many"], "configuration", "is not an int"),
        (["run", "MODEL", "--prompt", "x", "--set", "speed=1"], "configuration", "not a field"),
        (["run", "MODEL", "--prompt", "x", "--set", "max_inputs=40"], "model", "max_inputs=40"),
        (["verify", "--model", "MODEL", "--prompt-tokens", "0"], "usage", "at least 1"),
        (["verify", "--model", "MODEL", "--layers", "9"], "usage", "at most 2"),
        (["perplexity", "MODEL", "no-such-file"], "usage", "is not a file"),
        (["train", "no-such-file", "--out", "x"], "usage", "is not a file"),
        (["build", "--board", "kv261", "--out", "x"], "configuration", "'kv261' is unknown"),
    ],
)
def test_bad_input(
    capsys: pytest.CaptureFixture[str], model_directory: Path, arguments: list[str], kind: str, message: str
) -> None:
    arguments = [str(model_directory) if a == "MODEL" else a for a in arguments]
    code, result = call(capsys, *arguments)
    assert code == 2
    error = result["error"]
    assert error["kind"] == kind and message in error["message"] and error["fix"]
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    last = captured.err.strip().splitlines()[-1]
    assert last.startswith(f"hwgen: {kind}: ") and message in last


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command(capsys: pytest.CaptureFixture[str], command: str) -> None:
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert COMMANDS[command] in text and f"example: hwgen {command}" in text and "--json" in text


def test_help_imports_no_command() -> None:
    code = """
import sys
from hwgen.contract import CONTRACT_VERSION
from hwgen.sw.cli.main import COMMANDS, main
try:
    main(["--help"])
except SystemExit as end:
    assert end.code == 0
wrong = [n for n in sys.modules if n.removeprefix("hwgen.sw.cli.") in COMMANDS or n.split(".")[0] in ("torch", "pynq", "amaranth")]
assert not wrong, wrong
"""
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert all(f"    {name}" in result.stdout for name in COMMANDS)


def test_options_before_the_command_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    code, result = call(capsys, "--quiet", "doctor")
    assert code == 2 and "--quiet" in result["error"]["message"] and "behind the command" in result["error"]["fix"]


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["verfy"], "did you mean verify? see `hwgen --help`"),
        (["run", "--promt", "x"], "did you mean --prompt? see `hwgen run --help`"),
        (["run", "x", "--temprature=1"], "did you mean --temperature?"),
        (["estimate", "--head", "exct"], "did you mean exact?"),
    ],
)
def test_what_was_meant(capsys: pytest.CaptureFixture[str], arguments: list[str], meant: str) -> None:
    code, result = call(capsys, *arguments)
    assert code == 2 and meant in result["error"]["fix"]


def test_nothing_is_near(capsys: pytest.CaptureFixture[str]) -> None:
    code, result = call(capsys, "frobnicate")
    assert code == 2 and result["error"]["fix"] == "see `hwgen --help`"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith(f"hwgen {version('hwgen')}, contract {CONTRACT_VERSION}, in ")


@pytest.mark.parametrize("command", COMMANDS)
def test_defaults_say_something(capsys: pytest.CaptureFixture[str], command: str) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert not re.search(r"\(default: (None|False|\[\]|)\)", " ".join(capsys.readouterr().out.split()))
