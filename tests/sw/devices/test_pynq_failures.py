"""The device on PYNQ when something is wrong: the board, the overlay, a pass, the connection."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hwgen.errors import HwgenError
from hwgen.registers import Control, Status, register
from hwgen.sim.board.board import ACCELERATOR_BASE, FPGA_MANAGER, LEDS_BASE, VirtualBoard
from hwgen.sw.devices.device import DeviceTimeout
from hwgen.sw.devices.virtual_board import hwh_text, write_overlay
from hwgen.sw.devices.watch import WatchLimits
from hwgen.sw.runtime.engine import Engine, Run
from hwgen.sw.runtime.generation import Generation
from hwgen.sw.runtime.pages import Session
from tests.golden_answers import NEW_TOKENS, generate
from tests.virtual_board import BOARD, CONFIG, PROMPT, image, require_pynq, require_remote, subprocess_board

require_pynq()

import pynq

from hwgen.sim.board.local import SimulatedDevice
from hwgen.sw.devices.pynq import PynqDevice

if TYPE_CHECKING:
    from hwgen.sim.board.server import BoardServer

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of PYNQ's own code
    pytest.mark.usefixtures("active_device"),
]

ROOT = Path(__file__).parents[3]


# ---- the wrong thing ---------------------------------------------------------------------------------------------
def test_wrong_board(opened: Callable[..., PynqDevice]) -> None:
    with pytest.raises(HwgenError, match="is a small-simulated, the build is for kv260"):
        opened(board="kv260")
    opened(board="Small")


def test_another_build(opened: Callable[..., PynqDevice], tmp_path: Path) -> None:
    other = replace(CONFIG, name="other", ring_beats=128)
    with pytest.raises(HwgenError, match=r"simulates configuration 'system'.*is of 'other'"):
        opened(config=other)
    opened()
    with pytest.raises(HwgenError, match="contract hash") as caught:
        opened(config=other, overlay=write_overlay(BOARD, tmp_path), download=False)
    assert caught.value.kind == "contract"


def test_wrong_overlay(opened: Callable[..., PynqDevice], tmp_path: Path) -> None:
    bit = write_overlay(BOARD, tmp_path)
    text = bit.with_suffix(".hwh").read_text()

    def attempt(changed: str, match: str) -> None:
        path = tmp_path / f"n{abs(hash(match))}" / "small.bit"
        path.parent.mkdir()
        from hwgen.sim.board.bitstream import make_bitstream

        path.with_suffix(".hwh").write_text(changed)
        path.write_bytes(make_bitstream(CONFIG, changed))
        with pytest.raises(HwgenError, match=match):
            opened(overlay=path)

    attempt(text.replace("hwgen:hwgen:accelerator:1.0", "acme:ip:toaster:1.0"), r"no hwgen accelerator; it has .*acme:ip:toaster")
    slow = replace(BOARD, part="xc7z020clg400-1")
    seven = hwh_text(slow, base_address=ACCELERATOR_BASE, leds_address=LEDS_BASE)
    attempt(seven, r"is for a board with processing_system7, .* has zynq_ultra_ps_e")
    attempt(hwh_text(BOARD, base_address=LEDS_BASE + 0x1000, leds_address=0xA200_0000), "register 0 reads 0x00000000")
    attempt(hwh_text(BOARD, base_address=0xB000_0000, leds_address=LEDS_BASE), "bus error at 0xb0000000")
    with pytest.raises(HwgenError, match=r"nowhere\.bit does not exist"):
        opened(overlay=tmp_path / "nowhere.bit")
    bit.with_suffix(".hwh").unlink()
    with pytest.raises(HwgenError, match=r"small\.hwh does not exist"):
        opened(overlay=bit)


def test_attaching(opened: Callable[..., PynqDevice], board: VirtualBoard, tmp_path: Path) -> None:
    bit = write_overlay(BOARD, tmp_path)
    state = board.read_file(FPGA_MANAGER + "state")
    board.write_file(FPGA_MANAGER + "state", b"unknown\n")
    with pytest.raises(HwgenError, match="no bitstream is loaded: the FPGA manager says 'unknown'"):
        opened(overlay=bit, download=False)
    assert state is not None
    board.write_file(FPGA_MANAGER + "state", state)
    opened(overlay=bit)
    loads = board.loads
    device = opened(overlay=bit, download=False)
    assert board.loads == loads
    assert generate(device, 1)[0]


def test_an_overlay_that_the_user_loaded(board: VirtualBoard, tmp_path: Path) -> None:
    target = pynq.Device.active_device = SimulatedDevice(board)  # on a board it is there; PYNQ 3.0 sets the clocks of no other
    overlay = pynq.Overlay(str(write_overlay(BOARD, tmp_path)), device=target)
    device = PynqDevice(CONFIG, overlay=overlay, target=target)
    driver = device.driver
    assert driver is overlay.accelerator
    assert driver.read_register("MAGIC") == int(driver.register_map.MAGIC)
    driver.write_register("RUNS", 17)
    assert driver.register_map.RUNS[31:0] == 17
    with pytest.raises(KeyError):
        driver.read_register("TOASTER")


def test_nobody_answers() -> None:
    require_remote()
    with pytest.raises(HwgenError, match=r"no board answers at 127\.0\.0\.1:9"):
        PynqDevice(CONFIG, address="127.0.0.1:9")
    with pytest.raises(HwgenError, match="'port' in 'host:port' is not a port"):
        PynqDevice(CONFIG, address="host:port")


@pytest.mark.skipif(importlib.util.find_spec("pynq.remote") is not None, reason="PYNQ has a remote protocol since 3.1")
def test_no_remote_protocol() -> None:
    with pytest.raises(HwgenError, match="a board across the network needs") as caught:
        PynqDevice(CONFIG, address="127.0.0.1:9")
    assert "pynq>=3.1" in caught.value.fix


def test_no_pynq() -> None:
    code = """
import sys
sys.modules["pynq"] = None
from hwgen.config import BuildConfig
from hwgen.errors import HwgenError
from hwgen.sw.devices.open import open_device
try:
    open_device("pynq", BuildConfig())
except HwgenError as error:
    print(error.kind, error)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.startswith("tool ") and "[pynq]" in result.stdout


def test_an_old_firmware_file_of_the_same_name(server: BoardServer, board: VirtualBoard) -> None:
    """PYNQ alone would load it again instead of the new one."""
    board.write_file("/lib/firmware/small.bin", b"what was there before")
    PynqDevice(CONFIG, address=f"127.0.0.1:{server.port}").close()


# ---- passes that go wrong ----------------------------------------------------------------------------------------
def test_axi_error(opened: Callable[..., PynqDevice], board: VirtualBoard) -> None:
    """Logits go where no memory is; the pass after it is fine."""
    device = opened()
    engine = Engine(device, image())
    engine.forward(Session(), PROMPT)  # what registers hold is not written again
    high = register(CONFIG, "LOGITS_HIGH").offset
    device.write_register(high, 0x7F)
    with pytest.raises(HwgenError, match="memory port 0 answered a write with response [23]"):
        engine.forward(Session(), PROMPT, write_logits=True)
    assert "AXI error: write on port 0, response" in device.describe_state()
    device.write_register(high, 0)
    assert engine.forward(Session(), PROMPT, write_logits=True).candidates
    assert "no AXI error" in device.describe_state()
    board.accelerator.clear_records()


def test_a_machine_that_stands_still(
    opened: Callable[..., PynqDevice], board: VirtualBoard, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = opened(limits=WatchLimits(silence=0.3))
    engine = Engine(device, image())
    monkeypatch.setattr(board, "_advance", lambda: None)
    registers = register(CONFIG, "COUNT_CYCLES").offset
    read = board.read_word
    monkeypatch.setattr(board, "read_word", lambda at: 5 if at == ACCELERATOR_BASE + registers else read(at))
    runs = [Run(Session(), PROMPT, 1)]
    begin = time.monotonic()
    engine.start(runs)
    with pytest.raises(DeviceTimeout, match=r"the fabric clock has stopped; STATUS BUSY, operator \d+ \(") as caught:
        engine.finish(runs)
    assert time.monotonic() - begin < 5
    assert "stream_beats" in caught.value.state and "port 0:" in caught.value.state
    monkeypatch.undo()
    assert generate(opened(), 1)[0]


def test_as_if_the_board_were_real(board: VirtualBoard, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without the name of a virtual board the wall counts, and the fabric is found to be far too slow."""
    target = SimulatedDevice(board)
    target.name = "edge"
    monkeypatch.setenv("BOARD", "KV260")
    # Many short looks at the counter in a pass, or none is precise enough to be believed.
    monkeypatch.setattr("hwgen.sim.board.board.STEP_SECONDS", 1e-6)
    monkeypatch.setattr("hwgen.sim.board.board.STEP_CYCLES", 20)
    bit = write_overlay(BOARD, tmp_path)
    with pytest.raises(HwgenError, match="the board is a KV260, the build is for zcu104"):
        PynqDevice(CONFIG, overlay=bit, target=target, board="zcu104")
    with pytest.raises(HwgenError, match="no overlay is given"):
        PynqDevice(CONFIG, target=target)
    device = PynqDevice(CONFIG, overlay=bit, target=target, board="kv260")
    assert not device.simulated and device.measured_mhz is None
    with pytest.raises(HwgenError, match=r"the fabric clock runs at \d\.\d MHz, the build is made for 250 MHz"):
        engine = Engine(device, image())
        for _ in range(50):  # a pass during which this process waits for the processor measures nothing
            session = Session()
            engine.forward(session, PROMPT)
            engine.pages.close(session)
    assert device.measured_mhz is not None and 0 < device.measured_mhz < 10
    device.close()


def test_a_doorbell_that_nobody_rang(opened: Callable[..., PynqDevice]) -> None:
    device = opened()
    with pytest.raises(DeviceTimeout, match="no pass is running"):
        device.wait(60.0)


def test_an_interrupt_is_waited_for(
    board: VirtualBoard, expected: tuple[list[int], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The design's interrupt as PYNQ gives it: an object whose ``wait`` is a coroutine."""
    import asyncio

    # Short looks, or a pass is over before anybody waits.
    monkeypatch.setattr("hwgen.sim.board.board.STEP_SECONDS", 1e-4)
    device = PynqDevice(CONFIG, target=SimulatedDevice(board))
    waits = []

    class Interrupt:
        async def wait(self) -> None:
            waits.append(1)
            if len(waits) % 2:  # every second one is lost
                await asyncio.sleep(3600)

    device.driver.irq = Interrupt()
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        assert generate(device) == expected
        assert len(waits) > NEW_TOKENS

        async def notebook() -> tuple[list[int], list[int]]:
            return generate(device)

        before = len(waits)
        assert loop.run_until_complete(notebook()) == expected  # polled: the loop is taken
        assert len(waits) == before
    finally:
        asyncio.set_event_loop(None)
        loop.close()
    device.close()


# ---- a board or a host that is gone ------------------------------------------------------------------------------
def test_a_call_that_is_never_answered(server: BoardServer, board: VirtualBoard, monkeypatch: pytest.MonkeyPatch) -> None:
    device = PynqDevice(CONFIG, address=f"127.0.0.1:{server.port}", call_seconds=1.0)
    release = threading.Event()
    monkeypatch.setattr(board, "read_word", lambda at: release.wait(20) and 0)
    begin = time.monotonic()
    with pytest.raises(DeviceTimeout, match="did not answer a call in time"):
        device.wait(60.0)
    assert time.monotonic() - begin < 5
    release.set()


def test_the_server_is_killed() -> None:
    with subprocess_board() as (process, port):
        device = PynqDevice(CONFIG, address=f"127.0.0.1:{port}")
        engine = Engine(device, image())
        generation = iter(Generation(engine, PROMPT, 50))
        assert next(generation)
        process.send_signal(signal.SIGKILL)
        begin = time.monotonic()
        with pytest.raises(HwgenError, match=r"answers no more \(UNAVAILABLE\)") as caught:
            for _ in generation:
                pass
        assert time.monotonic() - begin < 10
        assert caught.value.kind == "device"
        device.close()  # nothing to give back, and no second error


CLIENT = """
import os, signal, sys
from hwgen.sw.runtime.engine import Engine, Run
from hwgen.sw.runtime.pages import Session
from hwgen.sw.devices.pynq import PynqDevice
from tests.virtual_board import CONFIG, PROMPT, image
device = PynqDevice(CONFIG, address=sys.argv[1])
Engine(device, image()).start([Run(Session(), PROMPT, 1)])
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_host_is_killed(
    server: BoardServer, board: VirtualBoard, expected: tuple[list[int], list[int]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In the middle of a pass. The next host attaches, stops it and goes on; one that loads the bitstream gets back the memory
    too."""
    address = f"127.0.0.1:{server.port}"
    write, advance, control = board.write_word, board._advance, ACCELERATOR_BASE + register(CONFIG, "CONTROL").offset
    status = ACCELERATOR_BASE + register(CONFIG, "STATUS").offset

    def write_word(at: int, value: int) -> None:
        runs = board.accelerator.read_register(status - ACCELERATOR_BASE) & Status.BUSY
        write(at, value)
        if at == control and value & Control.STOP and runs:
            monkeypatch.setattr(board, "_advance", advance)

    # Time stands until the pass is stopped: a quick computer would have ended it before.
    monkeypatch.setattr(board, "_advance", lambda: None)
    monkeypatch.setattr(board, "write_word", write_word)
    result = subprocess.run([sys.executable, "-c", CLIENT, address], cwd=ROOT)
    assert result.returncode == -signal.SIGKILL
    assert board.accelerator.read_register(status - ACCELERATOR_BASE) == 1
    device = PynqDevice(CONFIG, address=address, overlay=write_overlay(BOARD, tmp_path), download=False)
    assert Status.STOPPED in Status(board.accelerator.read_register(status - ACCELERATOR_BASE))
    assert generate(device) == expected
    device.close()
    assert board.contiguous.free_bytes < board.contiguous.size
    PynqDevice(CONFIG, address=address)
    assert board.contiguous.free_bytes == board.contiguous.size


def test_a_pass_of_an_earlier_host_that_never_ends(
    server: BoardServer, board: VirtualBoard, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    address = f"127.0.0.1:{server.port}"
    device = PynqDevice(CONFIG, address=address)
    Engine(device, image()).start([Run(Session(), PROMPT, 1)])
    monkeypatch.setattr("hwgen.sw.devices.pass_stop.STOP_SECONDS", 0.2)
    write, control = board.write_word, ACCELERATOR_BASE + register(CONFIG, "CONTROL").offset
    monkeypatch.setattr(board, "_advance", lambda: None)
    monkeypatch.setattr(board, "write_word", lambda at, value: None if at == control else write(at, value))
    options: dict[str, Any] = {"address": address, "overlay": write_overlay(BOARD, tmp_path)}
    with pytest.raises(HwgenError, match="a pass of an earlier host goes on: the machine does not stop") as caught:
        PynqDevice(CONFIG, download=False, **options)
    assert "without --attach" in caught.value.fix
    monkeypatch.undo()
    PynqDevice(CONFIG, **options).close()
