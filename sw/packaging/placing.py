"""Puts a complete build in its place. What Vivado made for another build there is set aside under the name of that build, and
comes back with it; whatever else lies in the directory stays.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import HwgenError

__all__ = ["MANIFEST", "Placed", "place_build", "results_in"]

MANIFEST = "manifest.json"

#: What the scripts of a build add to its directory.
RESULTS = ("work", "overlay")

#: Stands for the contract of a manifest that cannot be read.
UNKNOWN = "unknown"


_RESULT_NAMES = re.compile(rf"({'|'.join(RESULTS)})(-([0-9a-f]{{16}}|{UNKNOWN})-[0-9a-f]{{8}}(-\d+)?)?")


@dataclass
class Placed:
    """What became of the results of Vivado that lay in the directory: ``{name before: name now}``, and names that are gone."""

    set_aside: dict[str, str] = field(default_factory=dict)
    restored: dict[str, str] = field(default_factory=dict)
    removed: list[str] = field(default_factory=list)
    #: Contract hash of the build that was there before; empty where there was none.
    before: str = ""


def build_name(manifest: Path) -> str:
    """Name of a build by its manifest: contract hash, and a digest of everything else."""
    data = manifest.read_bytes()
    return f"{contract_of(manifest)}-{hashlib.sha256(data).hexdigest()[:8]}"


def contract_of(manifest: Path) -> str:
    """Contract hash in a manifest."""
    try:
        return str(json.loads(manifest.read_text(encoding="utf-8"))["contract_hash"])
    except (ValueError, KeyError, TypeError):
        return UNKNOWN


def generated_files(directory: Path) -> set[str]:
    """Files that the manifest of a directory lists, itself included; one that cannot be read lists nothing else."""
    try:
        return {MANIFEST, *json.loads((directory / MANIFEST).read_text(encoding="utf-8"))["files"]}
    except (ValueError, KeyError, TypeError, OSError):
        return {MANIFEST}


def results_in(out: Path) -> list[Path]:
    """Results of Vivado in a build directory, those that were set aside too; none where there is no build."""
    if not (out / MANIFEST).exists():
        return []
    return sorted(p for p in out.iterdir() if p.is_dir() and _RESULT_NAMES.fullmatch(p.name))


def free_name(path: Path) -> Path:
    """``path``, or that with a number behind it where it exists."""
    number, found = 1, path
    while found.exists():
        number += 1
        found = path.with_name(f"{path.name}-{number}")
    return found


def _move_rest(old: Path, out: Path) -> None:
    """Move to ``out`` whatever in ``old`` was not generated; then ``old`` goes."""
    generated = generated_files(old)
    if len(generated) == 1:  # damaged: what a build writes has the names of the present one
        generated = generated_files(out)
    folders = {parent for name in generated for parent in Path(name).parents}

    def move(folder: Path) -> None:
        for entry in sorted((old / folder).iterdir()):
            name = folder / entry.name
            if str(name) in generated:
                continue
            if name in folders and entry.is_dir():
                move(name)
                continue
            (out / name).parent.mkdir(exist_ok=True)
            entry.rename(free_name(out / name))

    move(Path())
    shutil.rmtree(old)


def _finish_earlier(out: Path, old: Path) -> None:
    """End what an interrupted run has left."""
    if old.exists():
        if out.exists():
            _move_rest(old, out)
        else:
            old.rename(out)


def _move_results(directory: Path, out: Path, placed: Placed) -> None:
    """Set aside what Vivado made for the build in ``out``, and bring back what it made for that in ``directory``."""
    earlier, present = build_name(out / MANIFEST), build_name(directory / MANIFEST)
    for name in RESULTS:
        if earlier != present and (out / name).exists():
            aside = free_name(out / f"{name}-{earlier}")
            (out / name).rename(aside)
            placed.set_aside[name] = aside.name
        if not (out / name).exists() and (out / f"{name}-{present}").exists():
            (out / f"{name}-{present}").rename(out / name)
            placed.restored[f"{name}-{present}"] = name


def place_build(directory: Path, out: Path, clean: bool = False) -> Placed:
    """Move the complete build ``directory`` to ``out``, in place of an earlier one there; ``clean`` removes what Vivado made for
    any. Anything but an earlier build is refused.
    """
    placed = Placed()
    old = out.with_name(f".{out.name}.old")
    try:
        _finish_earlier(out, old)
        if not out.exists():
            directory.rename(out)
            return placed
        if not out.is_dir() or (any(out.iterdir()) and not (out / MANIFEST).exists()):
            raise HwgenError("usage", f"{out} exists and is not an earlier build", "choose another --out, or remove it")
        if (out / MANIFEST).exists():
            placed.before = contract_of(out / MANIFEST)
            if clean:
                for path in results_in(out):
                    shutil.rmtree(path)
                    placed.removed.append(path.name)
            else:
                _move_results(directory, out, placed)
        out.rename(old)
        directory.rename(out)
        _move_rest(old, out)
    except OSError as error:
        raise HwgenError(
            "usage", f"{error.filename} cannot be moved or removed: {error.strerror}",
            f"change its permissions and run this again; nothing is lost, {old} has what is not in {out}",
        ) from error
    return placed
