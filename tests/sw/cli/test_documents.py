from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from hwgen.errors import HwgenError
from hwgen.sw.cli.documents import add_documents, check_documents, read_documents
from hwgen.sw.cli.output import Output
from hwgen.sw.runtime.llm import LLM

from ..conftest import CONFIG


def options_of(*arguments: str, **others: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_documents(parser)
    return argparse.Namespace(**{"prefixes": False, "boards": None, "model": ["m"], **others, **vars(parser.parse_args(arguments))})


def test_documents_of_a_folder(model_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "b.txt").write_text("The cat sat on a hat.")
    (tmp_path / "a.txt").write_text("The hat sat on a cat, once upon a time.")
    (tmp_path / ".hidden").write_bytes(b"\xff")
    (tmp_path / "more").mkdir()
    options = options_of("--documents", str(tmp_path), "--recompute", "0.25")
    check_documents(options)
    llm = LLM(model_directory, "golden", CONFIG)
    read_documents(llm, options, Output())
    assert [line.split(":")[1].strip() for line in capsys.readouterr().err.splitlines()] == ["a.txt", "b.txt"]
    assert llm.documents.recompute == 0.25
    assert llm.documents.texts == ["The hat sat on a cat, once upon a time.", "The cat sat on a hat."]
    nothing = LLM(model_directory, "golden", CONFIG)
    read_documents(nothing, options_of(), Output(quiet=True))
    assert not len(nothing.documents)


def test_what_is_refused(model_directory: Path, tmp_path: Path) -> None:
    folder = str(tmp_path)
    for options, message in (
        (options_of("--recompute", "0.5"), "--recompute is of documents"),
        (options_of("--documents", folder, "--recompute", "2"), "recompute must be 0 to 1"),
        (options_of("--documents", f"{folder}/nowhere"), "is not a folder"),
        (options_of("--documents", folder, prefixes=True), "one model that reads its prompts itself"),
        (options_of("--documents", folder, boards="a,b"), "one model that reads its prompts itself"),
        (options_of("--documents", folder, model=["a", "b"]), "one model that reads its prompts itself"),
    ):
        with pytest.raises(HwgenError, match=message):
            check_documents(options)
    llm = LLM(model_directory, "golden", CONFIG)
    with pytest.raises(HwgenError, match="has no files"):
        read_documents(llm, options_of("--documents", folder), Output(quiet=True))
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(HwgenError, match="cannot be read as UTF-8"):
        read_documents(llm, options_of("--documents", folder), Output(quiet=True))
