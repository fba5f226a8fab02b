from __future__ import annotations

import json
from pathlib import Path

import pytest

from hwgen.boards import RESOURCES, board_names, load_board
from hwgen.config import BuildConfig
from hwgen.errors import HwgenError


def test_builds_of_all_boards_but_one_have_caches_of_four_bits() -> None:
    """As documents and the help of ``--kv`` say."""
    assert [name for name in board_names() if not load_board(name).config.int4_kv] == ["demo"]


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


REAL = [name for name in board_names() if load_board(name).platform is not None]


def test_six_boards() -> None:
    assert set(REAL) == {"kv260", "zcu104", "ultra96v2", "pynq-z2", "rfsoc4x2", "aup-zu3"}


@pytest.mark.parametrize("name", REAL)
def test_platforms(name: str) -> None:
    board = load_board(name)
    platform = board.platform
    assert platform is not None
    assert board.part and set(board.available) == set(RESOURCES) and board.memory_bandwidth > 0
    config = board.config
    assert config.ports <= len(platform.memory_ports) and config.port_bits == platform.memory_port_bits
    ultra = "ultra" in (config.ring_memory, config.scratch_memory)
    assert not ultra or board.available["uram"] > 0, "a board without UltraRAM keeps everything in block RAM"
    zynq = platform.processor == "processing_system7"
    assert platform.registers == (0x4000_0000 if zynq else 0xA000_0000)
    assert platform.control_port == ("M_AXI_GP0" if zynq else "M_AXI_HPM0_FPD")
    assert platform.memory_port_bits == (64 if zynq else 128)
    assert platform.memory[0].base == 0 and all(m.bytes > 0 for m in platform.memory)
    # A beat a cycle is what the ports can bring, and at most what the memory delivers, with some room for what bursts lose.
    assert config.beat_bytes <= config.ports * config.port_bytes
    assert config.beat_bytes * config.clock_mhz * 1e6 <= 1.35 * board.memory_bandwidth


def test_a_damaged_platform(tmp_path: Path) -> None:
    from importlib.resources import files

    values = json.loads((Path(str(files("hwgen.board_data"))) / "kv260" / "board.json").read_text())
    for change in ({"registers": "there"}, {"memory": [{}]}, {"wheels": 4}):
        path = tmp_path / "board.json"
        path.write_text(json.dumps({**values, "platform": {**values["platform"], **change}}))
        with pytest.raises(HwgenError, match="is damaged"):
            load_board(path)
