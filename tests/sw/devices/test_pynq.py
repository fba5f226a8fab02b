"""The device on PYNQ itself, unmodified: a virtual board in process, and one behind PYNQ's remote protocol."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwgen.errors import HwgenError
from hwgen.registers import register
from hwgen.sim.board import VirtualBoard
from hwgen.sim.board.board import ACCELERATOR_BASE, FPGA_MANAGER, LEDS_BASE
from hwgen.sw.devices.device import Device, DeviceTimeout
from hwgen.sw.devices.golden import GoldenDevice
from hwgen.sw.devices.open import open_device
from hwgen.sw.devices.virtual_board import hwh_text, write_overlay
from hwgen.sw.devices.watch import WatchLimits
from hwgen.sw.runtime.engine import Engine
from hwgen.sw.runtime.generation import Generation
from hwgen.sw.runtime.kv_arrays import with_cache_tokens
from hwgen.sw.runtime.pages import Session
from hwgen.sw.runtime.scheduler import Job, Scheduler
from tests.system.small import MEMORY_BYTES, SmallDevice
from tests.virtual_board import BOARD, CONFIG, PROMPT, image, new_board, require_pynq, subprocess_board

require_pynq()

import pynq  # noqa: E402

from hwgen.rounding import align  # noqa: E402
from hwgen.sim.board.local import SimulatedDevice  # noqa: E402
from hwgen.sim.board.server import BoardServer  # noqa: E402
from hwgen.sw.devices.pynq import PynqDevice, overlay_lock  # noqa: E402

#: Of PYNQ's own code.
pytestmark = pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecatedSince20")

ROOT = Path(__file__).parents[3]
NEW_TOKENS = 3


@pytest.fixture(scope="module")
def board() -> VirtualBoard:
    return new_board()


@pytest.fixture(scope="module")
def server(board: VirtualBoard) -> Iterator[BoardServer]:
    with BoardServer(board, port=0) as server:
        yield server


@pytest.fixture(autouse=True)
def active_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave PYNQ's choice of a device as it was."""
    monkeypatch.setattr(pynq.Device, "_active_device", None, raising=False)


@pytest.fixture(params=["in process", "remote"])
def opened(request: pytest.FixtureRequest, board: VirtualBoard) -> Iterator[Callable[..., PynqDevice]]:
    """Opens the board either way; closes what was opened."""
    devices: list[PynqDevice] = []
    remote = request.param == "remote"
    place: dict[str, Any] = (
        {"address": f"127.0.0.1:{request.getfixturevalue('server').port}"} if remote else {"target": SimulatedDevice(board)}
    )

    def make(**options: Any) -> PynqDevice:
        devices.append(PynqDevice(options.pop("config", CONFIG), **place, **options))
        return devices[-1]

    yield make
    for device in devices:
        device.close()


def generate(device: Device, tokens: int = NEW_TOKENS) -> tuple[list[int], list[int]]:
    """Tokens that the model answers, and the bits of its last logits."""
    engine = Engine(device, image())
    answer = [item.token for item in Generation(engine, PROMPT, tokens)]
    engine.forward(Session(), PROMPT, write_logits=True)
    return answer, engine.logits().view(np.uint32).tolist()


# ---- the same host code everywhere -------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def expected() -> tuple[list[int], list[int]]:
    return generate(GoldenDevice(CONFIG, memory_bytes=MEMORY_BYTES))


@pytest.mark.parametrize("where", ["verilated", "pynq in process", "pynq remote"])
def test_equal_tokens_everywhere(
    where: str, board: VirtualBoard, server: BoardServer, expected: tuple[list[int], list[int]]
) -> None:
    """One program, three devices: tokens and the bits of every logit are those of golden."""
    device: Device
    if where == "verilated":
        device = SmallDevice()
    elif where == "pynq in process":
        device = PynqDevice(CONFIG, target=SimulatedDevice(board))
    else:
        device = PynqDevice(CONFIG, address=f"127.0.0.1:{server.port}")
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

    def answers(device: Device) -> tuple[list[list[int]], int]:
        engine = Engine(device, with_cache_tokens(image(), 64))
        tokens: list[list[int]] = [[], []]
        scheduler = Scheduler(engine)
        for number, (prompt, count) in enumerate((([3], 6), (PROMPT, 1))):
            job = Job(Generation(engine, prompt, count), lambda item, to=tokens[number]: to.append(item.token), lambda error: None)  # type: ignore[misc]
            scheduler.submit(job)
        most = 0
        while scheduler.step():
            most = max(most, sum(engine.is_suspended(job.sliced) for job in scheduler._running))
        return tokens, most

    wanted, suspended = answers(GoldenDevice(CONFIG, memory_bytes=MEMORY_BYTES))
    assert suspended == 1 and [len(part) for part in wanted] == [6, 1]
    assert answers(opened()) == (wanted, 1)
    assert not board.accelerator.violation_count and not board.accelerator.error_count


def test_zynq_7000(expected: tuple[list[int], list[int]], tmp_path: Path) -> None:
    """The other family: its clock registers, and a name that PYNQ spells in its own way."""
    board = new_board("Pynq-Z2", arch="armv7l")
    slow = replace(BOARD, name="pynq_z2", part="xc7z020clg400-1", config=replace(CONFIG, clock_mhz=100.0))
    with BoardServer(board, port=0) as server:
        address = f"127.0.0.1:{server.port}"
        device = PynqDevice(slow.config, address=address, overlay=write_overlay(slow, tmp_path), board="pynq_z2")
        assert round(pynq.Clocks.fclk0_mhz) == 100
        assert generate(device, 1)[0] == expected[0][:1]
        device.close()
        PynqDevice(slow.config, address=address).close()


def test_clocks_of_a_second_board(board: VirtualBoard, server: BoardServer) -> None:
    """PYNQ keeps the clocks of the first device it used; opening another one must not reach back to that."""
    with BoardServer(new_board("other"), port=0) as first:
        PynqDevice(CONFIG, address=f"127.0.0.1:{first.port}").close()
    PynqDevice(CONFIG, address=f"127.0.0.1:{server.port}").close()
    clock = 0xFF5E_00C0
    board.write_word(clock, board.read_word(clock) | 15 << 8)
    PynqDevice(CONFIG, target=SimulatedDevice(board)).close()
    assert board.read_word(clock) >> 8 & 0x3F == 6  # 250 MHz of 1500


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


def test_the_cpu_moves_the_bytes_it_must_and_never_the_cache_of_keys(board: VirtualBoard) -> None:
    target = SimulatedDevice(board)
    moved: dict[str, list[tuple[int, int]]] = {"flush": [], "invalidate": []}

    def record(name: str) -> Callable[..., None]:
        original: Callable[..., None] = getattr(target, name)

        def wrapper(address: int, offset: int, pointer: int, size: int) -> None:
            moved[name].append((address + offset, size))
            original(address, offset, pointer, size)

        return wrapper

    for name in moved:
        setattr(target, name, record(name))
    device = PynqDevice(CONFIG, target=target)
    engine = Engine(device, image())
    program = image().symbols["program"]
    sizes = [align(size, 64) for size in (image().data.size, len(image().program(0)))]
    slices = image().symbols["slices"]
    places = (engine.base, engine.base + program.offset, engine.base + slices.offset)
    assert moved == {"flush": list(zip(places, (*sizes, slices.bytes), strict=True)), "invalidate": []}
    for _ in Generation(engine, PROMPT, NEW_TOKENS):
        pass
    engine.forward(Session(), PROMPT, write_logits=True)
    assert len(moved["flush"]) == 3 and not moved["invalidate"]
    engine.logits()
    logits = image().symbols["logits"]
    assert moved["invalidate"] == [(engine.base + logits.offset, align(logits.bytes, 64))]
    device.close()


def test_memory_that_is_not_there(opened: Callable[..., PynqDevice], board: VirtualBoard) -> None:
    with pytest.raises(HwgenError, match=r"cannot give 1024 MiB of contiguous memory, \d+ MiB are free") as caught:
        opened(memory_bytes=1 << 30)
    assert "cma=2048M" in caught.value.fix
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
        from hwgen.sim.board import make_bitstream

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
    target = SimulatedDevice(board)
    overlay = pynq.Overlay(str(write_overlay(BOARD, tmp_path)), device=target)
    device = PynqDevice(CONFIG, overlay=overlay, target=target)
    driver = device.driver
    assert driver is overlay.accelerator
    assert driver.read_register("MAGIC") == int(driver.register_map.MAGIC)
    driver.write_register("POSITION", 17)
    assert driver.register_map.POSITION[31:0] == 17
    with pytest.raises(KeyError):
        driver.read_register("TOASTER")


def test_nobody_answers() -> None:
    with pytest.raises(HwgenError, match=r"no board answers at 127\.0\.0\.1:9"):
        PynqDevice(CONFIG, address="127.0.0.1:9")
    with pytest.raises(HwgenError, match="'port' in 'host:port' is not a port"):
        PynqDevice(CONFIG, address="host:port")


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
    assert result.stdout.startswith("tool ") and "hwgen[pynq]" in result.stdout


def test_an_old_firmware_file_of_the_same_name(server: BoardServer, board: VirtualBoard) -> None:
    """PYNQ alone would load it again instead of the new one."""
    board.write_file("/lib/firmware/small.bin", b"what was there before")
    PynqDevice(CONFIG, address=f"127.0.0.1:{server.port}").close()


# ---- passes that go wrong ----------------------------------------------------------------------------------------
def test_axi_error(opened: Callable[..., PynqDevice], board: VirtualBoard) -> None:
    """Logits go where no memory is; the pass after it is fine."""
    device = opened()
    engine = Engine(device, image())
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
    session = Session()
    begin = time.monotonic()
    engine.start(session, PROMPT, logits=True)
    with pytest.raises(DeviceTimeout, match=r"the fabric clock has stopped; STATUS BUSY, operator \d+ \(") as caught:
        engine.finish(len(PROMPT), logits=True)
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
from hwgen.sw.runtime.engine import Engine
from hwgen.sw.runtime.pages import Session
from hwgen.sw.devices.pynq import PynqDevice
from tests.virtual_board import CONFIG, PROMPT, image
device = PynqDevice(CONFIG, address=sys.argv[1])
Engine(device, image()).start(Session(), PROMPT, logits=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_host_is_killed(
    server: BoardServer, board: VirtualBoard, expected: tuple[list[int], list[int]], tmp_path: Path
) -> None:
    """In the middle of a pass. The next host attaches, waits for its end and goes on; one that loads the bitstream gets
    back the memory too."""
    address = f"127.0.0.1:{server.port}"
    result = subprocess.run([sys.executable, "-c", CLIENT, address], cwd=ROOT)
    assert result.returncode == -signal.SIGKILL
    status = ACCELERATOR_BASE + register(CONFIG, "STATUS").offset
    assert board.accelerator.read_register(status - ACCELERATOR_BASE) == 1
    device = PynqDevice(CONFIG, address=address, overlay=write_overlay(BOARD, tmp_path), download=False)
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
    Engine(device, image()).start(Session(), PROMPT, logits=True)
    monkeypatch.setattr(board, "_advance", lambda: None)
    read, counter = board.read_word, ACCELERATOR_BASE + register(CONFIG, "COUNT_CYCLES").offset
    monkeypatch.setattr(board, "read_word", lambda at: 5 if at == counter else read(at))
    options: dict[str, Any] = {"address": address, "overlay": write_overlay(BOARD, tmp_path)}
    with pytest.raises(HwgenError, match="a pass of an earlier host never ended") as caught:
        PynqDevice(CONFIG, download=False, limits=WatchLimits(silence=0.2), **options)
    assert "without --attach" in caught.value.fix
    monkeypatch.undo()
    PynqDevice(CONFIG, **options).close()


# ---- PYNQ without hwgen ------------------------------------------------------------------------------------------
def test_selftest(server: BoardServer, tmp_path: Path) -> None:
    """Every step of PYNQ's own test of a remote board, as its users run it."""
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
    with BoardServer(board, host=host), overlay_lock():
        result = subprocess.run(
            [sys.executable, "-c", PLAIN.format(bit=str(bit))], capture_output=True, text=True, env=environment
        )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == ["True 0x6e677768", f"10 {2100 * 2099 // 2} 250 1500"]
