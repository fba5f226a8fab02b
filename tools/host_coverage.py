"""Coverage of the host's code by package, from coverage.py's JSON: printed, and recorded for the verification report.

    python tools/host_coverage.py COVERAGE_JSON RECORD
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

#: What is counted of a file.
COUNTS = ("num_statements", "covered_lines", "num_branches", "covered_branches")


def package_of(file: str) -> str:
    """``sw/runtime`` of sw/runtime/engine.py; ``golden`` of golden/norm.py; ``hwgen`` of the contract."""
    parts = Path(file).parts[:-1]
    return "/".join(parts[:2])


def percent(taken: int, of: int) -> float:
    return round(100 * taken / of, 1) if of else 100.0


def by_package(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row a package: statements and branches, and the percentage of each that tests take."""
    sums: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(COUNTS, 0))
    for file, found in report["files"].items():
        for name in COUNTS:
            sums[package_of(file)][name] += found["summary"][name]
    return [
        {
            "package": package, "statements": of["num_statements"],
            "line_percent": percent(of["covered_lines"], of["num_statements"]), "branches": of["num_branches"],
            "branch_percent": percent(of["covered_branches"], of["num_branches"]),
        }
        for package, of in sorted(sums.items())
    ]


def main(arguments: list[str]) -> int:
    source, record = map(Path, arguments)
    rows = by_package(json.loads(source.read_text(encoding="utf-8")))
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    record.write_text(json.dumps({
        "command": "make coverage", "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit.stdout.strip(), "rows": rows,
    }, indent=1) + "\n", encoding="utf-8")
    print(f"{'package':24} {'statements':>10} {'taken':>7} {'branches':>9} {'taken':>7}")
    for row in rows:
        print(f"{row['package']:24} {row['statements']:10} {row['line_percent']:6}% {row['branches']:9} {row['branch_percent']:6}%")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
