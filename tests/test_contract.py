"""The contract hash: what is in it, and that no interpreter changes it."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from hwgen.boards import load_board
from hwgen.config import BuildConfig
from hwgen.contract import check_contract, contract_hash
from hwgen.errors import HwgenError
from tools.installed_tree import link_tree

#: Of the configuration of the board kv260. It changes with CONTRACT_VERSION and the fields of a build, and with nothing else.
KV260 = 0x70E3D52EF7A0EDEA

#: The hash needs no numpy, and another interpreter may have none.
OTHER = """
import sys, unittest.mock
sys.modules["numpy"] = sys.modules["numpy.typing"] = unittest.mock.MagicMock()
from hwgen.boards import load_board
from hwgen.contract import contract_hash
print(contract_hash(load_board(sys.argv[1]).config))
"""


def test_everything_that_shapes_data_is_in_the_contract_hash() -> None:
    config = BuildConfig()
    for name, value, same in (
        ("name", "other", True), ("clock_mhz", 100.0, True), ("probe", True, True),
        ("panel_rows", 1024, False), ("beat_vectors", 2, False), ("burst", 8, False), ("topk", 4, False),
        ("trace_entries", 256, False),
    ):
        assert (contract_hash(replace(config, **{name: value})) == contract_hash(config)) is same, name  # type: ignore[arg-type]


def test_the_hash_of_a_board() -> None:
    assert contract_hash(load_board("kv260").config) == KV260


@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12", "3.13"])
def test_every_python_has_the_same_hash(version: str, tmp_path: Path) -> None:
    """Boards have older versions than the machines that build for them."""
    installed = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    python = installed[-1] if installed else shutil.which(f"python{version}")
    if python is None:
        pytest.skip(f"there is no Python {version} on this machine")
    link_tree(tmp_path)
    board = Path(__file__).parents[1] / "boards" / "kv260" / "board.json"
    result = subprocess.run([python, "-c", OTHER, str(board)], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) == KV260


def test_another_contract_is_refused() -> None:
    config = BuildConfig()
    check_contract(config, 9, contract_hash(config), "device")
    with pytest.raises(HwgenError, match="^device has contract version 8, this hwgen has version 9"):
        check_contract(config, 8, contract_hash(config), "device")
    with pytest.raises(HwgenError, match=r"^device has contract hash \w{16}, configuration 'custom' has \w{16}"):
        check_contract(config, 9, contract_hash(replace(config, topk=4)), "device")
