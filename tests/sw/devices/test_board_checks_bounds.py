"""Each check of a board by itself, to the last version, byte and hertz."""

from __future__ import annotations

import mmap
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hwgen.boards import load_board
from hwgen.memory_ports import afi_settings
from hwgen.registers import register
from hwgen.sw.devices import board_checks
from hwgen.sw.devices.board_checks import BoardSystem, Check

KV260, Z2 = load_board("kv260"), load_board("pynq-z2")
MIB = 1 << 20


def system(root: Path, **changes: Any) -> BoardSystem:
    fields: dict[str, Any] = {
        "environment": {}, "python": (3, 10), "user": 0, "installed": {}.get, "module_directory": {}.get, "word": {}.__getitem__,
    }
    return BoardSystem(root=root, **fields | changes)


def write(root: Path, name: str, text: str) -> None:
    path = root / name.lstrip("/")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(("python", "ok"), [((3, 9), False), ((3, 10), True), ((3, 14), True), ((2, 11), False), ((4, 0), True)])
def test_python(tmp_path: Path, python: tuple[int, int], ok: bool) -> None:
    check = board_checks._check_python(system(tmp_path, python=python))
    assert (check.ok, check.found, check.optional) == (ok, f"{python[0]}.{python[1]}", False)


@pytest.mark.parametrize(("release", "named", "ok"), [
    (None, True, False), ("2.9", True, False), ("3.0", False, True), ("3.0.1", True, True), ("3.1.2", True, True),
    ("3.1", False, False),
    ("4.0.0", True, True), ("4.0", False, False), ("4.1", True, False), ("odd", True, False),
])
def test_pynq(tmp_path: Path, release: str | None, named: bool, ok: bool) -> None:
    """3.0 up to 4.0; from 3.1 on the device tree must name the board, and XRT is a module of Python."""
    if named:
        write(tmp_path, "/proc/device-tree/chosen/pynq_board", "KV260\0")
    assert board_checks._check_pynq(system(tmp_path, installed={"pynq": release}.get)).ok is ok


def test_xrt(tmp_path: Path) -> None:
    new, old = {"installed": {"pynq": "3.1.0"}.get}, {"installed": {"pynq": "3.0.9"}.get}
    check = board_checks._check_xrt
    assert not check(system(tmp_path, **new)).ok and check(system(tmp_path, **new, module_directory={"pyxrt": tmp_path}.get)).ok
    assert check(system(tmp_path, **old)).found == "XILINX_XRT is not set"
    home = {"environment": {"XILINX_XRT": "/opt/x"}}
    assert check(system(tmp_path, **old, **home)).found == "/opt/x/lib/libxrt_core.so does not exist"
    write(tmp_path, "/opt/x/lib/libxrt_core.so", "")
    assert check(system(tmp_path, **old, **home)).ok


@pytest.mark.parametrize(("user", "there", "ok", "found"), [
    (0, True, True, "root, /dev/mem"), (0, False, False, "root, but no /dev/mem"), (1000, True, False, "user 1000"),
])
def test_root(tmp_path: Path, user: int, there: bool, ok: bool, found: str) -> None:
    if there:
        write(tmp_path, "/dev/mem", "")
    check = board_checks._check_root(system(tmp_path, user=user))
    assert (check.ok, check.found) == (ok, found)


@pytest.mark.parametrize(("module", "render", "ok", "found"), [
    (True, True, True, "renderD128"), (True, False, False, "module loaded, but no /dev/dri/renderD*"),
    (False, True, False, "module not loaded"), (False, False, False, "module not loaded"),
])
def test_zocl(tmp_path: Path, module: bool, render: bool, ok: bool, found: str) -> None:
    for wanted, name in ((module, "/sys/module/zocl/version"), (render, "/dev/dri/renderD128")):
        if wanted:
            write(tmp_path, name, "")
    check = board_checks._check_zocl(system(tmp_path))
    assert (check.ok, check.found) == (ok, found)


def test_interrupts_and_the_fpga_manager(tmp_path: Path) -> None:
    write(tmp_path, "/sys/class/uio/uio0/name", "fabrics\n")
    assert board_checks._check_uio(system(tmp_path)) == board_checks._check_uio(system(tmp_path / "empty"))
    write(tmp_path, "/sys/class/uio/uio3/name", "fabric\n")
    check = board_checks._check_uio(system(tmp_path))
    assert (check.ok, check.found, check.optional) == (True, "uio3", True)
    assert not board_checks._check_fpga_manager(system(tmp_path)).ok
    write(tmp_path, "/sys/class/fpga_manager/fpga0/state", "unknown\n")
    check = board_checks._check_fpga_manager(system(tmp_path))
    assert (check.ok, check.found) == (True, "unknown")


@pytest.mark.parametrize(("total", "free", "needed", "ok", "fix"), [
    (1000, 900, 900 * MIB, True, ""), (1000, 900, 900 * MIB + 1, False, "shut notebooks"),
    (1000, 1000, 1000 * MIB + 1, False, "cma="),
    (1000, 900, 1000 * MIB, False, "shut notebooks"), (1000, 900, 0, True, ""), (1000, 0, 0, False, "shut notebooks"),
    (1000, 900, 1816 * MIB, False, "boot with cma=1848M"), (1000, 900, 1816 * MIB + 1, False, "cannot give that much (cma=1848M"),
])
def test_memory(tmp_path: Path, total: int, free: int, needed: int, ok: bool, fix: str) -> None:
    """What is free must be enough; a reboot helps where the area is, another cma= where the board has so much."""
    write(tmp_path, "/proc/meminfo", f"MemTotal: 4000000 kB\nCmaTotal:  {total << 10} kB\nCmaFree:   {free << 10} kB\n")
    check = board_checks._check_memory(system(tmp_path), KV260, needed)
    assert check.ok is ok and fix in check.fix and bool(check.fix) is not ok
    said = f", the model needs {-(-needed // MIB)} MiB" if needed else ""
    assert check.found == f"{total} MiB contiguous, {free} MiB free{said}"


@pytest.mark.parametrize(("board", "needed", "fix"), [
    (KV260, 0, "boot with cma=1000M: on Kria"), (KV260, 4 * MIB, "boot with cma=36M: on Kria"),
    (Z2, 4 * MIB, "boot with cma=36M: echo"),
])
def test_no_contiguous_memory(tmp_path: Path, board: Any, needed: int, fix: str) -> None:
    check = board_checks._check_memory(system(tmp_path), board, needed)
    assert not check.ok and check.fix.startswith(fix)


@pytest.mark.parametrize(("found", "ok"), [(248.75, True), (248.74, False), (251.25, True), (251.26, False)])
def test_clocks(tmp_path: Path, found: float, ok: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a percent of 250 MHz; judged where the overlay is ours."""
    monkeypatch.setattr(board_checks, "fabric_mhz", lambda family, read: found if family == "zynq_ultra_ps_e" else 0)
    for ours in (True, False):
        check = board_checks._check_clock(system(tmp_path), KV260, ours)
        assert (check.ok, check.optional) == (ok, not ours) and check.found.startswith(f"{found:.3f} MHz by registers")
    check = board_checks._check_clock(system(tmp_path), Z2, True)
    assert not check.ok and check.found.startswith("0.000 MHz"), "another family has another clock"


def test_ports_and_what_runs(tmp_path: Path) -> None:
    """Every register of the ports of the build, and none of others; what else is in them does not matter."""
    platform: Any = KV260.platform
    ports = platform.memory_ports[: KV260.config.ports]
    settings = afi_settings(platform.processor, ports, platform.memory_port_bits)
    words = {s.address: s.value | 0xFFFF_FFFF & ~s.mask for s in settings}
    check = board_checks._check_ports
    assert check(system(tmp_path, word=words.__getitem__), KV260, platform).ok and len(words) == 6 * 5
    for address in words:
        wrong = words | {address: words[address] ^ 1}
        found = check(system(tmp_path, word=wrong.__getitem__), KV260, platform)
        assert not found.ok and f"0x{address:x}" in found.found and "more" not in found.found
    assert "; and 29 more" in check(system(tmp_path, word=lambda at: words[at] ^ 1), KV260, platform).found
    overlay: Any = SimpleNamespace(base=0xA000_0000)
    status = 0xA000_0000 + register(KV260.config, "STATUS").offset
    for value, ok in ((0, True), (1, False), (2, True), (3, False)):
        running = board_checks._check_left_over(system(tmp_path, word={status: value}.__getitem__), KV260, overlay)
        assert (running.ok, running.found) == (ok, "none" if ok else "a pass is running")


def test_words_of_the_text(tmp_path: Path) -> None:
    write(tmp_path, "/a", "  text\n\0")
    made = system(tmp_path)
    assert made.text("/a") == "text" and made.text("/b") is None and made.path("/a") == tmp_path / "a"
    assert Check("n", True, "f", "x").to_dict() == {"name": "n", "ok": True, "found": "f", "fix": "x", "optional": False}
    data = bytes(range(256)) * 32
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "mem").write_bytes(data)
    memory = system(tmp_path, word=None)
    for address in (0, 4, 4096, 4100, 8188):
        assert memory.read_word(address) == int.from_bytes(data[address : address + 4], "little")


def test_this_system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is looked at where nothing else is given."""
    here = BoardSystem()
    assert (here.root, here.python, here.user) == (Path("/"), (sys.version_info.major, sys.version_info.minor), os.geteuid())
    assert here.environment is os.environ and here.word is None
    assert here.installed("numpy") == np.__version__ and here.installed("no-such-package") is None
    assert here.module_directory("numpy") == Path(np.__file__).parent and here.module_directory("no_such_module") is None
    (tmp_path / "a_folder_alone").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert here.module_directory("a_folder_alone") is None, "a name space has no place"


def test_registers_are_read_past_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """O_SYNC is what makes the kernel map /dev/mem so; nothing can be written through the window."""
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "mem").write_bytes(bytes(mmap.PAGESIZE))
    flags, opened = list[int](), os.open
    monkeypatch.setattr(os, "open", lambda path, how: (flags.append(how), opened(path, how))[1])
    assert system(tmp_path, word=None).read_word(0) == 0 and flags == [os.O_RDONLY | os.O_SYNC]
