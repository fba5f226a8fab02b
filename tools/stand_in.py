"""Stands in for a KV260 in `tools/board_walk.py`.

As a program with arguments it is `hwgen` on that board: PYNQ's active device is the virtual board of another process, and `hwgen
doctor` looks at a made-up file system. It needs nothing but what is installed on a board.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from dataclasses import dataclass
from multiprocessing.managers import BaseManager
from pathlib import Path
from typing import Any

__all__ = ["FILES", "KEY", "Silicon", "serve"]

#: Of the connection; the board listens on this machine alone.
KEY = b"hwgen"

#: Environment variables: address and port of the virtual board, root of its file system, and a fault of the system.
PORT, ROOT, FAULT = "STAND_IN_PORT", "STAND_IN_ROOT", "STAND_IN_FAULT"

#: What `hwgen doctor --board` looks for on a KV260 with Kria-PYNQ.
FILES = {
    "/dev/mem": "",
    "/dev/dri/renderD128": "",
    "/proc/device-tree/model": "ZynqMP SMK-K26 Rev1/B/A\0",
    "/sys/module/zocl/version": "1",
    "/sys/class/uio/uio4/name": "fabric\n",
    "/usr/lib/libxrt_core.so": "",
    "/usr/local/share/pynq-venv/bin/xclbinutil": "#!/bin/sh\n",
}


class _Manager(BaseManager):
    """The way to the other process."""


class Silicon:
    """What a process on the board reaches of it: memory, registers, FPGA manager, files."""

    def __init__(self, board: Any) -> None:
        self.board = board

    def arch_and_name(self) -> tuple[str, str]:
        return self.board.arch, self.board.name

    def read_word(self, address: int) -> int:
        return int(self.board.read_word(address))

    def write_word(self, address: int, value: int) -> None:
        self.board.write_word(address, value)

    def read_memory(self, address: int, size: int) -> bytes:
        return bytes(self.board.memory(address, size))

    def write_memory(self, address: int, data: bytes) -> None:
        self.board.memory(address, len(data))[:] = memoryview(data)

    def allocate(self, size: int) -> int:
        return int(self.board.contiguous.allocate(size))

    def free(self, address: int) -> None:
        self.board.contiguous.free(address)

    def free_bytes(self) -> int:
        return int(self.board.contiguous.free_bytes)

    def load_bitstream(self, firmware: bytes) -> None:
        self.board.load_bitstream(firmware)

    def read_file(self, path: str) -> bytes | None:
        data: bytes | None = self.board.read_file(path)
        return data

    def corrupt_lane(self, port: int, lane: int, mask: int) -> None:
        self.board.accelerator.corrupt_lane(port, lane, mask)

    def forget_processes(self) -> None:
        """What the kernel does with the memory of processes that were killed."""
        self.board.contiguous.free_all()


def serve(board: Any) -> tuple[Silicon, int]:
    """Serve a virtual board from this process; its port."""
    silicon = Silicon(board)
    _Manager.register("silicon", callable=lambda: silicon)
    server = _Manager(("127.0.0.1", 0), KEY).get_server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address: Any = server.address
    return silicon, int(address[1])


# ---- on the board ----------------------------------------------------------------------------------------------------
@dataclass
class _Place:
    """Memory of the board, as far as PYNQ's virtual device uses an array of it."""

    far: Any
    address: int
    size: int

    def __setitem__(self, key: slice, data: Any) -> None:
        self.far.write_memory(self.address, bytes(data))

    def tobytes(self) -> bytes:
        return bytes(self.far.read_memory(self.address, self.size))


class _FarBoard:
    """The virtual board of the other process, with what `SimulatedDevice` asks of one."""

    def __init__(self, far: Any) -> None:
        self.far, self.lock, self.contiguous = far, threading.RLock(), far
        self.arch, self.name = far.arch_and_name()

    def memory(self, address: int, size: int) -> _Place:
        return _Place(self.far, address, size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.far, name)


def _connect() -> Any:
    _Manager.register("silicon")
    manager = _Manager(("127.0.0.1", int(os.environ[PORT])), KEY)
    manager.connect()
    return manager.silicon()  # type: ignore[attr-defined]  # registered a line above


def _record_loads(device: Any) -> None:
    """PYNQ's device of a board notes what it has loaded; its base class does not."""
    from pynq.pl_server import global_state

    download = device.download

    def noted(bitstream: Any, parser: Any = None) -> None:
        download(bitstream, parser)
        record = {"bitfile_name": bitstream.bitfile_name, "active_name": device.name, "timestamp": ""}
        (Path(global_state.STATE_DIR) / "global_pl_state_.json").write_text(json.dumps(record))

    device.download = noted


def _made_up_system(far: Any, fault: str) -> Any:
    """The system that `hwgen doctor` sees: made-up files before those of this machine."""
    from hwgen.sw.devices.board_checks import BoardSystem

    root = Path(os.environ[ROOT])

    class MadeUp(BoardSystem):
        def path(self, name: str) -> Path:
            made = root / name.lstrip("/")
            return made if made.exists() or name in FILES else Path(name)

    for name, text in {
        **FILES,
        "/proc/meminfo": f"MemTotal: 4000000 kB\n{far.read_file('/proc/meminfo').decode()}",
        "/sys/class/fpga_manager/fpga0/state": far.read_file("/sys/class/fpga_manager/fpga0/state").decode(),
    }.items():
        path = root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    environment = {"BOARD": "KV260", "XILINX_XRT": "/usr", "PATH": "/usr/local/share/pynq-venv/bin"}
    if fault in environment:
        del environment[fault]
    elif fault.startswith("/"):
        (root / fault.lstrip("/")).unlink()
        (root / fault.lstrip("/")).parent.rmdir()
    return MadeUp(root=root, environment=environment, user=1000 if fault == "user" else 0, word=far.read_word)


def main(arguments: list[str]) -> int:
    far = _connect()
    import pynq

    from hwgen.sim.board.local import SimulatedDevice
    from hwgen.sw.cli import doctor
    from hwgen.sw.cli.main import main as hwgen

    fault = os.environ.get(FAULT, "")
    if not hasattr(pynq.Clocks, "set_device"):  # PYNQ 3.0 asks this computer's processor what clocks the board has
        pynq.ps.CPU_ARCH = pynq.ps.ZU_ARCH
    device = SimulatedDevice(_FarBoard(far))  # type: ignore[arg-type]  # what it asks of a board is there
    _record_loads(device)
    pynq.Device.active_device = device
    doctor.BoardSystem = lambda: _made_up_system(far, fault)  # type: ignore[assignment,misc]  # in place of the class
    return hwgen(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
