from __future__ import annotations

import json
from pathlib import Path

import pytest

from hwgen.boards import RESOURCES, board_names, load_board
from hwgen.config import BuildConfig
from hwgen.errors import HwgenError


@pytest.mark.parametrize("name", board_names())
def test_shipped_boards(name: str) -> None:
    board = load_board(name)
    assert board.name == board.config.name == name
    assert not board.available or set(board.available) == set(RESOURCES)
    assert not board.config.probe


def test_demo_is_the_default_configuration() -> None:
    assert load_board("demo").config == BuildConfig(name="demo")
    assert {"demo", "kv260"} <= set(board_names())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"name": "x", "config": {"lanes": 0}}', "lanes must be a positive integer, not 0"),
        ('{"name": "x", "config": {"rows": 3}}', r"rows must be one of .* the nearest legal value is 2"),
        ('{"name": "x", "config": {"speed": 3}}', "unknown configuration field 'speed'"),
        ('{"name": "x"}', "damaged"),
        ("{", "damaged"),
        ("[]", "damaged"),
    ],
)
def test_bad_boards(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(HwgenError, match=message) as caught:
        load_board(path)
    assert caught.value.kind == "configuration" and caught.value.fix


def test_own_board_by_path(tmp_path: Path) -> None:
    path = tmp_path / "own.json"
    path.write_text(
        json.dumps(
            {
                "name": "own",
                "description": "",
                "part": "",
                "available": {},
                "memory_bandwidth": 0,
                "config": {"lanes": 3},
            }
        )
    )
    assert load_board(path).config == BuildConfig(name="own", lanes=3)


def test_unknown_board() -> None:
    with pytest.raises(HwgenError, match="board 'kv261' is unknown") as caught:
        load_board("kv261")
    assert "kv260" in caught.value.fix
