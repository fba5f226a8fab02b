"""The verification report: the test plan with what the last runs found, as a page and as a table for `docs/verification.md`.

Reads what is there of build/verify: `test.xml` and `regress.xml` (JUnit, of `make test` and `make regress`), and the records
`fuzz.json`, `mutation.json`, `host-mutation.json`, `formal.json`, `coverage.json`, `rtl-coverage.json`: numbers and a list of rows
each, with command, date and commit if they say them. What is not there is shown as not run. Writes `index.html` beside them; with
``--document`` also the summary `docs/data/verification.json` and the table of `docs/verification.md`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timezone
from html import escape
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.verify_plan import STAGES, Point, read_plan  # noqa: E402  # found through the line above

ROOT = Path(__file__).resolve().parent.parent
VERIFY = ROOT / "build" / "verify"
SUMMARY = ROOT / "docs" / "data" / "verification.json"
DOCUMENT = ROOT / "docs" / "verification.md"
BEGIN, END = "<!-- table of make verify-report -->\n", "<!-- end of the table -->\n"

#: Records of others: what each is, and the command that makes it.
RECORDS = {
    "fuzz": ("Whole-machine fuzzing", "make fuzz"), "mutation": ("Mutation", "make mutate"),
    "host-mutation": ("Mutation of host code", "make mutate-host"),
    "formal": ("Formal proofs", "make prove"), "coverage": ("Branch coverage of host code", "make coverage"),
    "rtl-coverage": ("Line and toggle coverage of units", "make coverage-rtl"),
}

_STYLE = """body{font:15px/1.45 system-ui,sans-serif;margin:2em auto;max-width:75em;padding:0 1em;color:#222}
table{border-collapse:collapse;width:100%;margin:1em 0}td,th{border-top:1px solid #ddd;padding:.3em .6em;text-align:left;
vertical-align:top}.passed{color:#0a6b2d}.failed{color:#b00020;font-weight:bold}.missing{color:#8a5a00}small{color:#666}"""


@dataclass(frozen=True)
class Record:
    """What another tool found."""

    command: str
    date: str
    commit: str
    #: Its single numbers and words.
    totals: dict[str, Any]
    rows: list[dict[str, Any]]


@dataclass
class Suite:
    """Results of one run of a suite."""

    #: When it began, by its own record; empty if it never ran here.
    date: str = ""
    seconds: float = 0.0
    #: Of every test "passed", "failed" or "skipped", by file, then by function (of a class: ``Class::function``).
    outcomes: dict[str, dict[str, Counter[str]]] = field(default_factory=dict)

    def of(self, test: str) -> Counter[str]:
        """Outcomes of ``file`` or ``file::function``."""
        file, _, function = test.partition("::")
        found = self.outcomes.get(file, {})
        return found.get(function, Counter()) if function else sum(found.values(), Counter())

    def total(self) -> Counter[str]:
        return sum((self.of(file) for file in self.outcomes), Counter())


def read_suite(path: Path) -> Suite:
    """Of a JUnit file; an empty one if it is missing."""
    if not path.is_file():
        return Suite()
    root = ElementTree.parse(path).getroot()
    run = root if root.tag == "testsuite" else root.find("testsuite")
    if run is None:
        return Suite()
    suite = Suite(date=str(run.get("timestamp", ""))[:19], seconds=float(run.get("time", 0)))
    for case in run.iter("testcase"):
        bad = case.find("failure") is not None or case.find("error") is not None
        outcome = "failed" if bad else "skipped" if case.find("skipped") is not None else "passed"
        file = str(case.get("file"))
        inside = str(case.get("classname")).removeprefix(file.removesuffix(".py").replace("/", ".")).strip(".")
        name = str(case.get("name")).partition("[")[0]
        function = f"{inside}::{name}" if inside else name
        suite.outcomes.setdefault(file, {}).setdefault(function, Counter())[outcome] += 1
    return suite


def verdict(point: Point, suite: Suite) -> str:
    """"passed" if every test of it passed, "failed", or "not run": a test that was skipped or did not run proves nothing."""
    found = [suite.of(test) for test in point.tests]
    if any(outcomes["failed"] for outcomes in found):
        return "failed"
    return "passed" if all(outcomes["passed"] for outcomes in found) else "not run"


def read_record(path: Path, command: str) -> Record | None:
    """A record of another tool, whatever it calls its rows; None if it is missing. Without rows its numbers are one."""
    if not path.is_file():
        return None
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    written = datetime.fromtimestamp(path.stat().st_mtime, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    about = {name: str(found.pop(name, value)) for name, value in
             (("command", command), ("date", written), ("commit", "not recorded"))}
    tables = [value for value in found.values() if isinstance(value, list) and value and isinstance(value[0], dict)]
    totals = {name: value for name, value in found.items() if isinstance(value, int | float | str)}
    return Record(**about, totals=totals, rows=tables[0] if tables else [totals])


def commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def summarise(points: list[Point], suites: dict[str, Suite], records: dict[str, Record | None]) -> dict[str, Any]:
    """What the table, the page's head and docs/data have."""
    rows = []
    units = {unit for point in points for unit in point.units}
    for area in sorted({area_of(point) for point in points}):
        mine = [point for point in points if area_of(point) == area]
        rows.append({
            "area": area, "points": len(mine), "units": sum(unit.rpartition("/")[0] == area for unit in units),
            "tests": len({test for point in mine for test in point.tests}),
            **Counter(verdict(point, suites[point.stage]).replace(" ", "_") for point in mine),
        })
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"), "commit": commit(), "areas": rows,
        "suites": {stage: {"date": s.date, "seconds": round(s.seconds), **s.total()} for stage, s in suites.items()},
        "records": {
            name: {"command": r.command, "date": r.date, "commit": r.commit, "rows": len(r.rows), **r.totals}
            for name, r in records.items() if r is not None
        },
    }


def area_of(point: Point) -> str:
    return point.units[0].rpartition("/")[0] if point.units else "across units"


def table(summary: dict[str, Any]) -> str:
    """For the document."""
    lines = ["| part | units | test points | passed | failed | not run |", "|---|---|---|---|---|---|"]
    for row in summary["areas"]:
        counts = (row.get(name, 0) for name in ("passed", "failed", "not_run"))
        lines.append(f"| {row['area']} | {row['units'] or ''} | {row['points']} | {' | '.join(map(str, counts))} |")
    lines += ["", f"Of {summary['date']}, commit {summary['commit']}."]
    for stage, run in summary["suites"].items():
        tests = sum(run.get(name, 0) for name in ("passed", "failed", "skipped"))
        lines.append(f"`make {stage}`: " + (
            f"{tests:,} tests in {run['seconds'] // 60} min {run['seconds'] % 60} s, {run.get('failed', 0)} failed, "
            f"{run.get('skipped', 0)} skipped ({run['date']})." if run["date"] else "not run."
        ))
    lines += [f"`{r['command']}`: {numbers(r)} ({r['date']}, commit {r['commit']})." for r in summary["records"].values()]
    return "\n".join(lines) + "\n"


def numbers(record: dict[str, Any]) -> str:
    """The totals of a record in words, or how many rows it has where it has no totals."""
    about = ("command", "date", "commit", "rows", "seed")
    found = [f"{name.replace('_', ' ')} {value:,}" for name, value in record.items()
             if name not in about and isinstance(value, int | float)]
    return ", ".join(found) or f"{record['rows']} rows"


def page(points: list[Point], suites: dict[str, Suite], records: dict[str, Record | None], summary: dict[str, Any]) -> str:
    """The whole report."""
    parts = [f"<!doctype html><html lang=en><meta charset=utf-8><title>Verification</title><style>{_STYLE}</style>"
             f"<h1>Verification</h1><p>{escape(summary['date'])}, commit {escape(summary['commit'])}</p>"]
    for stage, run in summary["suites"].items():
        parts.append(f"<p><b>make {stage}</b>: {escape(json.dumps(run)) if run['date'] else 'not run'}</p>")
    for area in sorted({area_of(point) for point in points}):
        parts.append(f"<h2>{area}</h2><table><tr><th>point<th>what is proven<th>how<th>stage<th>tests<th>result")
        for point in (p for p in points if area_of(p) == area):
            result = verdict(point, suites[point.stage])
            tests = "<br>".join(f"{escape(t)} <small>{describe(suites[point.stage].of(t))}</small>" for t in point.tests)
            units = "<br>".join(f"<small>{escape(unit)}</small>" for unit in point.units)
            kind = {"not run": "missing"}.get(result, result)
            parts.append(f"<tr><td>{escape(point.name)}<br>{units}<td>{escape(point.proves)}<td>{point.how}<td>{point.stage}"
                         f"<td>{tests}<td class={kind}>{result}")
        parts.append("</table>")
    for name, (title, _) in RECORDS.items():
        parts.append(f"<h2>{title}</h2>")
        parts.append(record_table(records[name]))
    return "".join(parts) + "</html>\n"


def describe(outcomes: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(outcomes.items())) or "not run"


def record_table(record: Record | None) -> str:
    if record is None:
        return "<p class=missing>not run</p>"
    columns = list(dict.fromkeys(name for row in record.rows for name in row))
    head = "".join(f"<th>{escape(name)}" for name in columns)
    rows = "".join("<tr>" + "".join(f"<td>{escape(str(row.get(name, '')))}" for name in columns) for row in record.rows)
    totals = "".join(f", {escape(name)} {escape(str(value))}" for name, value in record.totals.items())
    about = f"<p><code>{escape(record.command)}</code>, {escape(record.date)}, commit {escape(record.commit)}{totals}</p>"
    return f"{about}<table><tr>{head}{rows}</table>"


def replace_table(text: str, new: str) -> str:
    """The document with the table between its marks replaced."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"error: {DOCUMENT} has no marks of the table")
    return before + begin + new + end + after


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--document", action="store_true", help="write the summary and the table of docs/verification.md")
    options = parser.parse_args(arguments)
    points = read_plan()
    suites = {stage: read_suite(VERIFY / f"{stage}.xml") for stage in STAGES}
    records = {name: read_record(VERIFY / f"{name}.json", command) for name, (_, command) in RECORDS.items()}
    summary = summarise(points, suites, records)
    VERIFY.mkdir(parents=True, exist_ok=True)
    (VERIFY / "index.html").write_text(page(points, suites, records, summary), encoding="utf-8")
    if options.document:
        SUMMARY.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
        DOCUMENT.write_text(replace_table(DOCUMENT.read_text(encoding="utf-8"), table(summary)), encoding="utf-8")
    print(table(summary), end="")
    print(f"{VERIFY.relative_to(ROOT)}/index.html")
    return 1 if any(verdict(point, suites[point.stage]) == "failed" for point in points) else 0


if __name__ == "__main__":
    sys.exit(main())
