"""What a board needs before an accelerator answers, looked for one by one. Nothing is changed, and PYNQ is not imported.

Registers of the fabric are read only where PYNQ says that it has loaded one of our overlays: a read that nobody answers stops
the board.
"""

from __future__ import annotations

import json
import mmap
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from ...boards import Board, Platform
from ...contract import CONTRACT_VERSION, contract_hash
from ...memory_ports import afi_settings
from ...registers import MAGIC, Status, register
from ...vlnv import VLNV
from .fabric_clock import fabric_mhz, kernel_mhz
from .pynq import BOARD_NAME, FPGA_STATE, same_board
from .pynq_library import ENTER
from .pynq_memory import LOW_MEMORY, boot_advice, cma_limit, cma_wanted

__all__ = ["BoardSystem", "Check", "check_board", "named_board"]

#: Part of the frequency by which a clock may be off: dividers give 249.997 MHz for 250.
CLOCK_TOLERANCE = 0.005

#: PYNQ releases that reach XRT through pyxrt, and do so only where the device tree names the board.
PYXRT_SINCE = (3, 1)

_KERNEL = "use the kernel of a PYNQ or Kria image, and no container"
_LOAD = "load the bitstream: hwgen run --device pynq --board B --overlay FILE.bit"


@dataclass(frozen=True)
class Check:
    """One thing that was looked for."""

    name: str
    ok: bool
    #: What was found, or "not found".
    found: str
    #: What to do where it is missing.
    fix: str
    #: True where hwgen works without it.
    optional: bool = False

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _module_directory(name: str) -> Path | None:
    """Where a module lies, without importing it."""
    spec = find_spec(name)
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


@dataclass(frozen=True, kw_only=True)
class BoardSystem:
    """The board as a program on it sees it; tests give another root, user, and so on."""

    root: Path = Path("/")
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    python: tuple[int, int] = sys.version_info[:2]
    user: int = field(default_factory=os.geteuid)
    #: Version of an installed distribution; None where it is missing.
    installed: Callable[[str], str | None] = _installed
    #: Directory of a module; None where it is missing.
    module_directory: Callable[[str], Path | None] = _module_directory
    #: Reads a 32-bit register at a physical address; /dev/mem where it is None.
    word: Callable[[int], int] | None = None

    def path(self, name: str) -> Path:
        return self.root / name.lstrip("/")

    def text(self, name: str) -> str | None:
        """A file of the system; None where it is missing or must not be read."""
        try:
            return self.path(name).read_text(errors="replace").strip("\0\n ")
        except OSError:
            return None

    def read_word(self, address: int) -> int:
        """A register; :class:`OSError` where there is no way to it."""
        if self.word is not None:
            return self.word(address)
        page = address // mmap.PAGESIZE * mmap.PAGESIZE
        handle = os.open(self.path("/dev/mem"), os.O_RDONLY | os.O_SYNC)
        try:
            window = mmap.mmap(handle, mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)
        finally:
            os.close(handle)
        return int(np.frombuffer(window, np.uint32)[(address - page) // 4])


@dataclass(frozen=True)
class _Overlay:
    """What PYNQ says that it has loaded."""

    #: Path of the bitstream; empty where PYNQ has loaded none.
    bitstream: str = ""
    #: Type of our accelerator in it, and its address; empty and None where it has none.
    kind: str = ""
    base: int | None = None

    @property
    def ours(self) -> bool:
        return self.base is not None and self.kind == VLNV


def _loaded_overlay(system: BoardSystem) -> _Overlay:
    directory = system.module_directory("pynq")
    if directory is None:
        return _Overlay()
    for state in sorted((directory / "pl_server").glob("global_pl_state*.json")):
        try:
            bitstream = str(json.loads(state.read_text())["bitfile_name"])
        except (OSError, ValueError, KeyError):
            continue
        handoff = system.path(bitstream).with_suffix(".hwh")
        try:
            tree = ElementTree.parse(handoff).getroot()
        except (OSError, ElementTree.ParseError):
            return _Overlay(bitstream)
        for module in tree.iter("MODULE"):
            kind = module.get("VLNV", "")
            if kind.rpartition(":")[0] == VLNV.rpartition(":")[0]:
                for place in tree.iter("MEMRANGE"):
                    if place.get("INSTANCE") == module.get("INSTANCE"):
                        return _Overlay(bitstream, kind, int(place.get("BASEVALUE", "0"), 16))
        return _Overlay(bitstream)
    return _Overlay()


# ---- what is installed -------------------------------------------------------------------------------------------
def named_board(system: BoardSystem) -> str:
    """What the board calls itself; empty where it does not say."""
    return system.text(BOARD_NAME) or system.environment.get("BOARD", "")


def _check_name(system: BoardSystem, board: Board) -> Check:
    found = named_board(system)
    if not found:
        model = system.text("/proc/device-tree/model") or "not found"
        found = f"no name; the device tree says {model}"
        return Check("board", False, found, f"{ENTER}, which sets BOARD; or export BOARD={board.name}")
    names = (board.name, board.platform.pynq_board if board.platform else "")
    good = any(same_board(found, name) for name in names)
    return Check("board", good, found, f"give the build of this board: --board {found.lower()}")


def _check_python(system: BoardSystem) -> Check:
    return Check("python", system.python >= (3, 10), "{}.{}".format(*system.python), f"hwgen needs Python 3.10 or newer; {ENTER}")


def _pynq_release(system: BoardSystem) -> tuple[int, int]:
    numbers = re.match(r"(\d+)\.(\d+)", system.installed("pynq") or "")
    return (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)


def _check_pynq(system: BoardSystem) -> Check:
    found = system.installed("pynq")
    if found is None:
        return Check("pynq", False, "not found", f"{ENTER}, and install hwgen there")
    if not (3, 0) <= _pynq_release(system) < (4, 1):
        return Check("pynq", False, found, f"hwgen was tried with 3.0.1, 3.1.2 and 4.0.0; {ENTER}")
    if _pynq_release(system) >= PYXRT_SINCE and system.text(BOARD_NAME) is None:
        fix = f"PYNQ 3.1 and newer run in their own images alone; Kria boards have 3.0.1: {ENTER}"
        return Check("pynq", False, f"{found}, without {BOARD_NAME}", fix)
    return Check("pynq", True, found, ENTER)


def _check_xrt(system: BoardSystem) -> Check:
    """The library that gives contiguous memory."""
    install = "run install.sh of Kria-PYNQ on a Kria board, or use a PYNQ image of the board"
    if _pynq_release(system) >= PYXRT_SINCE:
        place = system.module_directory("pyxrt")
        return Check("xrt", place is not None, str(place) if place else "this Python has no pyxrt", f"{ENTER}; else {install}")
    home = system.environment.get("XILINX_XRT")
    if not home:
        return Check("xrt", False, "XILINX_XRT is not set", f"{ENTER}; sudo alone drops it")
    library = f"{home}/lib/libxrt_core.so"
    there = system.path(library).exists()
    return Check("xrt", there, library if there else f"{library} does not exist", install)


def _check_xclbinutil(system: BoardSystem) -> Check:
    """PYNQ describes the memory of an overlay to XRT with it."""
    places = os.pathsep.join(str(system.path(part)) for part in system.environment.get("PATH", "").split(os.pathsep) if part)
    found = shutil.which("xclbinutil", path=places)
    return Check("xclbinutil", found is not None, found or "not on PATH", f"{ENTER}: Kria-PYNQ keeps it there")


# ---- what the kernel gives ---------------------------------------------------------------------------------------
def _check_root(system: BoardSystem) -> Check:
    if system.user != 0:
        return Check("permissions", False, f"user {system.user}", f"PYNQ maps registers as root; {ENTER}")
    there = system.path("/dev/mem").exists()
    found = "root, /dev/mem" if there else "root, but no /dev/mem"
    return Check("permissions", there, found, _KERNEL)


def _check_zocl(system: BoardSystem) -> Check:
    loaded = system.path("/sys/module/zocl").exists()
    render = sorted(path.name for path in system.path("/dev/dri").glob("renderD*"))
    found = ", ".join(render) if loaded and render else "module loaded, but no /dev/dri/renderD*" if loaded else "module not loaded"
    fix = f"sudo modprobe zocl, then {ENTER}: on Kria that adds the device tree that zocl wants"
    return Check("zocl", loaded and bool(render), found, fix)


def _check_uio(system: BoardSystem) -> Check:
    names = {path.parent.name: path.read_text().strip() for path in sorted(system.path("/sys/class/uio").glob("uio*/name"))}
    fabric = [device for device, name in names.items() if name == "fabric"]
    fix = "nothing must be done: passes are polled. For interrupts boot with uio_pdrv_genirq.of_id=generic-uio"
    return Check("uio", bool(fabric), ", ".join(fabric) or "no device named fabric", fix, optional=True)


def _check_fpga_manager(system: BoardSystem) -> Check:
    state = system.text(FPGA_STATE)
    return Check("fpga manager", state is not None, state or f"{FPGA_STATE} does not exist", _KERNEL)


def _check_memory(system: BoardSystem, board: Board, needed: int) -> Check:
    values = dict(re.findall(r"^(Cma\w+|MemTotal):\s+(\d+) kB", system.text("/proc/meminfo") or "", re.MULTILINE))
    seven = board.platform is not None and board.platform.processor == "processing_system7"
    if "CmaTotal" not in values:
        fix = boot_advice(cma_wanted(needed) if needed else 1000, seven)
        return Check("memory", False, "the kernel has no contiguous memory (CMA)", fix)
    total, free = (int(values[name]) * 1024 for name in ("CmaTotal", "CmaFree"))
    found = f"{total >> 20} MiB contiguous, {free >> 20} MiB free"
    if needed:
        found += f", the model needs {-(-needed >> 20)} MiB"
    if free >= max(needed, 1):
        return Check("memory", True, found, "")
    wanted, most = cma_wanted(needed), cma_limit(int(values.get("MemTotal", LOW_MEMORY >> 10)) * 1024)
    if needed <= total:
        fix = "shut notebooks and programs down that hold buffers (sudo systemctl restart jupyter), or reboot"
    elif wanted > most:
        fix = f"this board cannot give that much (cma={most}M at most): take a smaller model or head, or compile with --context"
    else:
        fix = boot_advice(wanted, seven)
    return Check("memory", False, found, fix)


# ---- what is loaded ----------------------------------------------------------------------------------------------
def _check_overlay(system: BoardSystem, board: Board, overlay: _Overlay) -> Check:
    if not overlay.bitstream:
        return Check("overlay", False, "PYNQ has loaded none since the board started", _LOAD, optional=True)
    if not overlay.ours:
        what = f"has {overlay.kind}" if overlay.kind else "has no hwgen accelerator, or its .hwh is gone"
        return Check("overlay", False, f"{overlay.bitstream} {what}", _LOAD)
    if (system.text(FPGA_STATE) or "") != "operating":
        return Check("overlay", False, f"{overlay.bitstream}, but the FPGA manager does not say operating", _LOAD)

    def read(name: str) -> int:
        return system.read_word((overlay.base or 0) + register(board.config, name).offset)

    try:
        magic, number, found = read("MAGIC"), read("VERSION"), read("HASH_HIGH") << 32 | read("HASH_LOW")
    except OSError as error:
        return Check("overlay", False, f"{overlay.bitstream}, registers cannot be read: {error}", ENTER)
    if magic != MAGIC:
        return Check("overlay", False, f"register 0 at 0x{overlay.base:x} reads 0x{magic:08x}, not 0x{MAGIC:08x}", _LOAD)
    if number != CONTRACT_VERSION:
        fix = "build hardware and image with the same version of hwgen"
        return Check("overlay", False, f"contract version {number}, this hwgen has {CONTRACT_VERSION}", fix)
    expected = contract_hash(board.config)
    if found != expected:
        fix = "give the configuration that the bitstream was built with, its config.json with --config; or build again"
        return Check("overlay", False, f"contract hash {found:016x}, {board.name} has {expected:016x}", fix)
    return Check("overlay", True, overlay.bitstream, "")


def _check_clock(system: BoardSystem, board: Board, ours: bool) -> Check:
    """At another frequency answers are slow, or wrong; it is judged where our overlay is loaded."""
    wanted = board.config.clock_mhz
    family = board.platform.processor if board.platform else "zynq_ultra_ps_e"
    try:
        found: float | None = fabric_mhz(family, system.read_word)
    except OSError:
        found = None
    source = "registers"
    if found is None:
        found, source = kernel_mhz(system.text("/sys/kernel/debug/clk/clk_summary") or ""), "clk_summary"
    fix = (
        f"let PYNQ load the overlay, which sets it, or set it: python -c 'import pynq; pynq.Clocks.fclk0_mhz = {wanted:g}'; "
        "an app of xmutil needs assigned-clock-rates in its device tree"
    )
    if found is None:
        return Check("clock", False, "neither /dev/mem nor /sys/kernel/debug/clk/clk_summary can be read", ENTER)
    good = abs(found - wanted) <= CLOCK_TOLERANCE * wanted
    return Check("clock", good, f"{found:.3f} MHz by {source}, the build is made for {wanted:g} MHz", fix, optional=not ours)


def _check_left_over(system: BoardSystem, board: Board, overlay: _Overlay) -> Check:
    try:
        status = system.read_word((overlay.base or 0) + register(board.config, "STATUS").offset)
    except OSError as error:
        return Check("leftover pass", False, str(error), ENTER)
    busy = bool(status & Status.BUSY)
    fix = "end the program that uses the accelerator; if there is none, load the bitstream again (without --attach)"
    return Check("leftover pass", not busy, "a pass is running" if busy else "none", fix)


def _check_ports(system: BoardSystem, board: Board, platform: Platform) -> Check:
    """The FIFOs of the memory ports are set as the design wants them: a port of another width brings wrong data."""
    wrong = []
    for wanted in afi_settings(platform.processor, platform.memory_ports[: board.config.ports], platform.memory_port_bits):
        try:
            found = system.read_word(wanted.address) & wanted.mask
        except OSError as error:
            return Check("memory ports", False, str(error), ENTER)
        if found != wanted.value:
            wrong.append(f"{wanted.text}: 0x{found:x} at 0x{wanted.address:x}, not 0x{wanted.value:x}")
    text = f"{board.config.ports} of {platform.memory_port_bits} bits, 8 commands each way, best effort"
    if wrong:
        text = wrong[0] + (f"; and {len(wrong) - 1} more" if wrong[1:] else "")
    fix = f"hwgen sets them whenever it opens the board: hwgen selftest --board {board.name} --overlay FILE.bit"
    return Check("memory ports", not wrong, text, fix)


def check_board(board: Board, system: BoardSystem, *, needed: int = 0) -> list[Check]:
    """Every check of a board that has, or will have, the build of ``board``, in the order in which things should be repaired.

    ``needed``: bytes of contiguous memory that a model takes.
    """
    overlay = _loaded_overlay(system)
    checks = [
        *(check(system) for check in (_check_python, _check_pynq, _check_xrt, _check_xclbinutil, _check_root)),
        _check_name(system, board),
        *(check(system) for check in (_check_zocl, _check_uio, _check_fpga_manager)),
        _check_memory(system, board, needed),
        _check_overlay(system, board, overlay),
    ]
    ours = overlay.ours and checks[-1].ok
    checks.append(_check_clock(system, board, ours))
    if ours:
        checks += [_check_ports(system, board, board.platform)] if board.platform else []
        checks.append(_check_left_over(system, board, overlay))
    return checks
