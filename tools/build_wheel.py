"""A wheel of this tree in the directory given; prints its path. Leaves nothing in the tree."""

from __future__ import annotations

import io
import os
import sys
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from setuptools.build_meta import build_wheel

ROOT = Path(__file__).resolve().parents[1]


def build(directory: Path) -> Path:
    directory = directory.absolute()
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        source = Path(place)
        for path in ROOT.iterdir():  # a build leaves files beside its sources
            if path.name in ("pyproject.toml", "README.md", "LICENSE") or (path.is_dir() and (path / "__init__.py").exists()):
                (source / path.name).symlink_to(path)
        os.chdir(source)
        try:
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):  # setuptools names every file that it copies
                name = build_wheel(str(directory))
        finally:
            os.chdir(ROOT)
    return directory / name


if __name__ == "__main__":
    print(build(Path(sys.argv[1])))
