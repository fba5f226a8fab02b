"""The accelerator on a PYNQ board: of this machine, across the network, or a virtual one."""

from __future__ import annotations

import os
import re
import tempfile
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...boards import Board, load_board
from ...config import BuildConfig
from ...errors import HwgenError
from ...files import locked
from ...packages import needs
from ...registers import Status, register
from ...vlnv import VLNV
from .device import DeviceTimeout, StopFailed, attach
from .loading import FPGA_MANAGER, reset_ports, set_ports, stop_left_over
from .pass_stop import Holdings, PassStop
from .pynq_library import ENTER, WORD, active_device, import_pynq, missing_library
from .pynq_memory import PynqMemory
from .watch import PassWatch, WatchLimits

if TYPE_CHECKING:
    from .pynq_driver import AcceleratorDriver

__all__ = ["PynqDevice", "board_name", "overlay_lock", "same_board"]

#: What the name of a virtual board ends with.
SIMULATED_SUFFIX = "-simulated"

BOARD_NAME = "/proc/device-tree/chosen/pynq_board"
FPGA_STATE = str(FPGA_MANAGER / "state")

#: Cycles without movement after which a simulated machine counts as hung: fewer, because each takes longer.
SIMULATED_IDLE_CYCLES = 400_000


@contextmanager
def overlay_lock() -> Iterator[None]:
    """One process at a time: PYNQ keeps the metadata of overlays in files beside its own code, without a lock."""
    with locked(Path(tempfile.gettempdir()) / f"hwgen-pynq-{os.getuid()}.lock"):
        yield


def same_board(a: str, b: str) -> bool:
    """Whether two spellings are of one board: PYNQ says "Pynq-Z2" and "Ultra96" where a build says "pynq_z2" and "ultra96v2"."""
    a, b = (re.sub("[^a-z0-9]", "", name.lower()) for name in (a, b))
    return bool(a and b) and (a.startswith(b) or b.startswith(a))


def board_name(target: Any) -> str:
    """What board a PYNQ device is, in PYNQ's spelling; empty where the board does not say."""
    name = str(target.name)
    if target.has_capability("REMOTE") or name.endswith(SIMULATED_SUFFIX):
        return "" if name == "Unknown" else name
    try:
        return Path(BOARD_NAME).read_text().strip("\0\n")
    except OSError:
        return os.environ.get("BOARD", "")


class PynqDevice(PynqMemory):
    """An accelerator in an overlay, on top of PYNQ's ``Overlay``, ``MMIO`` and ``allocate``.

    ``overlay``: path of the ``.bit`` file with its ``.hwh`` beside it, or a loaded ``pynq.Overlay``; on a virtual board it may be
    left out. ``address``: ``HOST`` or ``HOST:PORT`` of a board across the network; else PYNQ's active device (this board, or the
    first of ``PYNQ_REMOTE_DEVICES``). ``download=False`` attaches to what is loaded already. ``board`` is the name that the board
    must have. ``target`` is a PYNQ device to use instead.
    """

    name = "pynq"

    def __init__(
        self,
        config: BuildConfig,
        *,
        overlay: str | Path | Any | None = None,
        address: str | None = None,
        download: bool = True,
        board: str | None = None,
        target: Any = None,
        memory_bytes: int = 0,
        limits: WatchLimits | None = None,
        call_seconds: float = 60.0,
        progress: Callable[[str], None] | None = None,
    ) -> None:
        self.config = config
        #: Seconds that generating and compiling took: none, it was done elsewhere.
        self.build_seconds = 0.0
        super().__init__()
        report = progress or (lambda text: None)
        self._pynq = import_pynq()
        self._target = self._find_target(target, address, call_seconds)
        self._remote = bool(self._target.has_capability("REMOTE"))
        #: What was found of a pass of an earlier host, which was stopped; empty where there was none.
        self.left_over = ""
        self._where = f"the board at {address or self._target.ip_addr}" if self._remote else "the board"
        #: True on a virtual board, where time is counted in cycles.
        self.simulated = str(self._target.name).endswith(SIMULATED_SUFFIX)
        #: On the board that this program runs on.
        self.is_here = not (self._remote or self.simulated)
        found = board_name(self._target)
        if board and found and not same_board(found.removesuffix(SIMULATED_SUFFIX), board):
            raise HwgenError(
                "device",
                f"{self._where} is a {found}, the build is for {board}",
                f"use a {board}, or build for the board that you have: hwgen build --board ...",
            )
        if memory_bytes:
            self._check_memory(memory_bytes)
        with self._answers():
            opened = self._open_overlay(overlay, download, board or found.removesuffix(SIMULATED_SUFFIX), report)
            self.driver = self._find_driver(opened)
        self.driver.configure(config)
        remote = self._remote  # and not self, which would then live as long as the finalizer
        self._stop = PassStop(self.driver.mmio)
        self._holdings = Holdings(self._stop, lambda error: is_lost(error, remote))
        # Also when nobody holds the device any more, and at the end of the interpreter.
        self._finalizer = weakref.finalize(self, self._holdings.release)
        limits = limits or (WatchLimits(idle_cycles=SIMULATED_IDLE_CYCLES) if self.simulated else WatchLimits())
        self._watch = PassWatch(
            config, self.read_register, self.read, self.driver.pause, simulated=self.simulated, limits=limits
        )
        attach(self)
        self._stop_left_over()
        with self._answers():  # whoever loaded the design: now that nothing is in flight
            set_ports(self._pynq, self._target, opened.parser)

    # ---- opening -------------------------------------------------------------------------------------------------
    def _find_target(self, target: Any, address: str | None, seconds: float) -> Any:
        """The PYNQ device, made the active one: PYNQ sets port widths and clocks there whatever device is named."""
        if target is None and address is not None:
            with needs("a board across the network", "pynq>=3.1"):
                from .pynq_remote import connect

            target = connect(address, seconds)
        if target is None:
            target = active_device(self._pynq)
            if target is None:
                raise HwgenError(
                    "device", "PYNQ finds no board", f"on a board, {ENTER}; elsewhere give the address of one: --address HOST"
                )
            if target.has_capability("REMOTE"):
                from .pynq_remote import add_deadlines

                add_deadlines(target, seconds)
        self._pynq.Device.active_device = target
        clocks = self._pynq.Clocks
        follows = hasattr(clocks, "set_device")  # since PYNQ 3.1; 3.0 takes the active device of when it first set a clock
        if not follows or clocks.device is not target:
            if "_real_instance" in vars(clocks):  # of the device before
                del clocks._real_instance
            if follows:
                clocks.set_device(target)
        return target

    def _open_overlay(self, overlay: Any, download: bool, board: str, report: Callable[[str], None]) -> Any:
        """PYNQ's `Overlay`, in the fabric."""
        if overlay is None:
            if not self.simulated:
                raise HwgenError("usage", "no overlay is given", "give the path of the .bit file: --overlay FILE.bit")
            overlay = self._simulated_overlay(board)
        if isinstance(overlay, str | Path):
            path = Path(overlay).absolute()
            for needed in (path, path.with_suffix(".hwh")):
                if not needed.is_file():
                    raise HwgenError("device", f"{needed} does not exist", "give the .bit file, with its .hwh beside it")
            if not download:
                self._check_configured()
            report(f"loading {path.name}" if download else f"attaching to {path.name}")
            with overlay_lock():
                overlay = self._pynq.Overlay(str(path), download=False, device=self._target)
                self._check_family(overlay, path)
                if download:
                    self._download(overlay, path, report)
        return overlay

    @staticmethod
    def _find_driver(overlay: Any) -> AcceleratorDriver:
        from .pynq_driver import AcceleratorDriver

        for name, description in overlay.ip_dict.items():
            if str(description["type"]).rpartition(":")[0] == VLNV.rpartition(":")[0]:
                driver = getattr(overlay, name)
                if isinstance(driver, AcceleratorDriver):
                    return driver
                raise HwgenError(
                    "device",
                    f"the overlay has version {description['type']} of the accelerator, this hwgen drives {VLNV}",
                    "build the bitstream with this version of hwgen",
                )
        found = ", ".join(f"{name} ({d['type']})" for name, d in overlay.ip_dict.items()) or "nothing"
        raise HwgenError(
            "device",
            f"the overlay has no hwgen accelerator; it has {found}",
            "give a bitstream that `hwgen build` made",
        )

    def _download(self, overlay: Any, path: Path, report: Callable[[str], None]) -> None:
        """Configure the fabric, with nothing of what was there before in flight."""
        if not self._remote and not self.simulated:  # no record says what the fabric of another machine holds
            self.left_over = stop_left_over(self._pynq, self._target)
            if self.left_over:
                report(self.left_over)
        if self._remote:  # PYNQ keeps an old firmware file of the same name
            self._target.write_file(f"/lib/firmware/{path.stem}.bin", overlay.parser.bin_data)
        overlay.download()
        reset_ports(self._pynq, self._target, overlay.parser)

    def _simulated_overlay(self, board: str) -> Path:
        """The overlay of a virtual board, written where nobody else looks."""
        from dataclasses import replace

        from .virtual_board import write_overlay

        family = "xc7" if self._target.arch == "armv7l" else ""  # all of a part that a simulated hand-off depends on
        described: Board = replace(load_board("demo"), name=board, part=family, config=self.config)
        self._directory = tempfile.TemporaryDirectory(prefix="hwgen-overlay-")
        return write_overlay(described, Path(self._directory.name))

    def _check_family(self, overlay: Any, path: Path) -> None:
        """Refuse a design for another processing system before the fabric is configured with it."""
        family = getattr(overlay.parser, "family_ps", "")
        expected = {"aarch64": "zynq_ultra_ps_e", "armv7l": "processing_system7"}.get(self._target.arch)
        if expected and family and family != expected:
            raise HwgenError(
                "device",
                f"{path.name} is for a board with {family}, {self._where} ({self._target.arch}) has {expected}",
                "give the bitstream of this board",
            )

    def _check_configured(self) -> None:
        """Attaching to fabric that was never configured would stop a real bus for good."""
        state = (self._read_file(FPGA_STATE) or b"operating").strip()
        if state != b"operating":
            raise HwgenError(
                "device", f"no bitstream is loaded: the FPGA manager says {state.decode()!r}", "load it first: without --attach"
            )

    def _read_file(self, path: str) -> bytes | None:
        """A file of the board; None where there is none."""
        if self._remote:
            with self._answers():
                if not self._target.exists_file(path).exists:
                    return None
                return bytes(self._target.read_file(path))
        if self.simulated:
            data: bytes | None = self._target.board.read_file(path)
            return data
        try:
            return Path(path).read_bytes()
        except OSError:
            return None

    def _stop_left_over(self) -> None:
        """A host before us may have gone in the middle of a pass."""
        try:
            if Status.BUSY in Status(self.read_register(register(self.config, "STATUS").offset)):
                self.left_over = "a pass of an earlier host was running; it was stopped"
            self.stop()
        except StopFailed as error:
            raise HwgenError(
                "device",
                f"a pass of an earlier host goes on: {error.message}",
                "load the bitstream again: without --attach",
            ) from error

    # ---- registers and passes ------------------------------------------------------------------------------------
    def write_register(self, offset: int, value: int) -> None:
        with self._answers():
            self.driver.mmio.write(offset, int(value))

    def read_register(self, offset: int) -> int:
        with self._answers():
            return int(self.driver.mmio.read(offset)) & WORD

    def read_registers(self, offset: int, count: int) -> list[int]:
        mmio = self.driver.mmio
        with self._answers():
            if type(mmio.array) is np.ndarray:  # the registers themselves: tolist reads word by word, where a copy might read wider
                return [word & WORD for word in mmio.array[offset // 4 : offset // 4 + count].tolist()]
            return [int(mmio.read(offset + 4 * i)) & WORD for i in range(count)]

    def read_word(self, address: int) -> int:
        """A register of the processing system."""
        with self._answers():
            return int(self._pynq.MMIO(address, 4, device=self._target).read(0)) & WORD

    def wait(self, timeout: float, look: Callable[[], bool] | None = None) -> bool:
        return self._watch.wait(timeout, look)

    def describe_state(self) -> str:
        """Status, current operator, last AXI error and every counter, for people."""
        return self._watch.describe_state()

    @property
    def measured_mhz(self) -> float | None:
        """Fabric clock as measured during passes; None on a virtual board and before a pass was long enough."""
        return None if self.simulated else self._watch.measured_mhz

    def stop(self) -> None:
        with self._answers():
            self._stop()

    # ---- a board that is gone ------------------------------------------------------------------------------------
    def _is_lost(self, error: Exception) -> bool:
        return is_lost(error, self._remote)

    def _lost(self, error: Any) -> HwgenError:
        code = error.code().name
        if code == "DEADLINE_EXCEEDED":
            return DeviceTimeout(f"{self._where} did not answer a call in time")
        if code in ("NOT_FOUND", "INVALID_ARGUMENT"):
            return HwgenError("device", f"{self._where} refuses: {error.details()}", "open the device again")
        return HwgenError(
            "device",
            f"{self._where} answers no more ({code}): {error.details()}",
            "check power and network, start its service again, then open the device again",
        )

    @contextmanager
    def _answers(self) -> Iterator[None]:
        """Says in our own words what a remote or virtual board reports."""
        try:
            yield
        except HwgenError:
            raise
        except Exception as error:
            if self._is_lost(error):
                raise self._lost(error) from error
            missing = None if self._remote else missing_library(error)
            if missing is not None:
                raise missing from error
            if isinstance(error, RuntimeError | ValueError | OSError) or type(error).__name__ == "BusError":
                raise HwgenError(
                    "device", f"{self._where} reports: {str(error).splitlines()[0]}", "see docs/troubleshooting.md"
                ) from error
            raise


def is_lost(error: Exception, remote: bool) -> bool:
    """Whether an exception says that a remote board answers no more."""
    if not remote:
        return False
    import grpc

    return isinstance(error, grpc.RpcError)
