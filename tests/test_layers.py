"""The layers of pyproject.toml hold, and an import in the wrong direction is found wherever it stands."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def check(root: Path) -> tuple[int, str]:
    result = subprocess.run([sys.executable, "tools/check_layers.py"], cwd=root, capture_output=True, text=True)
    return result.returncode, result.stdout + result.stderr


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("copy")
    for folder in ("boards", "golden", "hw", "hwgen", "notebooks", "sim", "sw", "tools"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    shutil.copy(ROOT / "pyproject.toml", root)
    return root


def test_the_layers_hold() -> None:
    code, text = check(ROOT)
    assert code == 0, text


@pytest.mark.parametrize(("file", "line", "found"), [
    ("sw/devices/device.py", "from ..compiler.image import Image", "hwgen.sw.devices.device -> hwgen.sw.compiler.image"),
    ("sw/runtime/engine.py", "def f():\n    from ..serve.text import Text", "hwgen.sw.runtime.engine -> hwgen.sw.serve.text"),
    ("hwgen/rounding.py", "if TYPE_CHECKING:\n    from .hw.verilog import cached_verilog", "hwgen.rounding -> hwgen.hw.verilog"),
    ("golden/head.py", "from ..hw import accelerator", "hwgen.golden.head -> hwgen.hw.accelerator"),
    ("hw/verilog.py", "from ..sim.verilate import build_library", "hwgen.hw.verilog -> hwgen.sim.verilate"),
    ("hwgen/registers.py", "from .contract import contract_hash", "No cycles are allowed in hwgen."),
    ("sw/devices/device.py", "from .golden import GoldenDevice", "No cycles are allowed in hwgen.sw.devices."),
])
def test_an_import_in_the_wrong_direction(copy: Path, file: str, line: str, found: str) -> None:
    before = (copy / file).read_text()
    (copy / file).write_text(f"{before}\n{line}\n")
    try:
        code, text = check(copy)
    finally:
        (copy / file).write_text(before)
    assert code == 1 and found in text, text
