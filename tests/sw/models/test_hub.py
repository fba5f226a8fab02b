"""Models by their names on the Hugging Face hub, from a hub on this machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hwgen.decoder import LLAMA
from hwgen.errors import HwgenError
from hwgen.files import data_directory
from hwgen.sw.cli.main import main
from hwgen.sw.models.hub import add_from_hub
from hwgen.sw.models.library import added_models
from hwgen.sw.models.open import open_model
from hwgen.weights import random_weights

from .hub_server import COMMIT, Hub, served
from .llama_files import SHAPE, write_gguf

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
