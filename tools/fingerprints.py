"""SHA-256 of what hwgen makes, so that a change that should change nothing can show it.

Prints one JSON object: the Verilog of every configuration of the boards, and of every model that fits one the hash of its
constants and embedding, and its programs. With ``--build BOARD`` also the files that ``hwgen build`` writes. Random models of
published sizes are cut to ``--layers`` (0 is all of them: minutes and gigabytes).

Usage: fingerprints.py [--layers N] [--build BOARD] [--models NAME,...] [--boards NAME,...]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

from hwgen.boards import load_board
from hwgen.errors import HwgenError
from hwgen.hw.verilog import cached_verilog
from hwgen.published import PUBLISHED
from hwgen.sw.compiler.compile import HEADS, compile_model
from hwgen.sw.compiler.image import Places
from hwgen.sw.models.open import open_model
from hwgen.sw.models.random_model import random_model
from hwgen.sw.packaging.build import build_board

ENGINES = ("ternary", "int4", "both")
NAMES = ("stories", "smollm2")


def of_model(name: str, boards: list[str], layers: int | None) -> dict[str, dict[str, str]]:
    """Image and program on every board, with each head that the model has."""
    weights: Any = random_model(name, layers=layers) if name in PUBLISHED else open_model(name).weights
    found = {}
    for board in boards:
        for head in HEADS:
            try:
                image = compile_model(load_board(board).for_engine(weights.engine).config, weights, name=name, head=head)
            except HwgenError as error:
                found[f"{name}, {board}, {head}"] = {"refused": str(error)}
                continue
            found[f"{name}, {board}, {head}"] = {
                "model": image.model_hash,
                "program": hashlib.sha256(image.program(Places(0, 0))).hexdigest(),
            }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--build", action="append", default=[], metavar="BOARD")
    parser.add_argument("--models", default=",".join([*NAMES, *PUBLISHED]))
    parser.add_argument("--boards", default="demo,kv260")
    options = parser.parse_args()
    boards = options.boards.split(",")
    result: dict[str, Any] = {"verilog": {}, "models": {}, "builds": {}}
    for board in boards:
        for engine in ENGINES:
            try:
                config = load_board(board).for_engine(engine).config
            except HwgenError:
                continue
            result["verilog"][f"{board}, {engine}"] = hashlib.sha256(cached_verilog(config).encode()).hexdigest()
    for name in filter(None, options.models.split(",")):
        result["models"] |= of_model(name, boards, options.layers or None)
    for board in options.build:
        with tempfile.TemporaryDirectory() as directory:
            out = Path(directory) / "out"
            build_board(load_board(board), out)
            digest = hashlib.sha256()
            for path in sorted(p for p in out.rglob("*") if p.is_file() and p.name != "manifest.json"):  # it hashes the generators
                digest.update(str(path.relative_to(out)).encode() + path.read_bytes())
            result["builds"][board] = digest.hexdigest()
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
