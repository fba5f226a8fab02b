"""Checks of a build directory: Verilator's linter reads the Verilog, the recording model of Vivado runs the scripts, dtc the
device tree."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from ...errors import HwgenError
from ...sim import toolchain
from ...sim.toolchain import BuildFailed, Toolchain, ToolMissing
from ..analysis.netlist import black_box, parse_modules
from .core import WRAPPER
from .ipxact import SOURCES
from .kria_app import APP_DIRECTORY
from .steps import TOP
from .vivado.recorder import run_build
from .vivado.tcl import find_tcl

__all__ = ["check_directory", "compile_tree", "lint", "lint_boundary", "run_scripts"]

CLEAN = "clean"


def read_findings(failed: BuildFailed) -> HwgenError:
    lines = [line for line in str(failed).splitlines() if line.startswith("%")] or str(failed).splitlines()
    return HwgenError("tool", f"the Verilog is not clean: {lines[0]}", "report this with the configuration")


def lint_boundary(tool: Toolchain, directory: Path) -> None:
    """The wrapper around an empty accelerator, with none of the waivers that the accelerator needs: pins and widths fit."""
    modules = parse_modules((directory / f"{TOP}.v").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / f"{TOP}.v").write_text(black_box(modules[TOP]), encoding="utf-8")
        try:
            arguments = ["--lint-only", "-Wall", "-Wno-UNUSEDSIGNAL", "-Wno-UNDRIVEN", "--top-module", WRAPPER]
            tool.verilate([*arguments, str(directory / f"{WRAPPER}.v"), f"{name}/{TOP}.v"], directory)
        except BuildFailed as failed:
            raise read_findings(failed) from failed


def lint(directory: Path) -> str:
    """"clean", or why there was no check; findings are an error."""
    from ... import hw

    try:
        tool = toolchain.find_toolchain()
    except ToolMissing as missing:
        return f"skipped: {missing.message}"
    lint_boundary(tool, directory)
    waivers = Path(next(iter(hw.__path__))) / "lint.vlt"
    sources = [str(directory / source) for source in SOURCES]
    try:
        tool.verilate(["--lint-only", "-Wall", "--top-module", WRAPPER, str(waivers), *sources], directory)
    except BuildFailed as failed:
        raise read_findings(failed) from failed
    return CLEAN


def run_scripts(directory: Path) -> str:
    """"clean", or why there was no check; runs on a copy, so that nothing is added to the directory."""
    if not (directory / "build.tcl").exists():
        return "skipped: the board has no platform"
    if find_tcl() is None:
        return "skipped: there is no Tcl interpreter (sudo apt-get install tcl)"
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name) / "build"
        shutil.copytree(directory, copy, ignore=shutil.ignore_patterns("work", "overlay"))
        outcome = run_build(copy / "build.tcl")
    if outcome.exit_code:
        raise HwgenError("tool", f"the build scripts fail: {outcome.error}", "correct the platform in board.json")
    return CLEAN


def compile_tree(source: Path) -> str:
    """"clean", or why there was no check: the device tree overlay through its compiler."""
    compiler = shutil.which("dtc")
    if compiler is None:
        return "skipped: there is no device tree compiler (sudo apt-get install device-tree-compiler)"
    done = subprocess.run(
        [compiler, "-@", "-I", "dts", "-O", "dtb", "-o", "/dev/null", str(source)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        first = (done.stderr.strip().splitlines() or [f"dtc ended with code {done.returncode}"])[0]
        raise HwgenError("tool", f"the device tree is not clean: {first}", "correct the platform in board.json")
    return CLEAN


def check_directory(directory: Path) -> dict[str, str]:
    """Every check, ``{name: outcome}``."""
    found = {"lint": lint(directory), "scripts": run_scripts(directory)}
    tree = directory / APP_DIRECTORY / "hwgen.dtsi"
    return {**found, "device tree": compile_tree(tree)} if tree.exists() else found
