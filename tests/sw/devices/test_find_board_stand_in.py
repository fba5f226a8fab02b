"""Which board is found, with stand-ins for PYNQ and for virtual boards: no simulator."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hwgen.boards import load_board
from hwgen.errors import HwgenError
from tests.virtual_board import require_pynq, require_remote

require_pynq()  # before what imports pynq, so that its absence skips this file

from hwgen.sw.devices import find_board as finder
from hwgen.sw.devices.find_board import find_board, shipped_name


def target(name: str, remote: bool) -> Any:
    written: list[tuple[str, bytes]] = []
    return SimpleNamespace(
        name=name, ip_addr="1.2.3.4", written=written, has_capability=lambda what: remote and what == "REMOTE",
        write_file=lambda path, data: written.append((path, data)),
    )


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bitstream that is there; what PYNQ makes of it is as long."""
    require_remote()
    (tmp_path / "a.bit").write_bytes(b"bits")
    (tmp_path / "a.hwh").touch()
    monkeypatch.setattr("pynq.pl_server.embedded_device.bit2bin", lambda data: data[::-1])
    monkeypatch.setattr("hwgen.sw.devices.pynq_remote.add_deadlines", lambda device: device.written.append(("limits", b"")))
    return tmp_path / "a.bit"


def found(device: Any, monkeypatch: pytest.MonkeyPatch, *arguments: Any, **options: Any) -> Any:
    pynq = SimpleNamespace(Device=SimpleNamespace(active_device=device))
    monkeypatch.setattr(finder, "import_pynq", lambda: pynq)
    monkeypatch.setattr(finder, "_virtual_device", lambda board, progress: target(f"{board.name}-simulated", False))
    monkeypatch.setattr("hwgen.sw.devices.virtual_board.write_overlay", lambda board, folder: folder / f"{board.name}.bit")
    result = find_board(*arguments, **options)
    assert pynq.Device.active_device is result.device
    return result


@pytest.mark.parametrize("remote", [False, True])
def test_a_board_that_pynq_finds(files: Path, remote: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """One across the network gets limits and its firmware file."""
    monkeypatch.setenv("BOARD", "KV260")
    device = target("KV260" if remote else "Pynq", remote)
    result = found(device, monkeypatch, files)
    assert (result.board.name, result.bitstream, result.simulated, result.device) == ("kv260", files, False, device)
    assert device.written == ([("limits", b""), ("/lib/firmware/a.bin", b"stib")] if remote else [])
    assert str(result) == f"board kv260{' at 1.2.3.4' if remote else ''}, bitstream a.bit" and result.config is result.board.config
    assert found(device, monkeypatch, files, board="zcu104").board.name == "zcu104"
    files.with_suffix(".hwh").unlink()
    with pytest.raises(HwgenError, match="a.hwh does not exist"):
        found(device, monkeypatch, files)


def test_virtual_boards(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where PYNQ finds none, of the board that is asked for; a virtual one that it finds has a bitstream of its own."""
    plain = found(None, monkeypatch)
    assert (plain.board.name, plain.simulated, plain.bitstream.name) == ("demo", True, "demo.bit")
    assert found(None, monkeypatch, simulate="kv260").board.name == "kv260"
    assert found(None, monkeypatch, board="pynq-z2", simulate="kv260").board.name == "pynq-z2"
    there = found(target("KV260-simulated", False), monkeypatch, files)
    assert (there.board.name, there.simulated, there.bitstream.name) == ("kv260", True, "kv260.bit")
    assert str(there) == "virtual board KV260-simulated: the generated Verilog, simulated cycle by cycle"


def test_names_that_pynq_has() -> None:
    for spelling, name in (("Pynq-Z2", "pynq-z2"), ("KV260", "kv260"), ("Ultra96", "ultra96v2"), ("ZCU104-simulated", "zcu104")):
        assert shipped_name(spelling) == name == load_board(name).name
    with pytest.raises(HwgenError, match="PYNQ calls this board 'Odd'"):
        shipped_name("Odd")
    with pytest.raises(HwgenError, match="this board does not say what it is"):
        shipped_name("")


def test_memory_of_a_virtual_board(monkeypatch: pytest.MonkeyPatch) -> None:
    """256 MiB, in this process."""
    monkeypatch.setattr("hwgen.sw.devices.virtual_board.virtual_board", lambda *given: given)
    monkeypatch.setattr("hwgen.sim.board.local.SimulatedDevice", lambda board: ("device", board))
    board = load_board("demo")
    assert finder._virtual_device(board, print) == ("device", (board, 256 * 1024 * 1024, print))
