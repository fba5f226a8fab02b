from __future__ import annotations

from dataclasses import replace

import pytest

from hwgen.boards import board_names, load_board
from hwgen.sw.analysis.outside_cores import describe_outside, outside_cores, outside_resources


def test_sums_by_family() -> None:
    """A SmartConnect for control, an interrupt controller and a reset; on Zynq-7000 a SmartConnect a memory port beside them."""
    assert outside_resources(load_board("kv260")) == {
        "lut": 910 + 150 + 25, "lutram": 0, "ff": 904 + 150 + 40, "bram36": 0, "uram": 0, "dsp": 0
    }
    pynq = load_board("pynq-z2")
    assert outside_resources(pynq)["lut"] == (1 + pynq.config.ports) * 910 + 150 + 25
    assert not any(outside_resources(load_board("demo")).values()) and describe_outside(load_board("demo")) == []


def test_every_figure_has_a_source_or_is_assumed() -> None:
    for name in board_names():
        for core in outside_cores(load_board(name)):
            assert core.source.startswith("assumed") or "github.com/" in core.source or "PG" in core.source
    assert "without a SmartConnect" in describe_outside(load_board("kv260"))[-1]
    assert "SmartConnect before a memory port x 2: 910 LUT, 904 FF (Vivado" in describe_outside(load_board("pynq-z2"))[-1]


@pytest.mark.parametrize("name", [n for n in board_names() if load_board(n).platform])
def test_the_cores_are_those_of_the_block_design(name: str) -> None:
    from hwgen.sw.packaging.block_design import describe_design

    board = load_board(name)
    cells = sorted(c.core for c in describe_design(board).cells if c.name not in ("ps", "accelerator"))
    assert sorted(core.core for core in outside_cores(board) for _ in range(core.count)) == cells


def test_a_port_less_is_a_converter_less() -> None:
    board = load_board("pynq-z2")
    wider = replace(board, config=replace(board.config, ports=4))
    assert outside_resources(wider)["ff"] - outside_resources(board)["ff"] == 2 * 904
