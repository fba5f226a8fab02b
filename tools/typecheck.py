"""Runs mypy on the package as it is installed, because mypy reads no package map."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from installed_tree import ROOT, link_tree


def main() -> int:
    with tempfile.TemporaryDirectory() as tree:
        link_tree(Path(tree))
        command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), "--cache-dir",
                   str(ROOT / ".mypy_cache"), "-p", "hwgen", *sys.argv[1:]]
        return subprocess.run(command, cwd=tree, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
