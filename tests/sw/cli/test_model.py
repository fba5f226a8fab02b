"""``hwgen model``: adding files and directories, listing, what was decided and from where, removing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwgen.boards import board_names, load_board
from hwgen.decoder import LLAMA
from hwgen.sw.cli.main import main
from hwgen.sw.models.library import find_model
from hwgen.sw.models.open import open_model
from hwgen.weights import random_weights

from ..models.llama_files import SHAPE, write_gguf
from .calls import call


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HWGEN_DATA", str(tmp_path / "data"))


def test_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_gguf(tmp_path / "m.gguf", random_weights(SHAPE, 2, LLAMA, "int4"), "Q4_0")
    code, row = call(capsys, "model", "add", str(tmp_path / "m.gguf"), "--name", "mine")
    assert code == 0 and row["name"] == "mine" and row["source"] == str(tmp_path)
    (tmp_path / "m.gguf").unlink()
    assert open_model("mine").name == "mine"
    rows = {r["name"]: r for r in call(capsys, "model", "list")[1]["models"]}
    assert rows["mine"]["family"] == "llama" and rows["mine"]["format"] == "GGUF, Q4_0" and rows["mine"]["bytes"] > 0
    boards = {r["board"]: r for r in rows["mine"]["boards"]}
    assert set(boards) == {name for name in board_names() if load_board(name).platform}
    assert boards["kv260"]["holds"] and boards["kv260"]["tok_s"] > 100
    assert not boards["pynq-z2"]["holds"] and "no configuration with engine 'int4'" in boards["pynq-z2"]["why"]
    assert rows["stories"]["format"] == "safetensors, bitnet"
    assert call(capsys, "model", "remove", "mine") == (0, {"removed": "mine", "bytes": row["bytes"]})
    assert not list((tmp_path / "data" / "models").iterdir())
    code, result = call(capsys, "model", "remove", "stories")
    assert code == 2 and "is part of hwgen, so it cannot be removed" in result["error"]["message"]


def test_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The files of the model, and not what lies beside them."""
    shutil.copytree(find_model("stories"), tmp_path / "mine")
    (tmp_path / "mine" / "diary.txt").write_text("private")
    assert call(capsys, "model", "add", str(tmp_path / "mine"))[0] == 0
    kept = {path.name for path in (tmp_path / "data" / "models" / "mine").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "model.json"} <= kept and "diary.txt" not in kept
    shutil.rmtree(tmp_path / "mine")
    assert open_model("mine").shape == open_model("stories").shape and open_model("mine").name == "mine"


def test_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_gguf(tmp_path / "m.gguf", random_weights(SHAPE, 2, LLAMA, "int4"), "Q4_1")
    code, shown = call(capsys, "model", "show", str(tmp_path / "m.gguf"), "--no-boards")
    fields = shown["fields"]
    assert code == 0 and shown["family"] == "llama" and shown["shape"]["hidden"] == SHAPE.hidden and shown["boards"] == []
    assert fields["hidden"] == {"value": SHAPE.hidden, "from": "llama.embedding_length"}
    assert fields["tied"] == {"value": True, "from": "output.weight is not there"}
    assert fields["activation"]["from"] == "absent: what the architecture means"
    assert fields["stop_tokens"]["value"] == {"0": "<|endoftext|>", str(SHAPE.vocab - 1): "<|im_end|>"}
    assert set(shown["shape"]) < set(fields)
    code, shown = call(capsys, "model", "show", "stories", "--no-boards")
    assert shown["fields"]["hidden"]["from"] == "config.json: hidden_size"
    assert shown["fields"]["matrices"] == {"value": "bitnet", "from": "config.json: quantization_config"}
    assert main(["model", "show", "stories"]) == 0
    text = capsys.readouterr().out
    assert "board kv260" in text and "tokens/s (estimated)" in text


@pytest.mark.parametrize(("arguments", "words"), [
    (["add", "nobody"], "there is no model 'nobody' to add"),
    (["add", "stories", "--name", "x"], "there is no model 'stories' to add"),
    (["show", "nobody"], "neither a directory nor a shipped model"), (["remove", "nobody"], "has not been added"),
    (["remove"], "hwgen model remove needs a model"), (["add", "smollm2", "--name", "x"], "--name and --revision are for files"),
])
def test_refused(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, result = call(capsys, "model", *arguments)
    assert code == 2 and words in result["error"]["message"] and result["error"]["fix"]


def test_names_that_are_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_gguf(tmp_path / "m.gguf", random_weights(SHAPE, 2, LLAMA, "int4"), "Q4_1")
    for name, words in (("stories", "is the name of a model of hwgen"), ("../x", "is no name for a model"), (".x", "is no name")):
        code, result = call(capsys, "model", "add", str(tmp_path / "m.gguf"), "--name", name)
        assert code == 2 and words in result["error"]["message"]
    (tmp_path / "n.gguf").write_bytes(b"GGUF")
    code, result = call(capsys, "model", "add", str(tmp_path / "n.gguf"))
    assert code == 2 and "truncated or no GGUF file" in result["error"]["message"]


def _broken(tmp_path: Path, change: dict[str, Any]) -> str:
    shutil.copytree(find_model("stories"), tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    (tmp_path / "m" / "config.json").write_text(json.dumps(config | change))
    return str(tmp_path / "m")


@pytest.mark.parametrize(("change", "words"), [
    ({"clip_qkv": 8.0}, "the field clip_qkv (8.0) is not known"), ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
    ({"vocab_size": 512}, "the tokenizer has a token 1023"),
])
def test_the_same_refusal_from_every_command(
    change: dict[str, Any], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything else happens: no simulator is built, no file written."""
    model, text = _broken(tmp_path, change), tmp_path / "text.txt"
    text.write_text("Once upon a time")
    said = []
    for command in (
        ["run", model, "--prompt", "x"], ["chat", model, "--prompt", "x"], ["serve", model, "--port", "0"],
        ["perplexity", model, str(text)], ["quantize", model], ["verify", "--model", model],
        ["compile", model, "--out", str(tmp_path / "m.hwimage")], ["model", "show", model], ["model", "add", model],
    ):
        code, result = call(capsys, *command)
        assert code == 2, command
        said.append(result["error"])
    assert words in said[0]["message"] and said[0]["fix"] and all(error == said[0] for error in said)
    assert not (tmp_path / "m.hwimage").exists() and not (tmp_path / "data").exists()


def test_centers_of_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Measured on texts, kept beside the weights, taken in with them, and refused where they are another model's."""
    copy, text, center = tmp_path / "mine", tmp_path / "text", ["model", "center", str(tmp_path / "mine"), "--text"]
    shutil.copytree(find_model("stories"), copy)
    text.write_text("Once upon a time there was a dog.")
    assert open_model(str(copy)).weights.key_centers is None
    code, row = call(capsys, *center, str(text), str(text), "--tokens", "6")
    assert code == 0 and row["path"] == str(copy / "keys.centers") and row["tokens"] == 12
    weights = open_model(str(copy)).weights
    assert weights.key_centers is not None and row["layers"] == weights.shape.layers
    assert call(capsys, "model", "show", str(copy), "--no-boards")[1]["fields"]["key_centers"]["value"] == "keys.centers"
    assert call(capsys, "model", "add", str(copy), "--name", "centered")[0] == 0
    assert open_model("centered").weights.key_centers is not None
    write_gguf(tmp_path / "m.gguf", random_weights(SHAPE, 2, LLAMA, "int4"), "Q4_0")
    shutil.copyfile(copy / "keys.centers", tmp_path / "m.gguf.centers")
    code, result = call(capsys, "model", "show", str(tmp_path / "m.gguf"))
    assert code == 2 and "m.gguf.centers is not of this model" in result["error"]["message"]
    (tmp_path / "m.gguf.centers").unlink()
    assert call(capsys, "model", "center", str(tmp_path / "m.gguf"), "--text", str(text), "--tokens", "4")[0] == 0
    assert call(capsys, "model", "add", str(tmp_path / "m.gguf"))[0] == 0 and open_model("m").weights.key_centers is not None
    for arguments, words in (
        (["stories", "--text", str(text)], "is part of hwgen, and stays as it is"), ([str(copy)], "measures on texts"),
        ([str(copy), "--text", str(text), "--tokens", "1"], "tokens must be at least 2"),
        ([str(copy), "--text", str(tmp_path / "none")], "is not a file"),
    ):
        code, result = call(capsys, "model", "center", *arguments)
        assert code == 2 and words in result["error"]["message"]
    for option in (["--text", str(text)], ["--tokens", "9"]):
        code, result = call(capsys, "model", "show", "stories", *option)
        assert code == 2 and f"{option[0]} is of hwgen model center" in result["error"]["message"]
    values = (copy / "keys.centers").read_bytes()
    for bad in (np.nan, 3e38):
        (copy / "keys.centers").write_bytes(values[:-4] + np.float32(bad).tobytes())
        code, result = call(capsys, "model", "show", str(copy))
        assert code == 2 and "values that are no keys" in result["error"]["message"]
