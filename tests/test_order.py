"""Files that took longest come first, in the part of every worker."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import expected_time, in_order, last_times

RESULTS = """<testsuites><testsuite>
<testcase file="tests/test_a.py" name="one" time="2.5"/><testcase file="tests/test_a.py" name="two" time="4"/>
<testcase file="tests/test_b.py" name="one" time="9"/></testsuite></testsuites>"""


def test_times_of_the_last_run(tmp_path: Path) -> None:
    results = tmp_path / "test.xml"
    assert last_times(results) == {}
    results.write_text(RESULTS)
    assert last_times(results) == {"tests/test_a.py": 6.5, "tests/test_b.py": 9.0}
    results.write_text(RESULTS[:60])
    assert last_times(results) == {}


def test_every_part_begins_with_what_takes_longest() -> None:
    times = {"a": 1.0, "b": 5.0, "c": 3.0, "d": 4.0, "e": 2.0}
    assert in_order(list(times), times, 2) == ["b", "c", "a", "d", "e"]
    assert in_order(list(times), times, 1) == ["b", "d", "c", "e", "a"]


def test_what_never_ran_is_ranked_by_its_folder() -> None:
    assert expected_time("tests/system/test_stop.py", {}) > expected_time("tests/hw/test_reset.py", {}) > 0
    assert expected_time("tests/test_files.py", {}) == 0
