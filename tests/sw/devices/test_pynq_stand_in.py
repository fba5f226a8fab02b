"""The device on PYNQ with a stand-in for PYNQ and the board: registers in a dictionary, buffers in numpy, no simulator."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hwgen.config import BuildConfig
from hwgen.contract import contract_hash
from hwgen.errors import HwgenError
from hwgen.registers import MAGIC, register
from tests.virtual_board import require_remote

require_remote()  # before what imports gRPC, so that its absence skips this file

import grpc

from hwgen.sw.devices import pynq as on_pynq
from hwgen.sw.devices.device import DeviceTimeout
from hwgen.sw.devices.pynq import PynqDevice, board_name, is_lost, same_board
from hwgen.sw.devices.pynq_driver import AcceleratorDriver
from hwgen.sw.devices.pynq_memory import PynqMemory, cma_limit, cma_wanted

CONFIG = BuildConfig(name="small")
ADDRESS = 0x4000_0000


class Buffer(np.ndarray):
    """PYNQ's buffer: what cache maintenance walked is noted."""

    device_address = ADDRESS
    walked: list[tuple[str, int]]
    buffer_id = 1

    def __array_finalize__(self, other: Any) -> None:
        self.walked = getattr(other, "walked", [])

    def flush(self) -> None:
        self.walked.append(("flush", self.nbytes))

    def invalidate(self) -> None:
        self.walked.append(("invalidate", self.nbytes))

    def freebuffer(self) -> None:
        self.walked.append(("free", self.nbytes))


class Board:
    """What the device sees through PYNQ."""

    def __init__(self, name: str = "KV260", remote: bool = False, arch: str = "aarch64") -> None:
        self.words = {register(CONFIG, "MAGIC").offset: MAGIC, register(CONFIG, "VERSION").offset: 9}
        code = contract_hash(CONFIG)
        self.words |= {register(CONFIG, "HASH_LOW").offset: code & 0xFFFFFFFF, register(CONFIG, "HASH_HIGH").offset: code >> 32}
        self.events: list[object] = []
        self.files: dict[str, bytes] = {}
        self.buffers: list[Buffer] = []
        self.next = ADDRESS
        self.target = SimpleNamespace(
            name=name, arch=arch, ip_addr="1.2.3.4", has_capability=lambda what: remote and what == "REMOTE",
            exists_file=lambda path: SimpleNamespace(exists=path in self.files), read_file=self.files.__getitem__,
            board=SimpleNamespace(read_file=self.files.get),
            write_file=lambda path, data: self.events.append(("file", path, data)),
        )
        if name.endswith("-simulated"):
            self.target.set_axi_port_width = lambda parser: None
        device = SimpleNamespace(active_device=self.target)
        self.pynq = SimpleNamespace(
            Device=device, Clocks=SimpleNamespace(device=None, set_device=lambda target: self.events.append("clocks")),
            allocate=self.allocate, MMIO=self.system_word, Overlay=self.overlay,
        )
        self.array = object()
        self.system: dict[int, int] = {}
        self.family = {"aarch64": "zynq_ultra_ps_e", "armv7l": "processing_system7"}[arch]
        self.kind = "hwgen:hwgen:accelerator:1.0"

    def read(self, offset: int) -> int:
        value = self.words.get(offset, 0)
        return value - (1 << 32) if value >> 31 else value

    def write(self, offset: int, value: int) -> None:
        self.words[offset] = value

    def system_word(self, address: int, size: int, device: Any) -> Any:
        """A register of the processing system, as PYNQ's MMIO."""
        assert (size, device) == (4, self.target)
        return SimpleNamespace(
            read=lambda offset: self.system.get(address + offset, 0),
            write=lambda offset, value: self.system.__setitem__(address + offset, value),
        )

    def allocate(self, shape: tuple[int], kind: str, target: Any, cacheable: int) -> Buffer:
        assert (kind, target, cacheable) == ("u1", self.target, 1)
        buffer = np.zeros(shape, np.uint8).view(Buffer)
        buffer.device_address, buffer.walked = self.next, []
        self.next += 0x10_0000
        self.buffers.append(buffer)
        return buffer

    def overlay(self, path: str, download: bool, device: Any) -> Any:
        assert download is False and device is self.target
        driver: Any = AcceleratorDriver.__new__(AcceleratorDriver)
        driver.mmio, driver.device = self, self.target
        parser = SimpleNamespace(
            family_ps=self.family, ps_name="ps", ip_dict={"ps": {"parameters": {}}}, bin_data=b"bits",
        )
        self.events.append(("overlay", path))
        return SimpleNamespace(
            ip_dict={"ps": {"type": "xilinx.com:ip:ps:1.0"}, "accelerator": {"type": self.kind}}, accelerator=driver, parser=parser,
            download=lambda: self.events.append("download"),
        )


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., PynqDevice]:
    """Opens a board with a bitstream that is there."""
    (tmp_path / "a.bit").touch()
    (tmp_path / "a.hwh").touch()
    monkeypatch.setattr(on_pynq, "stop_left_over", lambda pynq, target: "")
    monkeypatch.setattr("hwgen.sw.devices.pynq_remote.add_deadlines", lambda device, seconds: device.calls.append(seconds))
    monkeypatch.delenv("BOARD", raising=False)

    def open_(board: Board, /, **options: Any) -> PynqDevice:
        monkeypatch.setattr(on_pynq, "import_pynq", lambda: board.pynq)
        board.target.calls = []
        device = PynqDevice(CONFIG, **{"overlay": tmp_path / "a.bit", **options})
        monkeypatch.setattr(board, "events", list(board.events))
        return device

    return open_


# ---- opening ---------------------------------------------------------------------------------------------------------
def test_a_board_of_this_machine(opened: Callable[..., PynqDevice], tmp_path: Path) -> None:
    board, said = Board(), list[str]()
    device = opened(board, progress=said.append)
    assert (device.simulated, device.is_here, device.left_over, device.build_seconds) == (False, True, "", 0)
    assert board.events[:3] == ["clocks", ("overlay", str(tmp_path / "a.bit")), "download"] and said == ["loading a.bit"]
    assert device._watch._limits.idle_cycles == 4_000_000 and not board.target.calls
    assert board.words[register(CONFIG, "CONTROL").offset] == 4, "stopped, whatever ran"
    attached = opened(Board(), download=False, progress=said.append)
    assert said[1:] == ["attaching to a.bit"] and attached.measured_mhz is None


def test_a_board_across_the_network(opened: Callable[..., PynqDevice]) -> None:
    """Its calls get limits, and its firmware file is written anew."""
    board = Board(remote=True)
    device = opened(board, call_seconds=7.0)
    assert (device.is_here, device._where) == (False, "the board at 1.2.3.4") and board.target.calls == [7.0]
    assert ("file", "/lib/firmware/a.bin", b"bits") in board.events
    assert not any(isinstance(event, tuple) and event[0] == "file" for event in opened_events(opened, download=False))


def test_a_board_by_its_address(opened: Callable[..., PynqDevice], monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked for there, with limits of its own; not where a device is given."""
    board, asked = Board(remote=True), list[object]()
    monkeypatch.setattr("hwgen.sw.devices.pynq_remote.connect", lambda *given: asked.append(given) or board.target)
    board.pynq.Device.active_device = None
    assert opened(board, address="h:1", call_seconds=7.0)._where == "the board at h:1" and asked == [("h:1", 7.0)]
    opened(board, address="h:2", target=board.target)
    assert len(asked) == 1 and not board.target.calls


def opened_events(opened: Callable[..., PynqDevice], **options: Any) -> list[object]:
    board = Board(remote=True)
    opened(board, **options)
    return board.events


def test_a_virtual_board(opened: Callable[..., PynqDevice]) -> None:
    board = Board("small-simulated")
    device = opened(board)
    assert (device.simulated, device.is_here, device._watch._limits.idle_cycles) == (True, False, 400_000)
    device._watch.measured_mhz = 7.0
    assert device.measured_mhz is None
    real = opened(Board())
    real._watch.measured_mhz = 7.0
    assert real.measured_mhz == 7.0


def test_what_is_loaded_is_stopped_before_a_download(opened: Callable[..., PynqDevice], monkeypatch: pytest.MonkeyPatch) -> None:
    """On this machine, whose records say what that is."""
    monkeypatch.setattr(on_pynq, "stop_left_over", lambda pynq, target: "a pass was running")
    for board, left_over in ((Board(), "a pass was running"), (Board(remote=True), ""), (Board("KV260-simulated"), "")):
        said: list[str] = []
        assert opened(board, progress=said.append).left_over == left_over
        assert said == ["loading a.bit", *([left_over] if left_over else [])]


@pytest.mark.parametrize(("board", "name", "refused"), [
    (Board("KV260", remote=True), "kv260", False), (Board("KV260-simulated"), "kv260", False),
    (Board("KV260", remote=True), None, False),
    (Board("KV260", remote=True), "zcu104", True), (Board("Unknown", remote=True), "zcu104", False),
])
def test_boards_by_name(opened: Callable[..., PynqDevice], board: Board, name: str | None, refused: bool) -> None:
    if not refused:
        opened(board, board=name)
        return
    with pytest.raises(HwgenError, match="is a KV260, the build is for zcu104"):
        opened(board, board=name)


@pytest.mark.parametrize(("name", "file"), [(None, "KV260.bit"), ("kv260", "kv260.bit")])
def test_the_overlay_of_a_virtual_board_has_its_name(opened: Callable[..., PynqDevice], name: str | None, file: str) -> None:
    """That of the build where one is asked for, else the board's own."""
    board = Board("KV260-simulated")
    opened(board, board=name, overlay=None)
    assert [Path(event[1]).name for event in board.events if isinstance(event, tuple)] == [file]


def test_names() -> None:
    assert same_board("Pynq-Z2", "pynq_z2") and same_board("Ultra96", "ultra96v2") and same_board("ultra96v2", "Ultra96")
    assert not same_board("kv260", "zcu104") and not same_board("", "kv260") and not same_board("kv260", "-")
    assert board_name(Board("X", remote=True).target) == "X" and board_name(Board("".join("Unknown"), remote=True).target) == ""
    assert board_name(Board("y-simulated").target) == "y-simulated"


@pytest.mark.parametrize(("change", "options", "message"), [
    ({"family": "processing_system7"}, {}, "a.bit is for a board with processing_system7, the board .aarch64. has zynq_ultra"),
    ({"kind": "hwgen:hwgen:accelerator:2.0"}, {}, None),
    ({"kind": "acme:ip:toaster:1.0"}, {}, "no hwgen accelerator; it has ps .xil"),
    ({}, {"overlay": "/nowhere/b.bit"}, "/nowhere/b.bit does not exist"), ({}, {"overlay": None}, "no overlay is given"),
])
def test_overlays_that_are_refused(
    opened: Callable[..., PynqDevice], change: dict[str, str], options: dict[str, Any], message: str | None
) -> None:
    board = Board()
    for name, value in change.items():
        setattr(board, name, value)
    if message is None:
        opened(board, **options)  # a driver of ours for another minor version is taken
        return
    with pytest.raises(HwgenError, match=message):
        opened(board, **options)


def test_a_driver_of_another_version_is_refused() -> None:
    overlay = SimpleNamespace(ip_dict={"a": {"type": "hwgen:hwgen:accelerator:2.0"}}, a=object())
    with pytest.raises(HwgenError, match=r"has version \S+:2\.0 of the accelerator, this hwgen drives \S+:1\.0"):
        PynqDevice._find_driver(overlay)


@pytest.mark.parametrize(("state", "refused"), [(b"operating\n", False), (b"unknown\n", True), (None, False)])
def test_attaching_to_fabric(opened: Callable[..., PynqDevice], state: bytes | None, refused: bool) -> None:
    """What was never configured stops a bus for good; a board that does not say is believed."""
    board = Board("x-simulated")
    if state is not None:
        board.files["/sys/class/fpga_manager/fpga0/state"] = state
    opened(board)  # a load needs no state
    if not refused:
        opened(Board("x-simulated") if state is None else board, download=False)
        return
    with pytest.raises(HwgenError, match="the FPGA manager says 'unknown'"):
        opened(board, download=False)


def test_no_board(monkeypatch: pytest.MonkeyPatch) -> None:
    board = Board()
    board.pynq.Device.active_device = None
    monkeypatch.setattr(on_pynq, "import_pynq", lambda: board.pynq)
    with pytest.raises(HwgenError, match="PYNQ finds no board"):
        PynqDevice(CONFIG, overlay="a.bit")


def test_clocks_of_the_board_that_is_used(opened: Callable[..., PynqDevice]) -> None:
    """PYNQ keeps those of the device before; PYNQ 3.0 knows no device of its clocks at all."""
    board = Board()
    board.pynq.Clocks = SimpleNamespace(_real_instance=1)
    opened(board)
    assert vars(board.pynq.Clocks) == {}
    same = Board()
    same.pynq.Clocks.device, same.pynq.Clocks._real_instance = same.target, 1
    opened(same)
    assert "clocks" not in same.events and same.pynq.Clocks._real_instance == 1
    other = Board()
    other.pynq.Clocks._real_instance = 1
    opened(other)
    assert "clocks" in other.events and not hasattr(other.pynq.Clocks, "_real_instance")


def test_a_pass_of_an_earlier_host(opened: Callable[..., PynqDevice], monkeypatch: pytest.MonkeyPatch) -> None:
    board, reads = Board(), list[int]()
    status = register(CONFIG, "STATUS").offset
    read = board.read
    monkeypatch.setattr(board, "read", lambda at: (reads.append(at) or int(reads.count(status) < 3)) if at == status else read(at))
    device = opened(board)
    assert device.left_over == "a pass of an earlier host was running; it was stopped"
    monkeypatch.setattr("hwgen.sw.devices.pynq.PassStop.__call__", lambda self: (_ for _ in ()).throw(on_pynq.StopFailed("no")))
    with pytest.raises(HwgenError, match="a pass of an earlier host goes on"):
        opened(Board())


# ---- registers -------------------------------------------------------------------------------------------------------
def test_registers(opened: Callable[..., PynqDevice]) -> None:
    """Words without a sign, one by one or where the registers are an array."""
    board = Board()
    device = opened(board)
    device.write_register(0x1000, 0xFFFF_FFF0)
    device.write_register(0x1008, np.int64(5))  # type: ignore[arg-type]  # a number of numpy
    assert device.read_register(0x1000) == 0xFFFF_FFF0 and device.read_registers(0x1000, 3) == [0xFFFF_FFF0, 0, 5]
    assert type(board.words[0x1008]) is int and device.read_word(0x1000) == 0, "of the processing system"
    board.system[0x1234] = -0x7FFF_FFFF
    assert device.read_word(0x1234) == 0x8000_0001
    board.array = np.arange(-2, 2000, dtype=np.int32)
    assert device.read_registers(0, 3) == [0xFFFF_FFFE, 0xFFFF_FFFF, 0] and device.read_registers(0x10, 2) == [2, 3]


# ---- memory ----------------------------------------------------------------------------------------------------------
def test_only_the_lines_of_what_is_written_are_walked(opened: Callable[..., PynqDevice]) -> None:
    """Lines that hold other bytes too are read from memory first."""
    board = Board()
    device = opened(board)
    address = device.allocate(8000)
    (buffer,) = board.buffers
    assert buffer.nbytes == 8192 and address == ADDRESS
    for start, size, expected in (
        (0, 64, [("flush", 64)]), (64, 128, [("flush", 128)]), (1, 63, [("invalidate", 64), ("flush", 64)]),
        (0, 65, [("invalidate", 64), ("flush", 128)]), (70, 100, [("invalidate", 64), ("invalidate", 64), ("flush", 128)]),
        (8191, 1, [("invalidate", 64), ("flush", 64)]),
    ):
        buffer.walked.clear()
        data = np.full(size, start % 250 + 1, np.uint8)
        device.write(address + start, data)
        assert buffer.walked == expected and np.array_equal(buffer[start : start + size], data)
    buffer.walked.clear()
    assert np.array_equal(device.read(address + 60, 10), buffer[60:70]) and buffer.walked == [("invalidate", 128)]
    before = device.synchronised_bytes
    device.write(address, np.zeros(0, np.uint8))
    assert device.synchronised_bytes == before, "nothing to write"
    device.view(address + 128, 64)
    assert device.synchronised_bytes == before + 8192, "XRT walks the whole buffer"
    buffer.walked.clear()
    device.fill(address, 5000, lambda window: window.fill(9))
    assert (buffer[:5000] == 9).all() and not (buffer[5000:8191] == 9).any() and buffer.walked == [("flush", 8192)]
    device.close()
    assert buffer.walked[-1] == ("free", 8192)


def test_bytes_in_no_buffer(opened: Callable[..., PynqDevice]) -> None:
    device = opened(Board())
    first, second = device.allocate(1), device.allocate(4097)
    assert second == first + 0x10_0000 and device.read(first, 4096).size == 4096 and device.read(second, 8192).size == 8192
    low = Board()
    low.next = 4096
    other = opened(low)
    other.write(other.allocate(3 * 4096) + 2 * 4096, np.ones(5, np.uint8))
    assert np.flatnonzero(low.buffers[0]).tolist() == list(range(8192, 8197)), "beyond twice its address"
    for address, size in ((first - 1, 1), (first, 4097), (first + 4096, 1), (second + 8191, 2)):
        with pytest.raises(HwgenError, match="lie in no buffer of this device"):
            device.read(address, size)
    with pytest.raises(ValueError, match="address must be that of a buffer"):
        device.fill(first + 64, 1, lambda window: None)
    with pytest.raises(ValueError, match="size must be at least 1, not 0"):
        device.allocate(0)


@pytest.mark.parametrize(("address", "fine"), [(ADDRESS, True), (0, False), (ADDRESS + 1, False), (ADDRESS + 2048, False)])
def test_addresses_of_buffers(opened: Callable[..., PynqDevice], address: int, fine: bool) -> None:
    board = Board()
    device = opened(board)
    board.next = address
    if fine:
        assert device.allocate(1) == address
        return
    with pytest.raises(HwgenError, match=f"gave a buffer at address 0x{address:x}"):
        device.allocate(1)


def test_memory_that_a_remote_board_does_not_give(opened: Callable[..., PynqDevice], monkeypatch: pytest.MonkeyPatch) -> None:
    board = Board(remote=True)
    board.files["/proc/meminfo"] = b"MemTotal:  4000000 kB\nCmaTotal:  1024000 kB\nCmaFree:   102400 kB\n"
    device = opened(board, memory_bytes=100 << 20)
    with pytest.raises(HwgenError, match="cannot give 101 MiB of contiguous memory, 100 MiB are free"):
        opened(board, memory_bytes=(100 << 20) + 1)
    monkeypatch.setattr(Buffer, "buffer_id", 0)
    with pytest.raises(HwgenError, match="cannot give 3 MiB of contiguous memory, 100 MiB are free") as caught:
        device.allocate(3 << 20)
    assert "end other programs" in caught.value.fix
    with pytest.raises(HwgenError, match="cannot give 1200 MiB") as caught:
        device.allocate(1200 << 20)
    assert caught.value.fix.startswith("boot with cma=1232M: on Kria")
    seven = Board(remote=True, arch="armv7l")
    seven.files["/proc/meminfo"] = b"MemTotal:  512000 kB\nCmaTotal:  131072 kB\nCmaFree:   102400 kB\n"
    with pytest.raises(HwgenError, match="cannot give 200 MiB") as caught:
        opened(seven, memory_bytes=200 << 20)
    assert caught.value.fix.startswith("boot with cma=232M: echo")
    with pytest.raises(HwgenError, match="more than PYNQ's remote protocol can allocate"):
        device.allocate((1 << 31) - 4095)
    local = opened(Board())
    assert local.allocate(1) == ADDRESS, "the number of a buffer says nothing on the board itself"
    assert PynqMemory._memory_row(device, "CmaTotal") == 1024 * 1024000 and PynqMemory._memory_row(device, "Cma") is None


def test_what_cma_should_be() -> None:
    """Buffers and 32 MiB, in steps of 4; at most what is below 2 GiB without 200 MiB."""
    mib = 1 << 20
    assert [cma_wanted(size) for size in (mib, 4 * mib, 4 * mib + 1, 1000 * mib)] == [36, 36, 40, 1032]
    assert [cma_limit(size * mib) for size in (100, 200, 512, 2048, 4096)] == [0, 0, 312, 1848, 1848]


# ---- what goes wrong -------------------------------------------------------------------------------------------------
class Failure(grpc.RpcError):
    def __init__(self, code: str) -> None:
        self.code, self.details = (lambda: SimpleNamespace(name=code)), (lambda: "why")


@pytest.mark.parametrize(("error", "kind", "message"), [
    (Failure("DEADLINE_EXCEEDED"), DeviceTimeout, "the board at 1.2.3.4 did not answer a call in time"),
    (Failure("NOT_FOUND"), HwgenError, "refuses: why"), (Failure("INVALID_ARGUMENT"), HwgenError, "refuses: why"),
    (Failure("UNAVAILABLE"), HwgenError, "answers no more .UNAVAILABLE.: why"), (OSError("one\ntwo"), HwgenError, "reports: one"),
    (RuntimeError("r"), HwgenError, "reports: r"), (ValueError("v"), HwgenError, "reports: v"), (KeyError("k"), KeyError, "k"),
    (HwgenError("usage", "mine"), HwgenError, "^mine"),
])
def test_errors_of_a_remote_board(
    opened: Callable[..., PynqDevice], monkeypatch: pytest.MonkeyPatch, error: Exception, kind: type, message: str
) -> None:
    board = Board(remote=True)
    device = opened(board)
    monkeypatch.setattr(board, "read", lambda offset: (_ for _ in ()).throw(error))
    with pytest.raises(kind, match=message):
        device.read_register(0)
    assert is_lost(error, True) == isinstance(error, Failure) and not is_lost(error, False)


@pytest.mark.parametrize(("remote", "message"), [(False, "PYNQ needs root"), (True, "the board at 1.2.3.4 reports: .*Permission")])
def test_what_this_machine_lacks(
    opened: Callable[..., PynqDevice], monkeypatch: pytest.MonkeyPatch, remote: bool, message: str
) -> None:
    """An error of a board across the network says nothing of this one."""
    board = Board(remote=remote)
    device = opened(board)
    error = PermissionError(13, "Permission denied", "/dev/mem")
    monkeypatch.setattr(board, "read", lambda offset: (_ for _ in ()).throw(error))
    with pytest.raises(HwgenError, match=message):
        device.read_register(0)
