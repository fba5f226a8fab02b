from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import openai
import pytest

from hwgen.errors import HwgenError
from hwgen.sw.cli.main import main

from ..conftest import CONFIG

SMALL = ["--device", "golden", "--set", f"max_context={CONFIG.max_context}"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_running_answers_end_before_the_server(chat_directory: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "hwgen.sw.cli.main", "serve", str(chat_directory), "--port", "0", "--json", *SMALL]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None and process.stdout is not None
            line = ""
            while " at http" not in line:
                line = process.stderr.readline()
                assert line, "the server ended"
            url = line.split(" at ")[1].split()[0]
            with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
                stream = client.chat.completions.create(
                    model="chatty", messages=[{"role": "user", "content": "x"}], max_tokens=30, stream=True
                )
                chunks = [next(iter(stream))]
                process.send_signal(number)
                chunks += list(stream)
            assert chunks[-1].choices[0].finish_reason == "length"
            assert process.wait(60) == 0
            assert json.loads(process.stdout.read()) == {"model": "chatty", "models": ["chatty"], "url": url}
            assert "Traceback" not in process.stderr.read()
        finally:
            process.kill()


def test_a_signal_before_the_server_runs(
    capsys: pytest.CaptureFixture[str], chat_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reads where the server is may end it at once: it ends as ever, before it has served anything."""
    from hwgen.sw.serve.server import Server

    serve = Server.run

    def run(self: Server, sockets: list[socket.socket]) -> None:
        assert " at http" in capsys.readouterr().err
        signal.raise_signal(signal.SIGTERM)
        serve(self, sockets=sockets)

    monkeypatch.setattr(Server, "run", run)
    assert main(["serve", str(chat_directory), "--port", "0", *SMALL]) == 0
    assert "Traceback" not in capsys.readouterr().err


def test_a_device_that_is_lost_for_good(
    capsys: pytest.CaptureFixture[str], chat_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process ends with exit code 2 and says why."""
    from hwgen.sw.serve.server import Server

    lost = HwgenError("device", "the board is gone", "look at its cable")

    def run(self: Server, sockets: object) -> None:
        assert [service.scheduler.on_failure for service in self._behind] == [self._fail]  # type: ignore[attr-defined]  # Services
        self._fail(lost)

    monkeypatch.setattr(Server, "run", run)
    assert error(capsys, str(chat_directory), "--port", "0") == lost.to_dict()


def error(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, str]:
    assert main(["serve", *arguments, *SMALL, "--json"]) == 2
    return dict(json.loads(capsys.readouterr().out)["error"])


def test_wrong_options(capsys: pytest.CaptureFixture[str], chat_directory: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert f"cannot listen at 127.0.0.1:{port}" in error(capsys, "--port", port)["message"]
    assert "0 to 65535" in error(capsys, "--port", "70000")["message"]
    assert "cannot listen" in error(capsys, "--host", "no such host")["message"]
    assert "cannot be read" in error(capsys, "--api-key-file", str(tmp_path / "none"))["message"]
    (tmp_path / "key").write_text("\n")
    assert "is empty" in error(capsys, "--api-key-file", str(tmp_path / "key"))["message"]
    assert "--drain-seconds must be at least 0" in error(capsys, "--drain-seconds", "-1")["message"]
    assert "--max-new-tokens must be at least 1" in error(capsys, "--max-new-tokens", "0")["message"]
    small = error(capsys, str(chat_directory), "--port", "0", "--cache-tokens", "10")
    assert "smaller than the context" in small["message"]
    assert "max_running" in error(capsys, str(chat_directory), "--port", "0", "--max-sessions", "0")["message"]


def test_missing_package(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "hwgen.sw.serve.server", raising=False)  # as in a process that has not served yet
    wrong = error(capsys, "--port", "0")
    assert wrong["kind"] == "tool" and "[serve]" in wrong["fix"]
