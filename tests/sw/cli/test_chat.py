"""``hwgen chat`` on both families, without hardware."""

from __future__ import annotations

import io
import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from hwgen.decoder import LLAMA
from hwgen.sw.cli.chat_input import line_reader
from hwgen.sw.cli.main import main
from hwgen.sw.devices.golden import GoldenDevice
from hwgen.sw.models.open import open_model
from hwgen.sw.runtime.llm import LLM
from hwgen.weights import random_weights

from ..conftest import CONFIG
from ..models.llama_files import SHAPE, write_gguf
from .calls import SMALL, call


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    write_gguf(tmp_path / "m.gguf", random_weights(SHAPE, 2, LLAMA, "int4"), "Q4_1")
    return tmp_path / "m.gguf"


def test_command(
    model_file: Path, model_directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["chat", str(model_file), "--prompt", "The cat", "--max-new-tokens", "4", "--json"])
    result = json.loads(capsys.readouterr().out)
    turn = result["turns"][0]
    assert (
        code == 0 and turn["prompt_tokens"] == open_model(model_file).tokenizer.encode_chat("The cat") and len(turn["tokens"]) <= 4
    )
    monkeypatch.setattr("sys.stdin", io.StringIO("The cat\n/reset\n/help\n\nThe cat\n/quit\nnever\n"))
    assert main(["chat", str(model_file), "--max-new-tokens", "4", "--json"]) == 0
    captured = capsys.readouterr()
    turns = json.loads(captured.out)["turns"]
    assert len(turns) == 2 and turns[0] == turns[1] == turn
    assert "/help is not a command" in captured.err and "forgotten" in captured.err
    # a ternary model that continues text
    code = main(["chat", str(model_directory), "--prompt", "the cat", "--max-new-tokens", "3", "--set", "max_context=128"])
    assert code == 0 and capsys.readouterr().out.strip() != ""


@pytest.mark.parametrize("sampling", [(), ("--temperature", "1.5", "--seed", "3", "--repetition-penalty", "1.2")])
def test_the_first_answer_is_that_of_run(
    model_file: Path, capsys: pytest.CaptureFixture[str], sampling: tuple[str, ...]
) -> None:
    options = (str(model_file), "--prompt", "The cat", "--max-new-tokens", "6", "--device", "golden", *sampling)
    said, run = call(capsys, "chat", *options)[1]["turns"][0], call(capsys, "run", "--chat", *options)[1]
    assert {name: run[name] for name in said} == said and said["tokens"]


# ---- Ctrl-C, and lines -------------------------------------------------------------------------------------------
def interrupt_after(monkeypatch: pytest.MonkeyPatch, passes: int) -> None:
    """Ctrl-C while pass ``passes`` is waited for, once; of a loop, every one."""
    wait, count = GoldenDevice.wait, iter(range(10_000))

    def waiting(self: GoldenDevice, timeout: float, look: Callable[[], bool] | None = None) -> bool:
        if next(count) == passes:
            raise KeyboardInterrupt
        return wait(self, timeout, look)

    monkeypatch.setattr(GoldenDevice, "wait", waiting)


def test_an_interrupt_ends_the_answer_and_not_the_chat(
    model_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [str(model_file), "--max-new-tokens", "6", "--json"]
    whole = call(capsys, "chat", *options[:-1], "--prompt", "Two")[1]["turns"][0]
    interrupt_after(monkeypatch, 3)
    monkeypatch.setattr("sys.stdin", io.StringIO("The cat\n/reset\nTwo\n"))
    assert main(["chat", *options]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["turns"] == [whole] and "answer ended" in captured.err


@pytest.mark.parametrize("passes", [0, 1, 4])
def test_an_interrupted_session_is_saved(
    model_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], passes: int
) -> None:
    """In the prompt (two passes) or in the answer: what was computed is in the file, what was not is computed when it goes on."""
    options = [str(model_directory), "--device", "golden", "--max-new-tokens", "8", *SMALL, "--session", str(tmp_path / "s")]
    whole = call(capsys, "run", *options[:-2], "--prompt", "the cat sat")[1]["tokens"]
    interrupt_after(monkeypatch, passes)
    before = signal.getsignal(signal.SIGINT)
    try:
        assert main(["run", *options, "--prompt", "the cat sat"]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    llm = LLM(model_directory, "golden", CONFIG)
    session = llm.load_session(tmp_path / "s")
    prompt = llm.model.tokenizer.encode("the cat sat")
    said = [*session.tokens, *session.pending]
    assert said == [*prompt, *whole][: len(said)] and len(said) == len(prompt) + max(0, passes - 1)


def test_a_bad_place_for_a_session_is_refused_before_the_answer(
    model_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (tmp_path, tmp_path / "none" / "s"):
        options = [str(model_directory), "--prompt", "x", "--device", "golden", *SMALL, "--session", str(path)]
        assert main(["run", *options]) == 2
        captured = capsys.readouterr()
        assert captured.out == "" and "hwgen: session: " in captured.err


def test_lines_of_a_terminal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """They can be edited, and are kept for the next conversation where there is a place for them."""
    pytest.importorskip("prompt_toolkit", reason="line editing needs prompt_toolkit")
    from prompt_toolkit.application import create_app_session
    from prompt_toolkit.input import create_pipe_input

    def typed(keys: str) -> list[str | None]:
        with create_pipe_input() as pipe, create_app_session(input=pipe):
            pipe.send_text(keys)
            read = line_reader(True)
            return [read() for _ in range(keys.count("\r") + keys.count("\x04"))]

    monkeypatch.setenv("HWGEN_DATA", str(tmp_path))
    assert typed("ab\x1b[DX\r\x04") == ["aXb", None]
    assert "+aXb" in (tmp_path / "chat_history").read_text()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HWGEN_DATA", str(tmp_path / "file" / "none"))
    assert typed("c\r") == ["c"]
