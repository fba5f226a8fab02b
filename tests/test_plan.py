"""The test plan: every point has tests that exist, every unit of hw/ has points, and what a point calls a regression is one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.verify_plan import HOW, STAGES, PlanError, Point, check_point, functions_of, read_plan, regressions, units

PLAN = read_plan()


@pytest.mark.parametrize("point", PLAN, ids=lambda point: point.name)
def test_a_point_has_its_tests(point: Point) -> None:
    check_point(point)


def test_names_are_unique() -> None:
    names = [point.name for point in PLAN]
    assert len(set(names)) == len(names)


def test_every_unit_has_points() -> None:
    planned = {unit for point in PLAN for unit in point.units}
    assert units() - planned == set(), "units without a test point"
    assert planned - units() == set(), "test points of units that are not there"


def test_every_regression_is_planned() -> None:
    """What is left out of the everyday suite stands in the plan, with its stage."""
    planned = {test.partition("::")[0] for point in PLAN if point.stage == "regress" for test in point.tests}
    assert regressions() - planned == set()


@pytest.mark.parametrize(("changes", "message"), [
    ({"tests": ()}, "has no tests"),
    ({"tests": ("tests/test_files.py::test_nothing",)}, "test_nothing is not there"),
    ({"tests": ("tests/test_never.py",)}, "test_never.py is not there"),
    ({"how": "luck"}, "how must be one of"),
    ({"stage": "someday"}, "stage must be one of"),
    ({"stage": "regress"}, "is not marked regress"),
    ({"proves": " "}, "does not say what it proves"),
])
def test_a_bad_point_is_refused(changes: dict[str, object], message: str) -> None:
    good = {"name": "p", "proves": "It.", "how": HOW[0], "stage": STAGES[0], "tests": ("tests/test_files.py",), "units": ()}
    check_point(Point(**good))  # type: ignore[arg-type]  # of a dictionary
    with pytest.raises(PlanError, match=message):
        check_point(Point(**(good | changes)))  # type: ignore[arg-type]  # of a dictionary


def test_functions_and_marks_are_read_without_import(tmp_path: Path) -> None:
    source = tmp_path / "test_it.py"
    source.write_text(
        "import nothing_there\n@pytest.mark.regress\ndef test_long(): ...\ndef test_short(): ...\nasync def test_no(): ...\n"
        "class TestAll:\n    def test_inside(self): ...\n"
    )
    assert functions_of(source) == {"test_long": True, "test_short": False, "TestAll::test_inside": False}
    whole = tmp_path / "test_whole.py"
    whole.write_text("pytestmark = pytest.mark.regress\ndef test_a(): ...\n")
    assert functions_of(whole) == {"test_a": True}
