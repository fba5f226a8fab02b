"""Runs mypy on the package as it is installed: top folders are linked into one tree, because mypy reads no package map."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    folders: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-dir"]
    with tempfile.TemporaryDirectory() as tree:
        package = Path(tree) / "hwgen"
        package.mkdir()
        for item in (ROOT / folders["hwgen"]).iterdir():
            (package / item.name).symlink_to(item)
        for name, folder in folders.items():
            if name != "hwgen":
                (package / name.removeprefix("hwgen.")).symlink_to(ROOT / folder)
        command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), "--cache-dir",
                   str(ROOT / ".mypy_cache"), "-p", "hwgen", *sys.argv[1:]]
        return subprocess.run(command, cwd=tree, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
