"""The test plan, `tests/plan/*.toml`: what is proven of every unit and of the whole machine, how, when, and by which tests."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import tomllib

__all__ = ["HOW", "STAGES", "PlanError", "Point", "check_point", "read_plan", "regressions", "functions_of", "units"]

ROOT = Path(__file__).resolve().parent.parent

#: directed: chosen cases; random: drawn by seed; exhaustive: every case; formal: proven; property: a rule over drawn cases.
HOW = ("directed", "random", "exhaustive", "formal", "property")

#: Suites: `make test` and `make regress`.
STAGES = ("test", "regress")


class PlanError(ValueError):
    """A test point that says what is not so."""


@dataclass(frozen=True)
class Point:
    """A test point."""

    name: str
    #: In a sentence.
    proves: str
    #: One of :data:`HOW`.
    how: str
    #: One of :data:`STAGES`: the suite that has its tests.
    stage: str
    #: ``file`` or ``file::function`` of the tests that realise it.
    tests: tuple[str, ...]
    #: Files of hw/ that it speaks of; none of a behaviour across units.
    units: tuple[str, ...] = ()


def read_plan(folder: Path = ROOT / "tests" / "plan") -> list[Point]:
    """All points, in the order of the files."""
    points = []
    for path in sorted(folder.glob("*.toml")):
        for row in tomllib.loads(path.read_text(encoding="utf-8"))["point"]:
            points.append(Point(**{name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}))
    return points


def units() -> set[str]:
    """Every file of hw/ that defines something."""
    return {path.relative_to(ROOT).as_posix() for path in (ROOT / "hw").rglob("*.py") if path.name != "__init__.py"}


def _is_regression(marks: list[ast.expr]) -> bool:
    return any(isinstance(node, ast.Attribute) and node.attr == "regress" for mark in marks for node in ast.walk(mark))


def _functions(body: list[ast.stmt], marked: bool, prefix: str = "") -> Iterator[tuple[str, bool]]:
    for node in body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test"):
            yield prefix + node.name, marked or _is_regression(node.decorator_list)
        if isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            yield from _functions(node.body, marked or _is_regression(node.decorator_list), f"{node.name}::")


@cache
def functions_of(path: Path) -> dict[str, bool]:
    """Tests of a file by name, and whether all of each is a regression; read from its text."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    marks = [
        node.value for node in body
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "pytestmark" for t in node.targets)
    ]
    return dict(_functions(body, _is_regression(marks)))


def regressions() -> set[str]:
    """Files with tests that are regressions as a whole."""
    return {
        path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("test_*.py") if any(functions_of(path).values())
    }


def check_point(point: Point) -> None:
    """Raises `PlanError` with what is wrong."""
    if not point.tests:
        raise PlanError(f"{point.name} has no tests")
    if not point.proves.strip():
        raise PlanError(f"{point.name} does not say what it proves")
    if point.how not in HOW:
        raise PlanError(f"{point.name}: how must be one of {', '.join(HOW)}, not {point.how!r}")
    if point.stage not in STAGES:
        raise PlanError(f"{point.name}: stage must be one of {', '.join(STAGES)}, not {point.stage!r}")
    for test in point.tests:
        file, _, function = test.partition("::")
        if not (ROOT / file).is_file():
            raise PlanError(f"{point.name}: {file} is not there")
        functions = functions_of(ROOT / file)
        if not functions or (function and function not in functions):
            raise PlanError(f"{point.name}: {function or 'a test'} is not there, in {file}")
        wanted = [functions[function]] if function else list(functions.values())
        if point.stage == "regress" and not any(wanted):
            raise PlanError(f"{point.name}: {test} is not marked regress")
        if point.stage == "test" and all(wanted):
            raise PlanError(f"{point.name}: {test} is marked regress")
