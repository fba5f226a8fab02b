"""PYNQ's remote protocol with stand-ins for the service, and what happens around a load with one for the fabric: no simulator."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hwgen.errors import HwgenError
from tests.virtual_board import require_remote

require_remote()  # before what imports gRPC, so that its absence skips this file

import grpc
from pynq.pl_server import global_state

from hwgen.sw.devices import loading, pynq_memory, pynq_remote
from hwgen.sw.devices.loading import loaded_accelerator, reset_ports, set_ports, stop_left_over, unasked_answers
from hwgen.sw.devices.pynq_remote import BoardConnection, add_deadlines, connect, read_buffer, write_buffer

#: What gRPC looks at, in this spelling alone.
NO_PROXY = "no_grpc_proxy"


# ---- calls -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("own", "given"), [(None, 60.0), (5.0, 5.0), (0.0, 0.0)])
def test_calls_without_a_limit_get_one(own: float | None, given: float) -> None:
    """And nothing else of a call changes."""
    details = SimpleNamespace(
        method="/m", timeout=own, metadata=[("a", "b")], credentials="c", wait_for_ready=True, compression=3,
    )
    limit = pynq_remote._Deadline(60.0)
    for intercept in (limit.intercept_unary_unary, limit.intercept_unary_stream, limit.intercept_stream_unary):
        seen, request = intercept(lambda details, request: (details, request), details, "request")
        assert (seen.method, seen.timeout, seen.metadata, seen.credentials) == ("/m", given, [("a", "b")], "c")
        assert (seen.wait_for_ready, seen.compression, request) == (True, 3, "request")


def test_limits_are_given_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """To connections that PYNQ made; ours have them."""
    monkeypatch.setattr(pynq_remote, "_limited", lambda stubs, channel, seconds: (stubs, channel, seconds))
    plain = SimpleNamespace(_stub="stubs", client=SimpleNamespace(channel="channel"))
    add_deadlines(plain)
    assert plain._stub == ("stubs", "channel", 60.0)
    ours: Any = BoardConnection.__new__(BoardConnection)
    ours._limited_stubs = "limited"
    add_deadlines(ours, 3.0)
    assert ours._stub == "limited"
    ours.client, ours._seconds = SimpleNamespace(channel="c"), 7.0
    ours._stub = "new"
    assert ours._stub == ("new", "c", 7.0)


@pytest.mark.parametrize(("address", "host", "port"), [("pynq", "pynq", 7967), ("1.2.3.4:99", "1.2.3.4", 99)])
def test_connect(address: str, host: str, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host joins those that no proxy is asked for, once."""
    made: list[object] = []
    monkeypatch.setattr(pynq_remote, "BoardConnection", lambda host, port, *, seconds: made.append((host, port, seconds)))
    monkeypatch.setenv(NO_PROXY, "a")
    monkeypatch.setenv("no_proxy", "b")
    connect(address)
    connect(address, 3.0)
    assert made == [(host, port, 60.0), (host, port, 3.0)] and os.environ[NO_PROXY] == f"a,b,{host}"
    monkeypatch.delenv(NO_PROXY)
    monkeypatch.delenv("no_proxy")
    connect(address)
    assert os.environ[NO_PROXY] == host


def test_a_board_of_ours_is_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """PYNQ counts remote boards, and gets a limit before the first call."""
    made: list[object] = []
    monkeypatch.setattr(pynq_remote.RemoteDevice, "__init__", lambda self, *given: made.append((*given, self._seconds)))
    BoardConnection(host="h", port=5, seconds=3.0)
    BoardConnection("h")
    assert made == [(0, "h", 5, 3.0), (0, "h", 7967, 60.0)]


@pytest.mark.parametrize("error", [RuntimeError(), grpc.RpcError()])
def test_nobody_there(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pynq_remote, "BoardConnection", lambda host, port, *, seconds: (_ for _ in ()).throw(error))
    monkeypatch.setenv(NO_PROXY, "")
    with pytest.raises(HwgenError, match="no board answers at x:7967") as caught:
        connect("x")
    assert caught.value.kind == "device"
    with pytest.raises(HwgenError, match="'a' in 'x:a' is not a port"):
        connect("x:a")


# ---- bytes -----------------------------------------------------------------------------------------------------------
class Service:
    """The board's side of buffers: sends a buffer from its start in answers of 100 bytes."""

    def __init__(self, content: np.ndarray) -> None:
        self.content, self.sent, self.cancelled, self.received = content, 0, False, list[bytes]()
        self.messages = {"invalidate": "", "write": "", "flush": ""}
        self.options: list[dict[str, float]] = []

    def invalidate(self, request: Any) -> Any:
        return SimpleNamespace(msg=self.messages["invalidate"])

    def read(self, request: Any) -> Any:
        service = self

        class Stream:
            def __iter__(self) -> Any:
                for first in range(0, service.content.size, 100):
                    service.sent += 1
                    yield SimpleNamespace(data=service.content[first : first + 100].tobytes())

            def cancel(self) -> None:
                service.cancelled = True

        assert request.end > request.start
        return Stream()

    def write(self, requests: Any, **options: float) -> Any:
        self.options.append(options)
        for request in requests:
            assert request.buffer_id == "4"
            self.received.append(request.data)
        return SimpleNamespace(msg=self.messages["write"])

    def flush(self, request: Any) -> Any:
        return SimpleNamespace(msg=self.messages["flush"])


def buffer_of(service: Service) -> Any:
    return SimpleNamespace(stub=service, buffer_id="4")


@pytest.mark.parametrize(("start", "size", "answers"), [
    (0, 1, 1), (0, 100, 1), (0, 101, 2), (99, 1, 1), (99, 2, 2), (100, 100, 2), (150, 201, 4), (0, 450, 5), (449, 1, 5),
])
def test_bytes_of_a_remote_buffer(start: int, size: int, answers: int) -> None:
    """No answer more than is wanted is taken."""
    service = Service(np.random.default_rng(1).integers(0, 256, 450).astype(np.uint8))
    found = read_buffer(buffer_of(service), start, size)
    assert np.array_equal(found, service.content[start : start + size]) and (service.sent, service.cancelled) == (answers, True)


def test_a_board_that_sends_too_little_or_refuses() -> None:
    service = Service(np.zeros(450, np.uint8))
    with pytest.raises(RuntimeError, match="the board sent 450 bytes, 451 were expected"):
        read_buffer(buffer_of(service), 400, 51)
    for name in ("invalidate", "write", "flush"):
        service.messages = dict.fromkeys(service.messages, "") | {name: f"{name} failed"}
        with pytest.raises(RuntimeError, match=f"{name} failed"):
            if name == "invalidate":
                read_buffer(buffer_of(service), 0, 1)
            else:
                write_buffer(buffer_of(service), [np.zeros(1, np.uint8)], 1)


def test_bytes_that_went_across_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted from the start of the buffer, where the service begins in any case; a buffer is filled window by window."""
    asked: list[object] = []

    def read(buffer: Any, start: int, size: int) -> np.ndarray:
        asked.append((start, size))
        return np.arange(size, dtype=np.uint8)

    def write(buffer: Any, parts: Any, size: int) -> None:
        asked.append([part.tolist() for part in parts])

    monkeypatch.setattr(pynq_remote, "read_buffer", read)
    monkeypatch.setattr(pynq_remote, "write_buffer", write)
    monkeypatch.setattr(pynq_memory, "WINDOW", 4)
    names = dict.fromkeys(pynq_memory.PynqMemory.__abstractmethods__, lambda self: contextlib.nullcontext())
    device: Any = type("Device", (pynq_memory.PynqMemory,), names)()
    device._remote, device._starts = True, [4096]
    device._holdings = SimpleNamespace(buffers={4096: SimpleNamespace(nbytes=4096)})
    assert device.read(4096 + 30, 12).tolist() == list(range(12)) and device.synchronised_bytes == 42
    device.write(4096, np.array([[5, 6], [7, 8]], np.uint8))
    assert device.synchronised_bytes == 46
    device.fill(4096, 9, lambda window: window.fill(window.size))
    assert asked == [(30, 12), [[5, 6, 7, 8]], [[4] * 4, [4] * 4, [1]]] and device.synchronised_bytes == 55


def test_messages_of_two_mebibytes() -> None:
    """Part by part; what takes long at 2 MB/s gets more time than a call has."""
    service, rng = Service(np.zeros(0, np.uint8)), np.random.default_rng(2)
    parts = [rng.integers(0, 256, size).astype(np.uint8) for size in (5, (2 << 20) + 1, 2 << 20)]
    write_buffer(buffer_of(service), parts, sum(part.size for part in parts))
    assert [len(data) for data in service.received] == [5, 2 << 20, 1, 2 << 20]
    assert b"".join(service.received) == b"".join(part.tobytes() for part in parts)
    write_buffer(buffer_of(service), [], 120_000_000)
    write_buffer(buffer_of(service), [], 120_000_002)
    assert service.options == [{}, {}, {"timeout": 60.000001}]


def test_what_fails_on_this_side_is_told_as_it_is() -> None:
    """gRPC says nothing of the reason."""
    class Lost(Service):
        def write(self, requests: Any, **options: float) -> Any:
            with contextlib.suppress(ZeroDivisionError):
                list(requests)
            raise grpc.RpcError

    def broken() -> Any:
        yield np.zeros(1, np.uint8)
        raise ZeroDivisionError

    service = Lost(np.zeros(0, np.uint8))
    with pytest.raises(ZeroDivisionError):
        write_buffer(buffer_of(service), broken(), 1)
    with pytest.raises(grpc.RpcError):
        write_buffer(buffer_of(service), [], 1)


# ---- around a load ---------------------------------------------------------------------------------------------------
HANDOFF = """<S><MODULES><MODULE INSTANCE="a" VLNV="{kind}"/><MODULE INSTANCE="b" VLNV="x:y:z:1"/></MODULES><R>
<MEMRANGE INSTANCE="b" BASEVALUE="0xB0000000"/><MEMRANGE INSTANCE="a" BASEVALUE="0xA0000000"/></R></S>"""


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Writes what the machine says of its fabric."""
    monkeypatch.setattr(loading, "FPGA_MANAGER", tmp_path)
    monkeypatch.setattr(loading, "TREE_OVERLAYS", tmp_path / "overlays")
    monkeypatch.setattr(global_state, "STATE_DIR", str(tmp_path))

    def write(state: str = "operating", flags: str = "0", kind: str = "hwgen:hwgen:accelerator:1.0", age: float = 5) -> None:
        (tmp_path / "state").write_text(state + "\n")
        (tmp_path / "flags").write_text(flags + "\n")
        (tmp_path / "a.hwh").write_text(HANDOFF.format(kind=kind))
        newest = tmp_path / "global_pl_state_1.json"
        (tmp_path / "global_pl_state_0.json").write_text(json.dumps({"bitfile_name": "/nowhere/b.bit"}))
        newest.write_text(json.dumps({"bitfile_name": str(tmp_path / "a.bit")}))
        os.utime(tmp_path / "global_pl_state_0.json", (500, 500))
        os.utime(newest, (1000, 1000))
        os.utime(tmp_path / "a.hwh", (1000 - age, 1000 - age))

    return write


def test_what_is_loaded(record: Callable[..., None], tmp_path: Path) -> None:
    """The newest record counts, and nothing may contradict it."""
    assert loaded_accelerator() is None
    for fine in ({}, {"flags": "1"}, {"age": 0}, {"kind": "hwgen:hwgen:accelerator:7.3"}):
        record(**fine)
        assert loaded_accelerator() == 0xA000_0000
    for wrong in ({"state": "unknown"}, {"flags": "100"}, {"kind": "hwgen:hwgen:accelerator2:1.0"}, {"age": -1}):
        record(**wrong)
        assert loaded_accelerator() is None
    record()
    (tmp_path / "overlays" / "k").mkdir(parents=True)
    os.utime(tmp_path / "overlays" / "k", (1000, 1000))
    assert loaded_accelerator() == 0xA000_0000
    os.utime(tmp_path / "overlays" / "k", (1001, 1001))
    assert loaded_accelerator() is None
    (tmp_path / "overlays" / "k").rmdir()
    more = HANDOFF.replace("</R>", '<MEMRANGE INSTANCE="a" BASEVALUE="0xC0000000"/></R>')
    (tmp_path / "a.hwh").write_text(more.format(kind="hwgen:hwgen:accelerator:1.0"))
    os.utime(tmp_path / "a.hwh", (1000, 1000))
    assert loaded_accelerator() == 0xA000_0000, "the first of several"


class Words(dict[int, int]):
    """Words by address as PYNQ's MMIO; STATUS is busy for some reads."""

    busy = 0
    writes: list[tuple[int, int]]
    windows: set[tuple[int, int]]

    def window(self, base: int, size: int, device: object) -> Any:
        self.windows.add((base, size))

        def read(offset: int) -> int:
            if base + offset == 0xA000_0014:
                self.busy -= 1
                return int(self.busy >= 0)
            return self.get(base + offset, 0)

        def write(offset: int, value: int) -> None:
            self.writes.append((base + offset, value))
            self[base + offset] = value

        return SimpleNamespace(read=read, write=write)


def fabric(words: dict[int, int], busy: int = 0) -> tuple[Any, Words]:
    """PYNQ with these words, and they."""
    memory = Words(words)
    memory.busy, memory.writes, memory.windows = busy, [], set()
    return SimpleNamespace(MMIO=memory.window, Device=SimpleNamespace(active_device="device")), memory


def test_answers_that_nobody_asked_for(record: Callable[..., None]) -> None:
    pynq, words = fabric({0xA000_0000: 0x6E677768, 0xA000_0048: 17})
    assert unasked_answers(pynq) is None and not words.windows, "no record"
    record()
    assert unasked_answers(pynq) == 17 and words.windows == {(0xA000_0000, 0x2_0000)}
    assert unasked_answers(fabric({0xA000_0000: 1, 0xA000_0048: 17})[0]) is None, "another design"

    def refused(base: int, size: int, device: object) -> None:
        raise RuntimeError("Root permissions required")

    assert unasked_answers(SimpleNamespace(MMIO=refused, Device=pynq.Device)) is None


def test_what_a_host_before_left(record: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    ours = {0xA000_0000: 0x6E677768}
    assert stop_left_over(fabric(ours, 9)[0], "device") == ""
    record()
    pynq, words = fabric(ours)
    assert stop_left_over(pynq, "device") == "" and words.writes == []
    pynq, words = fabric(ours, 3)
    assert stop_left_over(pynq, "device") == "stopped the pass of an earlier host" and words.writes == [(0xA000_0010, 4)]
    monkeypatch.setattr("hwgen.sw.devices.pass_stop.STOP_SECONDS", -1.0)
    assert stop_left_over(fabric(ours, 10**9)[0], "device").startswith("the pass of an earlier host goes on until")


def test_resets_of_ports_and_their_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six bits go up and down, a millisecond after the load; a Zynq-7000 has none. Of registers of ports only bits that are set
    change.
    """
    pynq, words = fabric({0xFD1A_0100: 0xFFFF_E07F})
    widths, slept = list[object](), list[float]()
    monkeypatch.setattr(loading.time, "sleep", slept.append)
    arch = "".join(("aarch", "64"))  # as it comes from a board: equal, and another object
    reset_ports(pynq, SimpleNamespace(arch=arch, set_axi_port_width=widths.append), "parser")
    assert slept == [0.001] and words.windows == {(0xFD1A_0100, 4)}
    assert words.writes == [(0xFD1A_0100, 0xFFFF_FFFF), (0xFD1A_0100, 0xFFFF_E07F)] and widths == ["parser"]
    reset_ports(pynq, SimpleNamespace(arch="aarch64"), "parser")
    assert len(words.writes) == 4
    reset_ports(pynq, SimpleNamespace(arch="armv7l", set_axi_port_width=widths.append), "parser")
    assert len(words.writes) == 4 and len(widths) == 1
    parameters = {"PSU__USE__S_AXI_GP2": "1", "PSU__SAXIGP2__DATA_WIDTH": "64", "PSU__USE__S_AXI_GP3": "0"}
    parser = SimpleNamespace(family_ps="zynq_ultra_ps_e", ps_name="ps", ip_dict={"ps": {"parameters": parameters}})
    pynq, words = fabric({0xFD38_0000: 0xFF0, 0xFD38_0004: 0x37, 0xFD38_0014: 0xFFFF_0001})
    for _ in range(2):
        set_ports(pynq, "device", parser)
    assert words.writes == [(0xFD38_0000, 0xFF1), (0xFD38_0018, 7)], "others are right already"
    assert {size for _, size in words.windows} == {4}
