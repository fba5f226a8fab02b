"""Contiguous memory on PYNQ itself: what cache maintenance walks, buffers that are filled from a file, and advice on CMA."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from hwgen.errors import HwgenError
from hwgen.sim.board.board import VirtualBoard
from hwgen.sw.compiler.image_file import load_image, save_image
from hwgen.sw.compiler.placement import pages_together
from hwgen.sw.runtime.engine import Engine
from hwgen.sw.runtime.generation import Generation
from hwgen.sw.runtime.kv_arrays import with_cache_tokens
from hwgen.sw.runtime.pages import Session
from hwgen.sw.runtime.session_file import load_session, save_session
from tests.virtual_board import BOARD, CONFIG, PROMPT, image, require_pynq

require_pynq()

from hwgen.sim.board.local import SimulatedDevice
from hwgen.sw.devices.pynq import PynqDevice
from hwgen.sw.devices.pynq_memory import contiguous_advice
from tests.golden_answers import NEW_TOKENS

if TYPE_CHECKING:
    from hwgen.sim.board.server import BoardServer

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of PYNQ's own code
    pytest.mark.usefixtures("active_device"),
]


class Recorded:
    """A board in this process whose cache maintenance walks whole buffers, as XRT's does: every walk by the buffer's address."""

    def __init__(self, board: VirtualBoard) -> None:
        self.target = SimulatedDevice(board)
        self.walks: list[tuple[str, int]] = []
        for name in ("flush", "invalidate"):
            setattr(self.target, name, self._wrapper(name, getattr(self.target, name)))
        self.device = PynqDevice(CONFIG, target=self.target)

    def _wrapper(self, name: str, original: Callable[..., None]) -> Callable[..., None]:
        def walk(address: int, offset: int, pointer: int, size: int) -> None:
            self.walks.append((name, address))  # the buffer's, whatever part of it is asked for
            original(address, offset, pointer, size)

        return walk

    def since(self) -> list[tuple[str, int]]:
        """Walks since the last time."""
        walks, self.walks = self.walks, []
        return walks

    def bytes_of(self, walks: list[tuple[str, int]]) -> int:
        return sum(self.device._holdings.buffers[address].nbytes for _, address in walks)


@pytest.fixture
def recorded(board: VirtualBoard) -> Recorded:
    return Recorded(board)


def test_large_buffers_are_walked_once_and_never_for_small_things(recorded: Recorded) -> None:
    device = recorded.device
    engine = Engine(device, image())
    constants, rows, programs, logits = list(device._holdings.buffers)[:4]
    assert recorded.since() == [("flush", constants), ("flush", programs)]
    passes = len(list(Generation(engine, PROMPT, NEW_TOKENS))) + 1
    engine.forward(Session(), PROMPT, write_logits=True)
    assert recorded.since() == [("flush", rows)] * passes
    engine.logits()
    assert recorded.since() == [("invalidate", logits)]
    assert device._holdings.buffers[rows].nbytes < device._holdings.buffers[constants].nbytes / 4
    device.close()


@pytest.mark.parametrize("tokens", [1, 17, 32])
def test_sessions_move_their_own_bytes(recorded: Recorded, tokens: int, tmp_path: Path) -> None:
    """Saved, restored, parked and brought back: the buffers that hold their pages, each once; the counter says so."""
    device = recorded.device
    engine = Engine(device, with_cache_tokens(image(), 24 * CONFIG.kv_block))
    session = Session()
    engine.adopt(session, [1] * tokens)
    count, together = len(session.pages), pages_together(engine.image.page_bytes)
    bound = (count + 2 * (together - 1)) * engine.image.page_bytes
    recorded.since()
    for name, act in {
        "invalidate": lambda: save_session(engine, session, tmp_path / "a"),
        "flush": lambda: load_session(engine, tmp_path / "a"),
    }.items():
        before = device.synchronised_bytes
        act()
        walks = recorded.since()
        assert {kind for kind, _ in walks} == {name} and len(set(walks)) == len(walks)
        assert 0 < device.synchronised_bytes - before == recorded.bytes_of(walks) <= bound
    before = device.synchronised_bytes
    engine.pages.park(session)
    assert engine.pages.unpark(session, tokens)
    assert device.synchronised_bytes - before == recorded.bytes_of(recorded.since()) <= 2 * bound
    device.close()


def test_an_image_file_on_a_board(
    opened: Callable[..., PynqDevice], tmp_path: Path, expected: tuple[list[int], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Filled window by window, also across the network, and constants in several buffers."""
    monkeypatch.setattr("hwgen.sw.compiler.image.CONSTANTS_BUFFER", 4096)
    monkeypatch.setattr("hwgen.sw.devices.device.WINDOW", 4096)
    monkeypatch.setattr("hwgen.sw.devices.pynq_memory.WINDOW", 4096)
    path = tmp_path / "small.hwimage"
    save_image(path, image(), None, BOARD, "exact")
    loaded = load_image(path).image
    device = opened()
    engine = Engine(device, loaded)
    answer = [item.token for item in Generation(engine, PROMPT, NEW_TOKENS)]
    engine.forward(Session(), PROMPT, write_logits=True)
    assert (answer, engine.logits().view(np.uint32).tolist()) == expected
    assert device.synchronised_bytes > loaded.constants.bytes and len(loaded.constant_parts) > 4
    held = len(device._holdings.buffers)
    device.clear()  # as when another model takes the device: the fabric stays as it is
    assert not device._holdings.buffers
    assert [item.token for item in Generation(Engine(device, loaded), PROMPT, NEW_TOKENS)] == answer
    assert len(device._holdings.buffers) == held


def test_a_damaged_file_is_told_as_such(opened: Callable[..., PynqDevice], tmp_path: Path) -> None:
    path = tmp_path / "small.hwimage"
    save_image(path, image(), None, BOARD, "exact")
    constants = load_image(path).image.constants
    with path.open("r+b") as file:
        file.seek(constants._section.offset + 5)  # type: ignore[attr-defined]
        file.write(b"\x55\xaa")
    with pytest.raises(HwgenError, match="is damaged: wrong checksum") as caught:
        Engine(opened(), load_image(path).image)
    assert caught.value.kind == "model"


def test_pages_are_written_in_the_middle_of_a_remote_buffer(server: BoardServer) -> None:
    device = PynqDevice(CONFIG, address=f"127.0.0.1:{server.port}")
    address = device.allocate(4 * 4096)
    content = np.random.default_rng(1).integers(0, 256, (4, 4096), np.uint8)
    for page in (2, 0, 3, 1):
        device.write(address + page * 4096, content[page])
    np.testing.assert_array_equal(device.read(address, content.size), content.reshape(-1))
    with pytest.raises(ValueError, match="must be that of a buffer"):
        device.fill(address + 4096, 4096, lambda window: None)
    device.close()


@pytest.mark.parametrize(
    ("need", "installed", "advice"),
    [
        (900 << 20, 4 << 30, "cma=932M"), (900 << 20, None, "cma=932M"), ((1 << 20) + 1, 4 << 30, "cma=36M"),
        (1800 << 20, 4 << 30, "cma=1832M"), (1900 << 20, 4 << 30, "give about 1848 MiB: compile with a shorter --context"),
        (300 << 20, 512 << 20, "give about 312 MiB: compile with a shorter --context"), (270 << 20, 512 << 20, "cma=304M"),
    ],
)
def test_advice_never_exceeds_what_a_board_can_give(need: int, installed: int | None, advice: str) -> None:
    assert advice in contiguous_advice(need, installed)


def test_advice_names_the_file_of_the_board() -> None:
    kria, zynq = (contiguous_advice(270 << 20, 512 << 20, 128 << 20, seven) for seven in (False, True))
    line = 'echo "bootargs=$(cat /proc/cmdline) cma=304M" >> /boot/uEnv.txt'
    assert "/etc/default/flash-kernel" in kria and line in kria
    assert "flash-kernel" not in zynq and line in zynq
    assert "end other programs" in contiguous_advice(270 << 20, 4 << 30, 1000 << 20), "it is large enough as it is"
