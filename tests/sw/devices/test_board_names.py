"""Names of boards as PYNQ spells them."""

from __future__ import annotations

import pytest

from hwgen.boards import board_names
from hwgen.errors import HwgenError
from hwgen.sim.board.board import SIMULATED_SUFFIX
from hwgen.sw.devices.find_board import shipped_name


@pytest.mark.parametrize("name", board_names())
def test_a_shipped_board(name: str) -> None:
    for found in (name, name.upper(), name + SIMULATED_SUFFIX):
        assert shipped_name(found) == name


def test_a_board_that_nobody_knows() -> None:
    with pytest.raises(HwgenError, match="calls this board 'toaster', and no shipped board has that name") as caught:
        shipped_name("toaster")
    assert all(name in caught.value.fix for name in board_names())
    with pytest.raises(HwgenError, match="does not say what it is"):
        shipped_name("")
