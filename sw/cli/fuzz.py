"""``hwgen fuzz``: random builds, models, memories and passes against the golden machine."""

from __future__ import annotations

import argparse
from datetime import datetime, timezone
from pathlib import Path

from ...errors import HwgenError
from ..verification.case import Case, load_case, open_case, save_case
from ..verification.fuzz import CASES_PER_BUILD, Finding, fuzz, run_safely
from .options import at_least
from .output import Output, Result

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = "hwgen fuzz --seconds 600 --seed 1"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=int, default=600, metavar="N", help="how long; the case that runs then ends")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn")
    parser.add_argument("--cases", type=int, default=CASES_PER_BUILD, metavar="N", help="models, memories and passes a build")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="builds that run at the same time, each on a core")
    parser.add_argument("--replay", type=Path, metavar="REPRODUCER", help="run one case that an earlier call wrote")
    parser.add_argument("--out", type=Path, default=Path(), metavar="FOLDER", help="where cases that go wrong are written")


def run(options: argparse.Namespace, output: Output) -> Result:
    if options.replay is not None:
        return replay(load_case(options.replay), output)
    seconds, seed, cases = at_least(options, "seconds", 1), at_least(options, "seed", 0), at_least(options, "cases", 1)
    jobs = at_least(options, "jobs", 1)
    if not options.out.is_dir():
        raise HwgenError("usage", f"{options.out} is not a directory", "name one that exists with --out")
    files: list[Path] = []

    def found(finding: Finding) -> None:
        path = options.out / f"fuzz-{seed}-{len(files)}.json"
        save_case(finding.case, path)
        files.append(path)
        output.show(f"wrong: {finding.wrong}")
        output.show(f"  {finding.steps_before} steps made {len(finding.case.steps)}; again: hwgen fuzz --replay {path}")

    total = fuzz(seconds, seed, cases=cases, jobs=jobs, progress=output.progress, found=found)
    output.show(
        f"{total.configurations:,} configurations on {total.builds} builds, {total.passes:,} passes, {total.operators:,} operators "
        f"and {total.elements:,} elements compared in {total.cycles:,} simulated cycles; {len(total.findings)} wrong"
    )
    result = {
        "command": f"hwgen fuzz --seconds {seconds} --seed {seed} --cases {cases} --jobs {jobs}",
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "seed": seed, **total.to_dict(), "reproducers": [str(path) for path in files],
    }
    reached, bins, percent = (result[f"functional_{name}"] for name in ("reached", "bins", "percent"))
    output.show(f"functional coverage: {reached:,} of {bins:,} combinations, {percent}%")
    return (1 if total.findings else 0), result


def replay(case: Case, output: Output) -> Result:
    """One case again."""
    result = run_safely(case, open_case(case))
    output.show(f"wrong in step {result.step}: {result.wrong}" if result.wrong else f"{result.passes} passes, nothing wrong")
    return (1 if result.wrong else 0), {"passes": result.passes, "wrong": result.wrong, "step": result.step}
