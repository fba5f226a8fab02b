"""``hwgen board`` and ``hwgen run --device pynq``, as their users type them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hwgen.sim.board.board import VirtualBoard
from hwgen.sw.cli import board as board_command
from hwgen.sw.cli.main import main
from hwgen.sw.models.bitnet import save_model
from hwgen.weights import random_weights
from tests.golden_answers import golden_answer
from tests.system.small import SHAPE
from tests.virtual_board import CONFIG, new_board, require_remote

require_remote()

import pynq

from hwgen.sim.board.server import BoardServer

#: Of PYNQ's own code.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(autouse=True)
def active_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pynq.Device, "_active_device", None, raising=False)


@pytest.fixture(scope="module")
def board() -> VirtualBoard:
    return new_board()


@pytest.fixture
def board_file(tmp_path: Path) -> str:
    path = tmp_path / "board.json"
    path.write_text(json.dumps({
        "name": "small", "description": "", "part": "", "available": {}, "memory_bandwidth": 0, "config": CONFIG.to_dict(),
    }))
    return str(path)


@pytest.fixture
def model(tmp_path: Path) -> str:
    path = tmp_path / "model"
    save_model(random_weights(SHAPE, seed=11), path)
    vocabulary = {f"w{i}": i for i in range(SHAPE.vocab)}
    (path / "tokenizer.json").write_text(json.dumps({
        "version": "1.0", "pre_tokenizer": {"type": "Whitespace"},
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "w0"},
    }))
    return str(path)


@pytest.fixture
def served(
    board: VirtualBoard, board_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[int]:
    """The command in a thread; its port."""
    monkeypatch.setattr(board_command, "virtual_board", lambda *a, **k: board)
    ports: list[int] = []
    ready, end = threading.Event(), threading.Event()

    def wait(server: BoardServer) -> None:
        ports.append(server.port)
        ready.set()
        end.wait(60)

    monkeypatch.setattr(BoardServer, "wait", wait)
    arguments = ["board", "--simulate", board_file, "--port", "0", "--overlay", str(tmp_path / "overlay")]
    thread = threading.Thread(target=main, args=(arguments,))
    thread.start()
    assert ready.wait(30)
    text = capsys.readouterr().out
    assert f"small-simulated serves PYNQ's remote protocol on 127.0.0.1:{ports[0]}" in text and "(simulated)" in text
    yield ports[0]
    end.set()
    thread.join()


def test_run(served: int, board_file: str, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: str) -> dict[str, Any]:
        common = ["run", model, "--prompt", "w5 w40 w17", "--max-new-tokens", "2", "--board", board_file, "--json", "--quiet"]
        assert main([*common, *arguments]) == 0
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        return result

    tokens = golden_answer("generate_two")
    place = ("--device", "pynq", "--address", f"127.0.0.1:{served}")
    result = run(*place)
    assert result["tokens"] == tokens and len(result["tokens"]) == 2
    assert result["device"] == "pynq" and result["simulated"] is True and result["decode"]["cycles"] > 0
    bit = str(tmp_path / "overlay" / "small.bit")
    assert run(*place, "--overlay", bit, "--attach")["tokens"] == tokens


def error(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main([*arguments, "--json"]) == 2
    return str(json.loads(capsys.readouterr().out)["error"]["message"])


def test_wrong_use(
    board: VirtualBoard, board_file: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board_command, "virtual_board", lambda *a, **k: board)
    simulate = ("board", "--simulate", board_file)
    assert "--memory must be at least 1, not 0" in error(capsys, *simulate, "--memory", "0")
    assert "--port must be 0 to 65535, not 70000" in error(capsys, *simulate, "--port", "70000")
    assert "is unknown" in error(capsys, "board", "--simulate", "toaster")
    with BoardServer(board, port=0) as server:
        assert "cannot be listened on" in error(capsys, *simulate, "--port", str(server.port))
    assert "are for a board" in error(capsys, "run", "--prompt", "x", "--address", "here")


def test_no_board_answers(board_file: str, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("run", model, "--prompt", "w1", "--board", board_file, "--device", "pynq", "--address", "127.0.0.1:9")
    assert "no board answers at 127.0.0.1:9" in error(capsys, *arguments)
