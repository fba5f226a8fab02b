"""The order of tests: files that take longest come first, so that the workers end together."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree

import pytest

PROJECT = Path(__file__).resolve().parent.parent

# Before torch and numpy: every worker has a core, and what it starts too. More threads would wait for each other, which takes time.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")

#: What `make test` left.
LAST_RUN = PROJECT / "build" / "verify" / "test.xml"

#: Where no run has left its times: folders whose tests compile simulators, the longest builds first.
SIMULATORS = (
    "tests/notebooks", "tests/sw/serve/test_verilated", "tests/system", "tests/hw/attention", "tests/hw/linear", "tests/hw",
    "tests/formal", "tests/sim",
)


def last_times(results: Path) -> dict[str, float]:
    """Seconds by file of tests, of the run that wrote ``results``; empty if none did or its file is torn."""
    times: dict[str, float] = defaultdict(float)
    try:
        for case in ElementTree.parse(results).getroot().iter("testcase"):
            times[str(case.get("file"))] += float(case.get("time", 0))
    except (OSError, ElementTree.ParseError, ValueError):
        return {}
    return dict(times)


def expected_time(file: str, times: dict[str, float]) -> float:
    """Seconds that the tests of a file take; a rank of its folder where they never ran."""
    ranks = [len(SIMULATORS) - i for i, folder in enumerate(SIMULATORS) if file.startswith(folder)]
    return times.get(file, 10.0 * max(ranks, default=0))


def in_order(files: list[str], times: dict[str, float], workers: int) -> list[str]:
    """Each worker begins with an equal part of the list and takes from the others' ends: longest first in every part."""
    ordered = sorted(files, key=lambda file: (-expected_time(file, times), file))
    return [file for worker in range(workers) for file in ordered[worker::workers]]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    workers = getattr(config, "workerinput", {"workercount": 1})["workercount"]
    if workers == 1:
        return
    files: dict[str, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.nodeid.partition("::")[0], []).append(item)
    items[:] = [item for file in in_order(list(files), last_times(LAST_RUN), workers) for item in files[file]]
