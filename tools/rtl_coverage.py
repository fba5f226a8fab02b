"""Line and toggle coverage of the units that cocotb tests simulate: a row a unit of hw/, over all builds of it.

    python tools/rtl_coverage.py --out build/verify/rtl-coverage.json [tests/hw/float ...]

Runs the tests with simulators that count, which are built anew, and adds up. A line counts if a test takes it; a toggle is one
bit of a signal in one direction. Bits that never change by design (constants that Amaranth writes as signals) count as not toggled.
Of a unit those builds count in which it stands outermost: what a test of the unit alone takes need not be taken again around it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent

_POINT = re.compile(r"^C '(.*)' (\d+)$", re.MULTILINE)
_KIND = re.compile("\x01page\x02v_(line|toggle)/([^\x01]*)")
#: The temporary folder of a build is in every point.
_FILE = re.compile("\x01f\x02[^\x01]*")

KINDS = ("line", "toggle")


class Point(NamedTuple):
    """A line or a toggle of a build: its kind, its module, and where it is."""

    kind: str
    module: str
    place: str


def read_points(text: str) -> dict[Point, int]:
    """How often every point of a ``coverage.dat`` was reached."""
    found: dict[Point, int] = defaultdict(int)
    for key, count in _POINT.findall(text):
        kind = _KIND.search(key)
        if kind:
            found[Point(kind[1], kind[2], _FILE.sub("", key))] += int(count)
    return found


def by_unit(folder: Path) -> list[dict[str, Any]]:
    """Rows by unit, of files ``BUILD-RUN.dat``, and ``BUILD.json`` with the generator of every module: runs of a build are united,
    builds of a unit added."""
    builds: dict[str, dict[Point, int]] = defaultdict(lambda: defaultdict(int))
    for path in sorted(folder.glob("*.dat")):
        for point, count in read_points(path.read_text(encoding="utf-8")).items():
            builds[path.stem.split("-")[0]][point] += count
    # Of every unit, by how deep it stands, what was reached.
    units: dict[str, dict[int, list[tuple[str, str, bool]]]] = defaultdict(lambda: defaultdict(list))
    for build, points in builds.items():
        generators = json.loads((folder / f"{build}.json").read_text(encoding="utf-8"))
        for point, count in points.items():
            if unit := generators.get(point.module, ""):
                units[unit][point.module.count(".")].append((build, point.kind, count > 0))
    rows = []
    for unit, depths in sorted(units.items()):
        reached = depths[min(depths)]
        row: dict[str, Any] = {"unit": unit, "builds": len({build for build, _, _ in reached})}
        for kind in KINDS:
            taken = [is_taken for _, of, is_taken in reached if of == kind]
            row |= {f"{kind}s": len(taken), f"{kind}s_taken": sum(taken)}
        rows.append(row)
    return [with_shares(row) for row in rows]


def with_shares(row: dict[str, Any]) -> dict[str, Any]:
    """The row with its shares in percent."""
    return row | {
        f"{kind}_percent": round(100 * row[f"{kind}s_taken"] / row[f"{kind}s"], 1) if row[f"{kind}s"] else 100.0 for kind in KINDS
    }


def by_folder(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sums of the units of a folder, and of all."""
    sums: dict[str, dict[str, Any]] = {}
    for row in rows:
        for name in (row["unit"].rpartition(".")[0].replace(".", "/"), "all"):
            empty = {f"{kind}s{of}": 0 for kind in KINDS for of in ("", "_taken")}
            into = sums.setdefault(name, {"unit": name, "builds": 0} | empty)
            for key in into.keys() - {"unit"}:
                into[key] += row[key]
    return [with_shares(sums[name]) for name in sorted(sums, key=lambda name: (name == "all", name))]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tests", nargs="*", default=["tests/hw"])
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="simulations that run at the same time")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        environment = {**os.environ, "HWGEN_RTL_COVERAGE": name}
        command = [sys.executable, "-m", "pytest", "-q", "-n", str(options.jobs), "--dist", "worksteal", *options.tests]
        failed = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
        rows = by_unit(Path(name))
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({
        "command": " ".join(["tools/rtl_coverage.py", *options.tests]), "commit": commit.stdout.strip(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"), "rows": rows,
    }, indent=1) + "\n", encoding="utf-8")
    print(f"{'unit':32} {'builds':>6} {'lines':>7} {'taken':>7} {'toggles':>8} {'taken':>7}")
    for row in [*rows, *by_folder(rows)]:
        print(f"{row['unit']:32} {row['builds']:6} {row['lines']:7} {row['line_percent']:6}% {row['toggles']:8} "
              f"{row['toggle_percent']:6}%")
    return failed


if __name__ == "__main__":
    sys.exit(main())
