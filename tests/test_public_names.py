"""What can be imported from ``hwgen`` itself."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import hwgen

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", hwgen.__all__)
def test_each_name_resolves(name: str) -> None:
    if name in ("PynqDevice", "SimulatedDevice"):
        pytest.importorskip("pynq", reason='needs PYNQ: the extra pynq')
    value = getattr(hwgen, name)
    assert getattr(value, "__name__", name) == name and name in dir(hwgen)


def test_the_table_has_exactly_the_public_names() -> None:
    own = [name for names in hwgen._HOMES.values() for name in names]
    assert sorted([*own, "BuildConfig", "ConfigError", "HwgenError"]) == sorted(hwgen.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = hwgen.Nothing


def test_the_contract_alone_stays_light() -> None:
    code = """
import sys, hwgen
dir(hwgen)
heavy = {n for n in sys.modules if n.startswith("hwgen.sw") or n.split(".")[0] in ("torch", "pynq", "amaranth", "tokenizers")}
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def imports_of(text: str) -> list[str]:
    """Modules of this package that a text imports from."""
    return re.findall(r"^(?:from|import) (hwgen[\w.]*)", text, re.MULTILINE)


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_import_from_the_package_itself(path: Path) -> None:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    used = {module for cell in cells if cell["cell_type"] == "code" for module in imports_of("".join(cell["source"]))}
    assert used == {"hwgen"}


def test_documents_import_from_the_package_itself() -> None:
    for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        assert set(imports_of(path.read_text(encoding="utf-8"))) <= {"hwgen"}, path
