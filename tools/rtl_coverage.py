"""Line and toggle coverage of the units that cocotb tests simulate: a row a unit of hw/, over all builds of it.

    python tools/rtl_coverage.py --out build/verify/rtl-coverage.json [tests/hw/float ...]

Runs the tests with simulators that count, which are built anew, and adds up. A line counts if a test takes it; a toggle is one
bit of a signal in one direction. Bits that never change by design (constants that Amaranth writes as signals) count as not toggled.
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
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

_POINT = re.compile(r"^C '(.*)' (\d+)$", re.MULTILINE)
_KIND = re.compile("\x01page\x02v_(line|toggle)/")
#: The temporary folder of a build is in every point.
_FILE = re.compile("\x01f\x02[^\x01]*")

KINDS = ("line", "toggle")


def read_points(text: str) -> dict[tuple[str, str], int]:
    """Kind and place of every point of a ``coverage.dat``, and how often it was reached."""
    found: dict[tuple[str, str], int] = {}
    for key, count in _POINT.findall(text):
        kind = _KIND.search(key)
        if kind:
            place = kind[1], _FILE.sub("", key)
            found[place] = found.get(place, 0) + int(count)
    return found


def by_unit(folder: Path) -> list[dict[str, Any]]:
    """Rows by unit, of files ``UNIT-BUILD-RUN.dat``: runs of a build are united, builds of a unit added."""
    builds: dict[tuple[str, str], dict[tuple[str, str], int]] = defaultdict(lambda: defaultdict(int))
    for path in sorted(folder.glob("*.dat")):
        unit, build, _ = path.stem.rsplit("-", 2)
        for place, count in read_points(path.read_text(encoding="utf-8")).items():
            builds[unit, build][place] += count
    sums: dict[str, dict[str, list[int]]] = defaultdict(lambda: {kind: [0, 0] for kind in KINDS})
    number: dict[str, int] = defaultdict(int)
    for (unit, _), points in builds.items():
        number[unit] += 1
        for (kind, _), count in points.items():
            sums[unit][kind][0] += 1
            sums[unit][kind][1] += count > 0
    return [
        {"unit": unit, "builds": number[unit], **{
            f"{kind}_percent": round(100 * taken / of, 1) if of else 100.0 for kind, (of, taken) in kinds.items()
        }, **{f"{kind}s": of for kind, (of, _) in kinds.items()}}
        for unit, kinds in sorted(sums.items())
    ]


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
    for row in rows:
        print(f"{row['unit']:32} {row['builds']:6} {row['lines']:7} {row['line_percent']:6}% {row['toggles']:8} "
              f"{row['toggle_percent']:6}%")
    return failed


if __name__ == "__main__":
    sys.exit(main())
