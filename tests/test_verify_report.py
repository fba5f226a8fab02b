"""The verification report says what results and records say, and no more."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tools import host_coverage, verify_report
from tools.verify_plan import Point
from tools.verify_report import Suite, read_record, read_suite, replace_table, verdict

RESULTS = """<testsuites><testsuite time="75.5" timestamp="2026-01-02T03:04:05.6+00:00">
<testcase classname="tests.test_a" file="tests/test_a.py" name="test_one[1]" time="1"/>
<testcase classname="tests.test_a" file="tests/test_a.py" name="test_one[2]" time="1"><failure message="m"/></testcase>
<testcase classname="tests.test_a" file="tests/test_a.py" name="test_two" time="1"/>
<testcase classname="tests.test_a.TestAll" file="tests/test_a.py" name="test_in" time="1"/>
<testcase classname="tests.test_b" file="tests/test_b.py" name="test_three" time="1"><skipped/></testcase>
</testsuite></testsuites>"""


def point(*tests: str, stage: str = "test", **changes: Any) -> Point:
    return Point(**{"name": "p", "proves": "<It>.", "how": "random", "stage": stage, "tests": tests, **changes})


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    path = tmp_path / "test.xml"
    path.write_text(RESULTS)
    return read_suite(path)


def test_results_of_a_run(suite: Suite) -> None:
    assert (suite.date, suite.seconds) == ("2026-01-02T03:04:05", 75.5)
    assert suite.of("tests/test_a.py::test_one") == {"passed": 1, "failed": 1}
    assert suite.of("tests/test_a.py::TestAll::test_in") == {"passed": 1}
    assert suite.of("tests/test_a.py") == {"passed": 3, "failed": 1}
    assert suite.total() == {"passed": 3, "failed": 1, "skipped": 1}


@pytest.mark.parametrize(("tests", "expected"), [
    (("tests/test_a.py::test_two",), "passed"),
    (("tests/test_a.py::test_two", "tests/test_a.py::test_one"), "failed"),
    (("tests/test_a.py",), "failed"),
    (("tests/test_a.py::test_two", "tests/test_b.py::test_three"), "not run"),
    (("tests/test_a.py::test_two", "tests/test_c.py"), "not run"),
])
def test_a_point_passed_if_all_its_tests_did(suite: Suite, tests: tuple[str, ...], expected: str) -> None:
    assert verdict(point(*tests), suite) == expected


def test_no_run_is_no_result(tmp_path: Path) -> None:
    assert verdict(point("tests/test_a.py"), read_suite(tmp_path / "test.xml")) == "not run"


def test_the_whole_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    results, document, summary = tmp_path / "verify", tmp_path / "verification.md", tmp_path / "verification.json"
    results.mkdir()
    for name, value in (("ROOT", tmp_path), ("VERIFY", results), ("SUMMARY", summary), ("DOCUMENT", document)):
        monkeypatch.setattr(verify_report, name, value)
    points = [point("tests/test_a.py::test_two", units=("hw/float/add.py",)), point("tests/test_b.py", name="q", stage="regress")]
    monkeypatch.setattr(verify_report, "read_plan", lambda: points)
    (results / "test.xml").write_text(RESULTS)
    record = {"command": "hwgen fuzz --seconds 9", "date": "today", "commit": "abc", "rows": [{"passes": 7, "wrong": 0}]}
    (results / "fuzz.json").write_text(json.dumps(record))
    document.write_text("# Title\n" + verify_report.BEGIN + "old\n" + verify_report.END + "after\n")
    assert verify_report.main(["--document"]) == 0
    page, text = (results / "index.html").read_text(), document.read_text()
    assert "&lt;It&gt;." in page and "hwgen fuzz --seconds 9" in page and "<td>7<td>0" in page
    assert page.count("<p class=missing>not run</p>") == 5, "both kinds of mutation, formal and both kinds of coverage"
    assert "| hw/float | 1 | 1 | 1 | 0 | 0 |" in text and "| across units |  | 1 | 0 | 0 | 1 |" in text
    assert "`make test`: 5 tests in 1 min 16 s, 1 failed, 1 skipped" in text and "`make regress`: not run." in text
    assert text.startswith("# Title\n") and text.endswith("after\n") and "old" not in text
    assert json.loads(summary.read_text())["records"]["fuzz"]["rows"] == 1
    points[:] = [point("tests/test_a.py::test_one")]
    assert verify_report.main([]) == 1


def test_records_of_any_shape(tmp_path: Path) -> None:
    path = tmp_path / "formal.json"
    assert read_record(path, "make prove") is None
    path.write_text(json.dumps({"seconds": 4, "proofs": [{"name": "merge", "passed": True}]}))
    found = read_record(path, "make prove")
    assert found is not None and (found.command, found.commit) == ("make prove", "not recorded") and found.date.endswith("UTC")
    assert found.totals == {"seconds": 4} and found.rows == [{"name": "merge", "passed": True}]
    path.write_text(json.dumps({"passes": 7, "reproducers": []}))
    found = read_record(path, "make fuzz")
    assert found is not None and found.rows == [{"passes": 7}]


def test_a_document_without_marks_is_left_alone() -> None:
    with pytest.raises(SystemExit, match="no marks"):
        replace_table("# Title\n", "new")


def test_coverage_is_summed_by_package(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def of(statements: int, lines: int, branches: int, taken: int) -> dict[str, Any]:
        return {"summary": {"num_statements": statements, "covered_lines": lines, "num_branches": branches,
                            "covered_branches": taken}}

    source, record = tmp_path / "lines.json", tmp_path / "coverage.json"
    source.write_text(json.dumps({"files": {
        "sw/runtime/a.py": of(10, 10, 4, 3), "sw/runtime/b.py": of(10, 5, 0, 0), "sw/progress.py": of(1, 1, 0, 0),
        "hwgen/config.py": of(0, 0, 0, 0),
    }}))
    assert host_coverage.main([str(source), str(record)]) == 0
    rows = {row["package"]: (row["line_percent"], row["branch_percent"]) for row in json.loads(record.read_text())["rows"]}
    assert rows == {"sw/runtime": (75.0, 75.0), "sw": (100.0, 100.0), "hwgen": (100.0, 100.0)}
    assert "sw/runtime" in capsys.readouterr().out
