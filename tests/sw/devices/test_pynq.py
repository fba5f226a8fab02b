"""The device on PYNQ itself, unmodified: a virtual board in process, and one behind PYNQ's remote protocol."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from hwgen.errors import HwgenError
from hwgen.sim.board.board import VirtualBoard
from hwgen.sw.devices.device import Device
from hwgen.sw.devices.fabric_clock import fabric_mhz
from hwgen.sw.devices.open import open_device
from hwgen.sw.devices.virtual_board import write_overlay
from tests.golden_answers import generate, generate_together, golden_answer
from tests.system.small import SmallDevice
from tests.virtual_board import BOARD, CONFIG, new_board, require_pynq, serve_board

require_pynq()

import pynq

from hwgen.sim.board.local import SimulatedDevice
from hwgen.sw.devices.pynq import PynqDevice, overlay_lock

if TYPE_CHECKING:
    from hwgen.sim.board.server import BoardServer

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of PYNQ's own code
    pytest.mark.usefixtures("active_device"),
]


# ---- the same host code everywhere -------------------------------------------------------------------------------
@pytest.mark.parametrize("where", ["verilated", "pynq in process", "pynq remote"])
def test_equal_tokens_everywhere(
    where: str, board: VirtualBoard, expected: tuple[list[int], list[int]], request: pytest.FixtureRequest
) -> None:
    """One program, three devices: tokens and the bits of every logit are those of golden."""
    device: Device
    if where == "verilated":
        device = SmallDevice()
    elif where == "pynq in process":
        device = PynqDevice(CONFIG, target=SimulatedDevice(board))
    else:
        device = PynqDevice(CONFIG, address=f"127.0.0.1:{request.getfixturevalue('server').port}")
    assert generate(device) == expected
    if isinstance(device, PynqDevice):
        device.close()


def test_board(opened: Callable[..., PynqDevice], expected: tuple[list[int], list[int]], board: VirtualBoard) -> None:
    device = opened()
    assert device.simulated and device.name == "pynq"
    assert generate(device) == expected
    assert not board.accelerator.violation_count and not board.accelerator.error_count


def test_a_prompt_makes_way_for_decoding(opened: Callable[..., PynqDevice], board: VirtualBoard) -> None:
    """Slices are doorbells: the device knows nothing of them."""

    wanted, runs = golden_answer("generate_together")
    assert runs == 2 and [len(part) for part in wanted] == [6, 1]
    assert generate_together(opened()) == (wanted, 2)
    assert not board.accelerator.violation_count and not board.accelerator.error_count


def test_zynq_7000(expected: tuple[list[int], list[int]], tmp_path: Path) -> None:
    """The other family: its clock registers, and a name that PYNQ spells in its own way."""
    board = new_board("Pynq-Z2", arch="armv7l")
    slow = replace(BOARD, name="pynq_z2", part="xc7z020clg400-1", config=replace(CONFIG, clock_mhz=100.0))
    with serve_board(board, port=0) as server:
        address = f"127.0.0.1:{server.port}"
        device = PynqDevice(slow.config, address=address, overlay=write_overlay(slow, tmp_path), board="pynq_z2")
        assert round(pynq.Clocks.fclk0_mhz) == 100
        assert fabric_mhz("processing_system7", board.read_word) == pytest.approx(pynq.Clocks.fclk0_mhz)
        assert generate(device, 1)[0] == expected[0][:1]
        device.close()
        PynqDevice(slow.config, address=address).close()


def test_clocks_of_a_second_board(board: VirtualBoard, server: BoardServer) -> None:
    """PYNQ keeps the clocks of the first device it used; opening another one must not reach back to that."""
    with serve_board(new_board("other"), port=0) as first:
        PynqDevice(CONFIG, address=f"127.0.0.1:{first.port}").close()
    PynqDevice(CONFIG, address=f"127.0.0.1:{server.port}").close()
    clock = 0xFF5E_00C0
    board.write_word(clock, board.read_word(clock) | 15 << 8)
    PynqDevice(CONFIG, target=SimulatedDevice(board)).close()
    assert board.read_word(clock) >> 8 & 0x3F == 6  # 250 MHz of 1500
    assert fabric_mhz("zynq_ultra_ps_e", board.read_word) == pytest.approx(pynq.Clocks.fclk0_mhz, rel=1e-5)


def test_by_name(board: VirtualBoard) -> None:
    with pytest.raises(HwgenError, match="lie in no buffer"):
        open_device("pynq", CONFIG, target=SimulatedDevice(board)).read(0x1000_0000, 4)


# ---- memory ------------------------------------------------------------------------------------------------------
def test_any_bytes_survive(opened: Callable[..., PynqDevice], board: VirtualBoard) -> None:
    """Random writes of host and accelerator to one buffer; neither loses a byte, whatever cache lines they share."""
    device = opened()
    rng = np.random.default_rng(1)
    size = 1000
    address = device.allocate(size)
    assert address % 4096 == 0
    expected = np.zeros(size, np.uint8)
    device.write(address, expected)
    for step in range(40):
        start = int(rng.integers(size)) if step % 4 else 0
        length = int(rng.integers(1, min(70, size - start) + 1))
        data = rng.integers(0, 256, length, np.uint8)
        expected[start : start + length] = data
        if step % 3:
            device.write(address + start, data)
        else:
            board.memory(address + start, length)[:] = data
        assert (board.memory(address, size) == expected).all()
        start = int(rng.integers(size))
        assert (device.read(address + start, size - start) == expected[start:]).all()
    device.write(address + 3, np.zeros(0, np.uint8))
    for outside in (address - 1, address + 4096):
        with pytest.raises(HwgenError, match="lie in no buffer"):
            device.write(outside, np.zeros(1, np.uint8))
    with pytest.raises(ValueError, match="at least 1, not 0"):
        device.allocate(0)


def test_memory_that_is_not_there(opened: Callable[..., PynqDevice], board: VirtualBoard) -> None:
    with pytest.raises(HwgenError, match=r"cannot give 1024 MiB of contiguous memory, \d+ MiB are free") as caught:
        opened(memory_bytes=1 << 30)
    assert "cma=1056M" in caught.value.fix
    device = opened()
    free = board.contiguous.free_bytes
    with pytest.raises(HwgenError, match=r"cannot give \d+ MiB of contiguous memory, \d+ MiB are free"):
        device.allocate(free + 1)
    assert board.contiguous.free_bytes == free
    device.allocate(free)
    device.close()
    assert board.contiguous.free_bytes == board.contiguous.size


def test_more_than_the_protocol_can_count(server: BoardServer) -> None:
    device = PynqDevice(CONFIG, address=f"127.0.0.1:{server.port}")
    with pytest.raises(HwgenError, match="more than PYNQ's remote protocol can allocate"):
        device.allocate(1 << 31)


# ---- PYNQ without hwgen ------------------------------------------------------------------------------------------
def test_selftest(server: BoardServer, tmp_path: Path) -> None:
    """Every step of PYNQ's own test of a remote board, as its users run it."""
    pytest.importorskip("pynq.remote.selftest", reason="PYNQ has a self-test since 4.0")
    bit = write_overlay(BOARD, tmp_path)
    with overlay_lock():
        place = ["--ip", "127.0.0.1", "--port", str(server.port), "--bitstream", str(bit)]
        result = subprocess.run(
            [sys.executable, "-m", "pynq.remote.selftest", *place],
            capture_output=True,
            text=True,
            env={**os.environ, "no_grpc_proxy": "127.0.0.1"},
        )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "summary: 11 passed, 0 failed, 0 skipped" in result.stdout


PLAIN = """
import numpy as np
import pynq
overlay = pynq.Overlay({bit!r})
print(isinstance(overlay.accelerator, pynq.DefaultIP), hex(overlay.accelerator.read(0)))
buffer = pynq.allocate((300, 7), "u4")
buffer[:] = np.arange(2100).reshape(300, 7)
buffer.flush()
word = pynq.MMIO(buffer.device_address + 40, 4).read(0)
buffer[:] = 0
buffer.invalidate()
print(word, int(buffer.sum()), round(pynq.Clocks.fclk0_mhz), round(pynq.Clocks.cpu_mhz))
"""


def test_plain_pynq_finds_the_board(board: VirtualBoard, tmp_path: Path) -> None:
    """PYNQ_REMOTE_DEVICES takes no port, so the board listens on PYNQ's own, at a loopback address of this test's."""
    bit = write_overlay(BOARD, tmp_path)
    pid = os.getpid()
    host = f"127.{1 + pid % 250}.{pid // 250 % 250}.7"
    environment = {**os.environ, "PYNQ_REMOTE_DEVICES": host, "no_grpc_proxy": host}
    with serve_board(board, host=host), overlay_lock():
        result = subprocess.run(
            [sys.executable, "-c", PLAIN.format(bit=str(bit))], capture_output=True, text=True, env=environment
        )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == ["True 0x6e677768", f"10 {2100 * 2099 // 2} 250 1500"]
