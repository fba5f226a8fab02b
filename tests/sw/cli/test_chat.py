"""``hwgen chat`` on both families, without hardware."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from hwgen.decoder import LLAMA
from hwgen.sw.cli.main import main
from hwgen.sw.models.open import open_model
from hwgen.weights import random_weights

from ..models.llama_files import SHAPE, write_gguf
from .calls import call


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
