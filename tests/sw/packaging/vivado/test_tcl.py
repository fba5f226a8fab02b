from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from hwgen.sw.packaging.vivado.tcl import TKINTER_SHELL, CommandError, Word, find_tcl, run_tcl

pytestmark = pytest.mark.skipif(find_tcl() is None, reason="no Tcl interpreter: apt-get install tcl")

SHELLS = [
    pytest.param([shutil.which("tclsh")], id="tclsh",
                 marks=pytest.mark.skipif(shutil.which("tclsh") is None, reason="no tclsh")),
    pytest.param(list(TKINTER_SHELL), id="tkinter",
                 marks=pytest.mark.skipif(importlib.util.find_spec("_tkinter") is None, reason="Python without tkinter")),
]


def run(text: str, tmp_path: Path, shell: list[str] | None = None) -> tuple[int, list[str], list[list[Word]]]:
    seen: list[list[Word]] = []

    def record(words: Sequence[Word]) -> str:
        seen.append(list(words))
        if words and words[0] == "bad":
            raise CommandError("it is bad: {é} [x]")
        return " ".join(reversed(words))

    script = tmp_path / "a script.tcl"
    script.write_text(text, encoding="utf-8")
    code, output = run_tcl(script, ["one two", ""], {"record": record}, shell)
    return code, output, seen


@pytest.mark.parametrize("shell", SHELLS)
def test_words_travel_unchanged(shell: list[str], tmp_path: Path) -> None:
    text = 'puts [record a {b c} "" {x [y] $z} "line\nbreak" {unbalanced \\{}]\nrecord $argv\n'
    code, output, seen = run(text, tmp_path, shell)
    assert code == 0
    assert [str(w) for w in seen[0]] == ["a", "b c", "", "x [y] $z", "line\nbreak", "unbalanced \\{"]
    assert seen[0][1].items == ("b", "c") and seen[0][2].items == () and seen[0][3].items == ("x", "[y]", "$z")
    assert seen[1][0].items == ("one two", "")
    assert output[0].startswith("unbalanced")


@pytest.mark.parametrize("shell", SHELLS)
def test_errors_reach_the_script(shell: list[str], tmp_path: Path) -> None:
    code, output, _ = run("if {[catch {record bad} message]} { puts caught:$message }\nrecord bad\n", tmp_path, shell)
    assert code == 1
    assert output[0] == "caught:it is bad: {é} [x]"


def test_exit_code_and_syntax(tmp_path: Path) -> None:
    assert run("exit 3", tmp_path)[0] == 3
    code, output, _ = run("set x [", tmp_path)
    assert code == 1 and "close-bracket" in output[-1]
    code, output, _ = run("no_such_command 1", tmp_path)
    assert code == 1 and "no_such_command" in output[-1]
