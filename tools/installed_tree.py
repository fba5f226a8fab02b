"""The package as it is installed: its folders linked into one tree, for tools that read no package map."""

from __future__ import annotations

from pathlib import Path

import tomllib

ROOT = Path(__file__).resolve().parents[1]


def link_tree(tree: Path) -> None:
    """Make ``tree/hwgen``, with a link to every folder of the package in its place."""
    folders: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-dir"]
    package = tree / "hwgen"
    package.mkdir()
    for item in (ROOT / folders["hwgen"]).iterdir():
        (package / item.name).symlink_to(item)
    for name, folder in folders.items():
        if name != "hwgen":
            (package / name.removeprefix("hwgen.")).symlink_to(ROOT / folder)
