"""No function and no file is longer than a reader can hold."""

import ast
from pathlib import Path

import pytest

import hwgen

ROOT = Path(hwgen.__file__).parents[1]
FOLDERS = ("hwgen", "golden", "hw", "sim", "sw", "tests", "tools")
FUNCTION_LINES = 80
FILE_LINES = 450


def long_functions(source: str, limit: int) -> list[tuple[str, int]]:
    """``(name, lines)`` of every function of more than ``limit`` lines."""
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    lengths = [(node.name, (node.end_lineno or node.lineno) - node.lineno + 1) for node in functions]
    return [(name, lines) for name, lines in lengths if lines > limit]


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def test_no_function_is_long() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {name} has {lines} lines"
        for path in sources(*(folder for folder in FOLDERS if folder != "tests"))
        for name, lines in long_functions(path.read_text(encoding="utf-8"), FUNCTION_LINES)
    ]
    assert not found, f"functions of more than {FUNCTION_LINES} lines:\n" + "\n".join(found)


def test_no_file_is_long() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in sources(*FOLDERS)}
    found = [f"{path.relative_to(ROOT)} has {lines} lines" for path, lines in lengths.items() if lines > FILE_LINES]
    assert not found, f"files of more than {FILE_LINES} lines:\n" + "\n".join(found)


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_long_function_is_found(kind: str) -> None:
    source = f"class A:\n    {kind} f():\n        a = 1\n        return a\n"
    assert long_functions(source, 2) == [("f", 3)]
    assert long_functions(source, 3) == []
