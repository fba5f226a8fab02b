"""Notebooks as the interpreter of a board reads them: the syntax of every cell, and what they import."""

from __future__ import annotations

import ast
import importlib
import json
from pathlib import Path

import pytest

import hwgen.notebooks
from tests.virtual_board import require_pynq

require_pynq()

from IPython.core.inputtransformer2 import TransformerManager  # comes with Jupyter

NOTEBOOKS = sorted(Path(str(hwgen.notebooks.__file__)).parent.glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_cells_are_read_and_imports_are_there(path: Path) -> None:
    cells = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    imported = 0
    for cell in cells:
        tree = ast.parse(TransformerManager().transform_cell("".join(cell["source"])), path.name)  # as it takes lines with %
        for node in tree.body:  # inside of functions and conditions is what a board may lack
            if isinstance(node, ast.Import):
                imported += len([importlib.import_module(name.name) for name in node.names])
            elif isinstance(node, ast.ImportFrom):
                module = importlib.import_module(str(node.module))
                imported += len([getattr(module, name.name) for name in node.names])
    assert len(cells) > 5 and imported > 3


def test_every_notebook_is_read() -> None:
    assert len(NOTEBOOKS) == 3
