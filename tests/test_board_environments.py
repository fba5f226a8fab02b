"""`make boards-test` and `make board-walk`, before they are run: their lists are those of this tree."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import tomllib
from packaging.requirements import Requirement

from tools.boards_test import ENVIRONMENTS, TESTS, find_python, main

ROOT = Path(__file__).parents[1]


def test_the_extra_accepts_what_boards_have() -> None:
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["pynq"]
    accepted = {requirement.name: requirement.specifier for requirement in map(Requirement, extra)}
    assert {"pynq", "numpy", "setuptools", "pycparser"} == set(accepted)
    for environment in ENVIRONMENTS:
        for requirement in map(Requirement, environment.requirements):
            (pinned,) = requirement.specifier
            assert pinned.operator == "==" and accepted.get(requirement.name, requirement.specifier).contains(pinned.version)


def test_tests_exist() -> None:
    assert [name for name in TESTS if not (ROOT / name).exists()] == []


def test_a_python_that_is_missing_is_named() -> None:
    with pytest.raises(SystemExit, match=r"needs Python 9\.9 with venv: `sudo apt-get install python9\.9 python9\.9-venv`"):
        find_python("9.9")
    with pytest.raises(SystemExit, match="toaster is not an environment; there are py310-pynq301,"):
        main(["toaster"])


def test_the_walk_has_the_commands_of_the_document(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "tools")  # a script beside the one above
    walk = import_module("board_walk")
    walk.check_document()
    first, *others = walk.STEPS
    monkeypatch.setattr(walk, "STEPS", (replace(first, command="pip install anything"), *others))
    with pytest.raises(SystemExit, match="step 8, has no `pip install anything`"):
        walk.check_document()
    monkeypatch.setattr(walk, "STEPS", others)
    with pytest.raises(SystemExit, match=r"steps that are not walked: \[8\]"):
        walk.check_document()
