"""Models by their names on the Hugging Face hub, from a hub on this machine."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from hwgen.decoder import LLAMA
from hwgen.errors import HwgenError
from hwgen.files import data_directory
from hwgen.sw.cli.main import main
from hwgen.sw.models import hub as hub_module
from hwgen.sw.models.hub import add_from_hub
from hwgen.sw.models.library import added_models
from hwgen.sw.models.llama import save_llama
from hwgen.sw.models.open import open_model
from hwgen.sw.models.tokenizer import Tokenizer
from hwgen.weights import random_weights

from .hub_server import COMMIT, Hub, served
from .llama_files import SHAPE, tokenizer_parts, write_gguf

pytest.importorskip("huggingface_hub")

REPOSITORY = "somebody/tiny"


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    for name in ("HWGEN_DATA", "HWGEN_CACHE", "HF_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    write_gguf(tmp_path / "m.gguf", random_weights(SHAPE, 2, LLAMA, "int4"), "Q4_1")
    return (tmp_path / "m.gguf").read_bytes()


def test_add(weights: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """One of several files of a repository, with what the hub says of it; then it is a model like others."""
    with served(Hub(REPOSITORY, {"README.md": b"x", "tiny.Q4_1.gguf": weights, "tiny.Q8_0.gguf": b"other"})) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        assert main(["model", "add", REPOSITORY, "--json"]) == 2
        error = json.loads(capsys.readouterr().out)["error"]
        assert "has 2 GGUF files: tiny.Q4_1.gguf, tiny.Q8_0.gguf" in error["message"]
        assert error["fix"] == "name one of them: hwgen model add somebody/tiny/tiny.Q4_1.gguf"
        assert main(["model", "add", f"{REPOSITORY}/tiny.Q4_1.gguf", "--name", "tiny", "--json"]) == 0
        row = json.loads(capsys.readouterr().out)
    assert row["name"] == "tiny" and row["licence"] == "apache-2.0" and row["source"] == f"{REPOSITORY}@{COMMIT}"
    assert row["sha256"] == {"tiny.Q4_1.gguf": hub.sha256("tiny.Q4_1.gguf")} and row["bytes"] == len(weights)
    assert open_model("tiny").weights.shape == SHAPE
    assert [name for name, _ in hub.asked] == ["tiny.Q4_1.gguf"]


def test_resume(weights: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that breaks off: what came is used, and only the rest is asked for."""
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 4096)  # less than this is lost
    with served(Hub(REPOSITORY, {"tiny.gguf": weights}, breaks="tiny.gguf")) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        try:
            add_from_hub(REPOSITORY, "tiny")
        except HwgenError as error:
            assert "cannot be fetched from the hub" in error.message
            assert not (data_directory() / "models").exists()
            add_from_hub(REPOSITORY, "tiny")
    assert hub.asked[0] == ("tiny.gguf", 0) and all(first > 0 for _, first in hub.asked[1:]) and len(hub.asked) > 1
    assert (data_directory() / "models" / "tiny" / "tiny.gguf").read_bytes() == weights


def test_wrong_hash(weights: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    with served(Hub(REPOSITORY, {"tiny.gguf": weights})) as hub:
        hub.lies["tiny.gguf"] = "1" * 64
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        with pytest.raises(HwgenError, match="tiny.gguf has SHA-256 .*, the hub says 1111"):
            add_from_hub(REPOSITORY, "tiny")
    assert added_models() == []


def test_no_hub(weights: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody answers, or the repository is not there: one line, nothing left."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert main(["model", "add", REPOSITORY]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "somebody/tiny cannot be fetched from the hub (" in said and "check the network" in said
    with served(Hub("another/one", {})) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        with pytest.raises(HwgenError, match="somebody/tiny cannot be fetched"):
            add_from_hub(REPOSITORY, "tiny")
    assert added_models() == []


def test_a_file_in_a_folder(weights: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Repositories keep each quantisation in a folder of its own, or in one within it: the model opens as it was fetched."""
    with served(Hub(REPOSITORY, {"all/Q4_1/tiny-Q4_1.gguf": weights, "Q8_0/tiny-Q8_0.gguf": b"other"})) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        add_from_hub(f"{REPOSITORY}/all/Q4_1/tiny-Q4_1.gguf", "tiny")
    assert (data_directory() / "models" / "tiny" / "all" / "Q4_1" / "tiny-Q4_1.gguf").read_bytes() == weights
    assert open_model("tiny").weights.shape == SHAPE and open_model("tiny").name == "tiny"


def test_a_directory_of_safetensors(weights: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """``model.safetensors`` alone, with the files that say something about it."""
    path = tmp_path / "m"
    save_llama(random_weights(SHAPE, 2, LLAMA, "int4"), path, recipe="rtn", tokenizer=Tokenizer(tokenizer_parts(SHAPE.vocab)[2]))
    files = {file.name: file.read_bytes() for file in path.iterdir()}
    more = {"README.md": b"x", "consolidated.safetensors": b"x", "onnx/model.safetensors": b"x", "tiny.gguf": weights}
    with served(Hub(REPOSITORY, files | more)) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        row = add_from_hub(REPOSITORY, "tiny")
    assert set(row["sha256"]) == set(files) and {name for name, _ in hub.asked} == set(files)
    assert open_model("tiny").weights.shape == SHAPE


def names_chosen(names: list[str], wanted: str | None = None) -> list[str]:
    return hub_module._chosen(REPOSITORY, names, wanted)


def test_which_files_a_model_is() -> None:
    shards = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    parts = [f"Q4/m-0000{i}-of-00002.gguf" for i in (1, 2)]
    assert names_chosen(["config.json", "a/b.safetensors", "model.safetensors.index.json", *shards, *parts]) == [
        *shards, "config.json", "model.safetensors.index.json",
    ]
    for wanted in (None, "Q4/m.gguf", "m.gguf", parts[1]):
        assert names_chosen(parts, wanted) == parts
    assert names_chosen([*parts, "n.gguf"], "n.gguf") == ["n.gguf"]
    for names, wanted, words in (
        ([], None, "has neither safetensors nor GGUF"), (["config.json"], None, "has neither safetensors nor GGUF"),
        (["m.gguf"], "n.gguf", "has no file n.gguf: m.gguf"),
        ([f"{i}.gguf" for i in range(8)], None, "has 8 GGUF files: 0.gguf, .* 6.gguf, 7.gguf [(]name one"),
        ([f"{i}.gguf" for i in range(9)], None, "has 9 GGUF files: 0.gguf, .* 6.gguf, 7.gguf, [.]{3} [(]name one"),
    ):
        with pytest.raises(HwgenError, match=words) as error:
            names_chosen(names, wanted)
        assert error.value.kind == "model" and error.value.fix and str(error.value).count(", ...") == (len(names) > 8)


def test_names_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path that is there goes before a name of the hub."""
    monkeypatch.chdir(tmp_path)
    assert [hub_module.is_hub_name(n) for n in ("a/b", "a/b/c/d.gguf", "a", "a b/c", "/a/b", "")] == [True, True] + [False] * 4
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert not hub_module.is_hub_name("a/b") and hub_module.is_hub_name("a/c")


def test_a_content_without_a_hash(weights: bytes, tmp_path: Path) -> None:
    """Small files of a repository have none; what is recorded is that of the content."""
    class Sibling:
        rfilename, lfs = "config.json", None

    (tmp_path / "config.json").write_bytes(b"{}")
    assert hub_module._checked(tmp_path / "config.json", Sibling()) == hashlib.sha256(b"{}").hexdigest()
    assert hub_module._one_line(ValueError("")) == "ValueError: no reason given"
    assert hub_module._one_line(ValueError("\n one \ntwo")) == "ValueError: one"
