"""Conversations on both families, without hardware."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest

from hwgen.boards import load_board
from hwgen.decoder import LLAMA
from hwgen.errors import HwgenError
from hwgen.sw.cli.chat import Conversation, LlamaRunner
from hwgen.sw.cli.main import main
from hwgen.sw.models.open import open_model
from hwgen.sw.runtime.sampling import Sampling
from hwgen.weights import dense, random_weights

from ..models.llama_files import SHAPE, write_gguf


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    write_gguf(tmp_path / "m.gguf", random_weights(SHAPE, 2, LLAMA, "int4"), "Q4_1")
    return tmp_path / "m.gguf"


def test_turns_reuse_what_was_read(model_file: Path) -> None:
    model = open_model(model_file)
    runner = LlamaRunner(model, load_board("demo"))
    fed: list[int] = []
    feed = runner.feed

    def watched(tokens: list[int]) -> np.ndarray:
        fed.append(len(tokens))
        return feed(tokens)

    runner.feed = watched  # type: ignore[method-assign,assignment]
    talk = Conversation(runner, model.tokenizer, model.stop_tokens, Sampling(), 6)
    first = "".join(talk.say("The cat"))
    assert talk.messages[1] == {"role": "assistant", "content": first} and len(talk.answer) <= 6
    expected = model.tokenizer.encode_messages(talk.messages[:1])
    assert fed[0] == len(expected)
    "".join(talk.say("sat"))
    whole = model.tokenizer.encode_messages(talk.messages[:3])
    assert runner.tokens[: len(whole)] == whole
    talk.reset()
    assert runner.tokens == [] and "".join(talk.say("The cat")) == first  # greedy: the same again


def test_context_ends_a_conversation(model_file: Path) -> None:
    model = open_model(model_file)
    talk = Conversation(LlamaRunner(model, load_board("demo")), model.tokenizer, model.stop_tokens, Sampling(), 500)
    with pytest.raises(HwgenError, match="longer than the context of 128"):
        "".join(talk.say("cat " * 100))
    assert talk.messages == []
    "".join(talk.say("cat"))
    assert talk.stop_reason in ("context", "stop") and len(talk.runner.tokens) < 128


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


def test_float_models_need_quantising(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", random_weights(SHAPE, 2, LLAMA, "int4"), "F16")
    model = open_model(tmp_path / "m.gguf")
    assert dense(model.weights.layers[0].matrices["q"]).dtype == np.float32
    with pytest.raises(HwgenError, match="has float matrices") as error:
        LlamaRunner(model, load_board("demo"))
    assert "hwgen quantize" in error.value.fix
    assert main(["chat", str(tmp_path / "m.gguf"), "--device", "verilator", "--prompt", "x"]) == 2
