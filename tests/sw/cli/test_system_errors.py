"""What the system refuses is one line, never a traceback; with ``--json`` an error object where that can still be printed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hwgen.sw.cli.main import main

from .calls import call

HWGEN = [sys.executable, "-m", "hwgen.sw.cli.main"]


@pytest.fixture
def no_place(tmp_path: Path) -> Path:
    """A path below a file, which nobody can make, root included."""
    (tmp_path / "file").write_text("")
    return tmp_path / "file" / "cache"


def test_a_cache_that_cannot_be_written(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, no_place: Path
) -> None:
    monkeypatch.setenv("HWGEN_CACHE", str(no_place))
    run = ("run", "stories", "--prompt", "x", "--device", "verilator")
    error = call(capsys, *run)[1]["error"]
    assert error["kind"] == "file" and str(no_place) in error["message"] and "HWGEN_CACHE" in error["fix"]
    assert main([*run, "--quiet"]) == 2
    assert capsys.readouterr().err.startswith("hwgen: file: ")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("extra", [[], ["--json"]])
def test_an_output_that_is_full(extra: list[str]) -> None:
    with open("/dev/full", "w") as full:
        run = subprocess.run([*HWGEN, "doctor", *extra], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    last = run.stderr.strip().splitlines()[-1]
    assert run.returncode == 2 and last.startswith("hwgen: file: No space left") and "Traceback" not in run.stderr


def test_an_output_that_is_closed() -> None:
    """As by ``| head -1``."""
    with subprocess.Popen([*HWGEN, "doctor"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        errors = process.stderr.read()
    assert process.returncode in (0, 1) and "Traceback" not in errors and "Exception ignored" not in errors


def test_a_terminal_that_knows_ascii_alone(model_directory: Path) -> None:
    command = [*HWGEN, "run", str(model_directory), "--prompt", "caf\u00e9", "--device", "golden", "--set", "max_context=128"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "1"}
    run = subprocess.run([*command, "--max-new-tokens", "1"], capture_output=True, check=False, env=environment)
    assert run.returncode == 0 and run.stdout.startswith(b"caf\\xe9"), run.stderr


@pytest.mark.parametrize("as_json", [False, True])
def test_interrupted(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, as_json: bool) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr("hwgen.sw.cli.doctor.run", interrupt)
    try:
        assert main(["doctor", *(["--json"] if as_json else [])]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    captured = capsys.readouterr()
    if as_json:
        assert json.loads(captured.out)["error"]["kind"] == "interrupted"
    else:
        assert captured.err == "interrupted\n"


def test_two_interrupts_leave_no_traceback() -> None:
    # An answer that takes seconds, wherever it runs.
    command = [*HWGEN, "run", "stories", "--prompt", "the cat", "--device", "golden", "--max-new-tokens", "400"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # What a shell starts in the background ignores interrupts, and so would what that starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.read(7) == "the cat"
        for seconds in (0.0, 0.05):  # in the answer, and while the program ends
            time.sleep(seconds)
            process.send_signal(signal.SIGINT)
        errors = process.stderr.read()
    assert process.returncode in (130, -signal.SIGINT) and "Traceback" not in errors
