"""A virtual board for the tests of the device on PYNQ. What needs PYNQ is imported in functions: it may not be there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from hwgen.sim.board.board import VirtualBoard
from hwgen.sw.devices.pynq import PynqDevice
from tests.golden_answers import golden_answer
from tests.virtual_board import CONFIG, new_board, serve_board

if TYPE_CHECKING:
    from hwgen.sim.board.server import BoardServer


@pytest.fixture(scope="module")
def board() -> VirtualBoard:
    return new_board()


@pytest.fixture(scope="module")
def server(board: VirtualBoard) -> Iterator[BoardServer]:
    with serve_board(board, port=0) as server:
        yield server


@pytest.fixture
def active_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave PYNQ's choice of a device as it was."""
    import pynq

    monkeypatch.setattr(pynq.Device, "_active_device", None, raising=False)


@pytest.fixture(params=["in process", "remote"])
def opened(request: pytest.FixtureRequest, board: VirtualBoard) -> Iterator[Callable[..., PynqDevice]]:
    """Opens the board either way; closes what was opened."""
    from hwgen.sim.board.local import SimulatedDevice

    devices: list[PynqDevice] = []
    remote = request.param == "remote"
    place: dict[str, Any] = (
        {"address": f"127.0.0.1:{request.getfixturevalue('server').port}"} if remote else {"target": SimulatedDevice(board)}
    )

    def make(**options: Any) -> PynqDevice:
        devices.append(PynqDevice(options.pop("config", CONFIG), **place, **options))
        return devices[-1]

    yield make
    for device in devices:
        device.close()


@pytest.fixture(scope="module")
def expected() -> tuple[list[int], list[int]]:
    answer: tuple[list[int], list[int]] = golden_answer("generate")
    return answer
