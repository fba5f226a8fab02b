"""Checks the layers of pyproject.toml (import-linter), on the package as it is installed."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from installed_tree import ROOT, link_tree


def main() -> int:
    with tempfile.TemporaryDirectory() as tree:
        link_tree(Path(tree))
        command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", "--no-logo", str(ROOT / "pyproject.toml")]
        return subprocess.run([*command, *sys.argv[1:]], cwd=tree, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
