"""``hwgen build``: everything generated for one board, in one directory that appears whole or not at all."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..boards import Board
from ..config import CONTRACT_VERSION
from ..errors import HwgenError
from .reference import c_header, reference_markdown, register_json
from .verilog import cached_verilog

__all__ = ["build_board"]

MANIFEST = "manifest.json"


def hwgen_version() -> str:
    try:
        return version("hwgen")
    except PackageNotFoundError:
        return "unknown"


def _place(directory: Path, out: Path) -> None:
    """Move a complete directory to ``out``; an earlier build there is replaced, anything else is kept and refused."""
    old = None
    if out.exists():
        if not out.is_dir() or (any(out.iterdir()) and not (out / MANIFEST).exists()):
            raise HwgenError("usage", f"{out} exists and is no earlier build", "choose another --out, or remove it")
        old = out.with_name(f".{out.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        out.rename(old)
    directory.rename(out)
    if old is not None:
        shutil.rmtree(old)


def build_board(board: Board, out: Path, progress: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """Write Verilog, configuration, register map and manifest of a board to ``out``; what ``hwgen build --json`` prints."""
    out = out.absolute()
    config = board.config
    if config.probe:
        raise HwgenError("configuration", "probe outputs are for simulation and may not be built", "leave probe off")
    verilog = cached_verilog(board.config, progress)
    contents = {
        "hwgen_accelerator.v": verilog,
        "config.json": json.dumps(config.to_dict(), indent=2) + "\n",
        "registers.json": json.dumps(register_json(config), indent=2) + "\n",
        "hwgen_registers.h": c_header(config),
        "reference.md": reference_markdown(config),
    }
    manifest = {
        "hwgen": hwgen_version(),
        "board": board.name,
        "part": board.part,
        "top": "hwgen_accelerator",
        "contract_version": CONTRACT_VERSION,
        "contract_hash": f"{config.contract_hash:016x}",
        "files": {name: hashlib.sha256(text.encode()).hexdigest() for name, text in contents.items()},
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
            (work / name).write_text(text, encoding="utf-8")
        _place(work, out)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    return {
        "board": board.name,
        "out": str(out),
        "files": sorted(contents),
        "verilog_sha256": manifest["files"]["hwgen_accelerator.v"],  # type: ignore[index]  # the manifest is plain JSON
        "contract_hash": manifest["contract_hash"],
        "config": config.to_dict(),
    }
