"""Planted faults of a whole machine against the tests of its units: which test finds what the machine's cases leave?

A fault goes into the module that is the same unit, as a test builds it (`hwgen.sim.unit_fault`). Tests with Amaranth's own
simulator have no Verilog and take no part.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hwgen.sim.mutants import Mutant
from hwgen.sim.unit_fault import KEEP_VERILOG, PLANTED_FAULT, UnitFault, unit_fault

__all__ = ["UnitTest", "finding_test", "finding_test_of", "unit_tests"]

ROOT = Path(__file__).resolve().parent.parent
#: Tests of a fault, the smallest designs first.
MOST = 3
#: Of one test; a design that stands still ends there.
SECONDS = 240


@dataclass(frozen=True)
class UnitTest:
    """A test of the suite and a design that it simulates."""

    name: str
    verilog: str


def _pytest(arguments: Sequence[str], environment: dict[str, str], seconds: float | None = None) -> int:
    """Exit code of pytest; 1 if it did not end in time."""
    values = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    with subprocess.Popen(
        command, cwd=ROOT, env=values, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            return 1


def unit_tests(files: Sequence[str] | None = None, jobs: int = 2) -> list[UnitTest]:
    """Every test of these files, or of all, that simulates Verilog, with its designs; generates them, and simulates nothing."""
    if files is None:
        every = sorted((ROOT / "tests" / "hw").rglob("test_*.py"))
        files = [str(path) for path in every if re.search(r"\b(run_cocotb|engine_cases)\b", path.read_text())]
    with tempfile.TemporaryDirectory() as folder:
        _pytest(["-n", str(jobs), *files], {KEEP_VERILOG: folder})
        kept = [json.loads(path.read_text()) for path in sorted(Path(folder).iterdir())]
    tests = [UnitTest(values["test"], values["verilog"]) for values in kept]
    return sorted(tests, key=lambda test: (len(test.verilog), test.name))


def finding_test(fault: UnitFault, tests: Sequence[UnitTest]) -> str | None:
    """Name of the first test that fails with the fault, of those in whose design it has a place; None if none does."""
    tried: list[str] = []
    for test in tests:
        if test.name not in tried and len(tried) < MOST and fault.place(test.verilog) is not None:
            tried.append(test.name)
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "fault.json"
                fault.write(path)
                if _pytest(["-n", "0", f"--basetemp={folder}/run", test.name], {PLANTED_FAULT: str(path)}, SECONDS) == 1:
                    return test.name
    return None


def finding_test_of(verilog: str, mutant: Mutant, tests: Sequence[UnitTest]) -> str | None:
    """`finding_test` of a mutant of a whole machine; what came of it is told on standard error."""
    test = finding_test(unit_fault(verilog, mutant), tests)
    print(f"{test or 'no test of a unit'}: {mutant.line} {mutant}", file=sys.stderr, flush=True)
    return test
