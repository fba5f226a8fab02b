"""The board that PYNQ sees, or a virtual one where there is none: one first cell for a notebook on either. Needs ``pynq``."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...boards import Board, board_names, load_board
from ...config import BuildConfig
from ...errors import HwgenError
from ...packages import needs
from .pynq import SIMULATED_SUFFIX, board_name, same_board
from .pynq_library import active_device, import_pynq

__all__ = ["FoundBoard", "find_board", "shipped_name"]

#: Contiguous memory of a virtual board in this process.
VIRTUAL_MEMORY_BYTES = 1 << 28


@dataclass(frozen=True, kw_only=True)
class FoundBoard:
    """A board and what to load on it. It is PYNQ's active device: ``pynq.Overlay(str(found.bitstream))`` loads it there."""

    #: Name and configuration of the build that fits it.
    board: Board
    #: Path of the ``.bit`` file, its ``.hwh`` beside it.
    bitstream: Path
    #: PYNQ's device.
    device: Any
    #: True where the accelerator is simulated: times are those of its cycle counter at the fabric clock.
    simulated: bool
    #: What keeps files of a virtual board alive.
    _files: Any = field(default=None, repr=False)

    @property
    def config(self) -> BuildConfig:
        return self.board.config

    def __str__(self) -> str:
        where = f" at {self.device.ip_addr}" if self.device.has_capability("REMOTE") else ""
        if not self.simulated:
            return f"board {self.board.name}{where}, bitstream {self.bitstream.name}"
        return f"virtual board {self.device.name}{where}: the generated Verilog, simulated cycle by cycle"


def find_board(
    bitstream: str | Path = "hwgen.bit",
    *,
    board: str | Path | None = None,
    simulate: str = "demo",
    progress: Callable[[str], None] | None = None,
) -> FoundBoard:
    """PYNQ's active device (this board, or the first of ``PYNQ_REMOTE_DEVICES``); without one a virtual board in this process.

    ``board`` is the name of a shipped board or the path of a ``board.json``, for a build other than the one that ships for the
    board found. A virtual board gets a bitstream of its own; without a real board it simulates ``board``, else ``simulate``.
    """
    pynq = import_pynq()
    device = active_device(pynq)
    if device is None:
        described = load_board(board or simulate)
        device = pynq.Device.active_device = _virtual_device(described, progress)
    else:
        described = load_board(board or shipped_name(board_name(device)))
    if str(device.name).endswith(SIMULATED_SUFFIX):
        from .virtual_board import write_overlay

        files = tempfile.TemporaryDirectory(prefix="hwgen-overlay-")
        found = FoundBoard(
            board=described,
            bitstream=write_overlay(described, Path(files.name)),
            device=device,
            simulated=True,
            _files=files,
        )
    else:
        found = FoundBoard(board=described, bitstream=Path(bitstream).absolute(), device=device, simulated=False)
        for needed in (found.bitstream, found.bitstream.with_suffix(".hwh")):
            if not needed.is_file():
                raise HwgenError(
                    "device",
                    f"{needed} does not exist",
                    "give the .bit file that the build of this board made, with its .hwh beside it (docs/boards.md)",
                )
    if device.has_capability("REMOTE"):
        _prepare_remote(found)
    return found


def shipped_name(found: str) -> str:
    """The shipped board of a name as PYNQ spells it."""
    plain = found.removesuffix(SIMULATED_SUFFIX)
    for name in board_names():
        if same_board(plain, name):
            return name
    raise HwgenError(
        "device",
        f"PYNQ calls this board {found!r}, and no shipped board has that name" if found else "this board does not say what it is",
        f"say which build it runs: one of {', '.join(board_names())}, or the path of a board.json",
    )


def _virtual_device(board: Board, progress: Callable[[str], None] | None) -> Any:
    with needs("PYNQ finds no board, and a virtual one", "hwgen[sim,pynq]"):
        from ...sim.board.local import SimulatedDevice
        from .virtual_board import virtual_board

        return SimulatedDevice(virtual_board(board, VIRTUAL_MEMORY_BYTES, progress))


def _prepare_remote(found: FoundBoard) -> None:
    """What :class:`pynq.Overlay` leaves to chance: calls that never end, and an old firmware file of the same name."""
    from pynq.pl_server.embedded_device import bit2bin

    from .pynq_remote import add_deadlines

    add_deadlines(found.device)
    found.device.write_file(f"/lib/firmware/{found.bitstream.stem}.bin", bit2bin(found.bitstream.read_bytes()))
