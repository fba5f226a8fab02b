from __future__ import annotations

import importlib
import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from hwgen import packages
from hwgen.errors import HwgenError
from hwgen.packages import install_command, needs


def test_a_missing_package_is_named_with_what_installs_it() -> None:
    with pytest.raises(HwgenError) as caught, needs("the golden model", "hwgen[sim]"):
        importlib.import_module("toaster.slots")
    assert caught.value.kind == "tool"
    assert caught.value.message == "the golden model needs a Python package that is missing: toaster"
    assert caught.value.fix == install_command("hwgen[sim]")


@dataclass
class Installed:
    """What importlib.metadata knows of a package, as far as it is asked for."""

    direct_url: str | None
    requires: Sequence[str] = (
        "numpy>=1.26", 'amaranth<0.6,>=0.5.8; extra == "sim"', 'torch==2.13.*; extra == "sim"', "gguf; extra == 'gguf'",
        'hwgen[gguf,sim]; extra == "dev"', 'ruff; extra == "dev"',
    )

    def read_text(self, name: str) -> str | None:
        assert name == "direct_url.json"
        return self.direct_url


@pytest.mark.parametrize(
    ("origin", "requirement", "arguments"),
    [
        ({"url": "file://PLACE", "dir_info": {"editable": True}}, "hwgen[sim]", ["--editable", "PLACE[sim]"]),
        ({"url": "file://PLACE", "dir_info": {}}, "hwgen[sim,fmax]", ["PLACE[sim,fmax]"]),
        ({"url": "file://PLACE/a%20b.whl", "archive_info": {}}, "hwgen[sim]", ["PLACE/a b.whl[sim]"]),
        ({"url": "file:///gone/hwgen.whl", "archive_info": {}}, "hwgen[sim]", ["amaranth<0.6,>=0.5.8", "torch==2.13.*"]),
        (None, "hwgen[dev]", ["gguf", "amaranth<0.6,>=0.5.8", "torch==2.13.*", "ruff"]),
        (
            {"url": "https://host/hwgen", "vcs_info": {"vcs": "git", "commit_id": "abc"}}, "hwgen[sim]",
            ["hwgen[sim] @ git+https://host/hwgen@abc"],
        ),
        ({"url": "https://host/hwgen.whl", "archive_info": {}}, "hwgen[sim]", ["hwgen[sim] @ https://host/hwgen.whl"]),
        ({"url": "file://PLACE", "dir_info": {"editable": True}}, "pynq>=3.1", ["pynq>=3.1"]),
    ],
)
def test_the_command_is_for_how_this_copy_was_installed(
    origin: dict[str, object] | None, requirement: str, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a b.whl").touch()
    text = None if origin is None else json.dumps(origin).replace("PLACE", str(tmp_path))
    monkeypatch.setattr(packages, "distribution", lambda name: Installed(text))
    monkeypatch.setattr(packages, "distributions", lambda name: [Installed(None), Installed(text)])  # beside those of a build
    command = shlex.split(install_command(requirement))
    assert command[1:4] == ["-m", "pip", "install"] and Path(command[0]).exists()
    expected = [a.replace("PLACE", str(tmp_path)) for a in arguments]
    assert sorted(command[4:]) == sorted(expected)


def test_a_copy_that_was_never_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where its folder is on the path alone: the folder that holds pyproject.toml, as this test lies in it."""
    monkeypatch.setattr(packages, "distributions", lambda name: [])
    monkeypatch.setattr(packages, "__file__", str(Path(__file__).resolve().parent.parent / "hwgen" / "packages.py"))
    command = shlex.split(install_command("hwgen[sim,fmax]"))
    assert command[4:] == ["--editable", f"{Path(__file__).resolve().parent.parent}[sim,fmax]"]


@pytest.mark.parametrize("code", ["from hwgen.config import toaster", "import hwgen.toaster", "raise ImportError"])
def test_a_defect_of_our_own_is_not_hidden(code: str) -> None:
    with pytest.raises(ImportError), needs("the golden model", "hwgen[sim]"):
        exec(code)


def test_other_errors_pass() -> None:
    with pytest.raises(ZeroDivisionError), needs("the golden model", "hwgen[sim]"):
        1 / 0  # noqa: B018  # the error is the point
