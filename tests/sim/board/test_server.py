"""The remote protocol, call by call, with the client classes that PYNQ ships."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from hwgen.sim.board.bitstream import make_bitstream
from hwgen.sim.board.board import FPGA_MANAGER, LEDS_BASE, VirtualBoard
from tests.virtual_board import CONFIG, new_board, require_remote

from .test_board import firmware

require_remote()

import grpc
from pynq.remote import (
    buffer_pb2,
    buffer_pb2_grpc,
    mmio_pb2,
    mmio_pb2_grpc,
    remote_device_pb2,
    remote_device_pb2_grpc,
)

from hwgen.sim.board.server import CHUNK, BoardServer

SIZE = CHUNK // 4 + 100


@pytest.fixture(scope="module")
def server() -> Iterator[BoardServer]:
    with BoardServer(new_board(), port=0) as server:
        server.board.load_bitstream(firmware(make_bitstream(CONFIG, "")))
        yield server


@pytest.fixture(scope="module")
def channel(server: BoardServer) -> Iterator[Any]:
    with grpc.insecure_channel(f"127.0.0.1:{server.port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
        yield channel


@pytest.fixture
def board(server: BoardServer) -> VirtualBoard:
    return server.board


@pytest.fixture
def buffers(channel: Any) -> Any:
    return buffer_pb2_grpc.RemoteBufferStub(channel)


@pytest.fixture
def buffer(buffers: Any) -> Iterator[str]:
    name = buffers.allocate(buffer_pb2.AllocateRequest(size=SIZE, dtype="|u1")).buffer_id
    yield name
    buffers.freebuffer(buffer_pb2.FreeBufferRequest(buffer_id=name))


def write(buffers: Any, name: str, *parts: bytes, start: int = 0) -> str:
    requests = (buffer_pb2.BufferWriteRequest(buffer_id=name, data=part, start=start) for part in parts)
    return str(buffers.write(requests).msg)


def read(buffers: Any, name: str) -> bytes:
    return b"".join(answer.data for answer in buffers.read(buffer_pb2.BufferReadRequest(buffer_id=name, start=5, end=6)))


def test_buffers_are_written_from_their_start_and_read_whole(buffers: Any, buffer: str, board: VirtualBoard) -> None:
    address = buffers.physical_address(buffer_pb2.AddressRequest(buffer_id=buffer)).address
    assert write(buffers, buffer, b"abc", b"def", start=50) == ""
    assert not board.memory(address, 6).any()
    buffers.flush(buffer_pb2.FlushRequest(buffer_id=buffer))
    assert board.memory(address, 6).tobytes() == b"abcdef"
    data = read(buffers, buffer)
    assert len(data) == SIZE and data[:6] == b"abcdef"
    board.memory(address, 6)[:] = 7
    assert read(buffers, buffer)[:6] == b"abcdef"
    buffers.invalidate(buffer_pb2.InvalidateRequest(buffer_id=buffer))
    assert read(buffers, buffer)[:6] == bytes([7] * 6)


def test_overflow_is_reported_and_not_stored(buffers: Any, buffer: str) -> None:
    assert write(buffers, buffer, bytes([1]) * SIZE, b"x") == "Buffer overflow."
    assert read(buffers, buffer) == bytes([1]) * SIZE


def test_a_failed_allocation_answers_without_a_buffer(buffers: Any, board: VirtualBoard) -> None:
    free = board.contiguous.free_bytes
    answer = buffers.allocate(buffer_pb2.AllocateRequest(size=free + 1, dtype="|u1"))
    assert answer.buffer_id == "" and "contiguous bytes are not free" in answer.msg
    assert board.contiguous.free_bytes == free


def test_freed_memory_comes_back(buffers: Any, board: VirtualBoard) -> None:
    free = board.contiguous.free_bytes
    name = buffers.allocate(buffer_pb2.AllocateRequest(size=1 << 19, dtype="|u1")).buffer_id
    assert board.contiguous.free_bytes == free - (1 << 19)
    for _ in range(2):  # the second time it is gone already
        buffers.freebuffer(buffer_pb2.FreeBufferRequest(buffer_id=name))
    assert board.contiguous.free_bytes == free
    with pytest.raises(grpc.RpcError) as caught:
        buffers.flush(buffer_pb2.FlushRequest(buffer_id=name))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    with pytest.raises(grpc.RpcError) as caught:
        buffers.flush(buffer_pb2.FlushRequest(buffer_id="toaster"))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_registers(channel: Any) -> None:
    stub = mmio_pb2_grpc.MmioStub(channel)
    leds = stub.get_mmio(mmio_pb2.GetMmioRequest(base_addr=LEDS_BASE, length=8)).mmio_id
    assert stub.write(mmio_pb2.WriteRequest(mmio_id=leds, offset=4, data=b"\1\2\3\4\5\6\7\10")).msg == ""
    assert stub.read(mmio_pb2.ReadRequest(mmio_id=leds, offset=4, length=8)).data == 0x04030201
    assert "4 bytes" in stub.write(mmio_pb2.WriteRequest(mmio_id=leds, offset=0, data=b"\1")).msg
    with pytest.raises(grpc.RpcError) as caught:
        stub.read(mmio_pb2.ReadRequest(mmio_id=leds, offset=8, length=4))
    assert caught.value.code() is grpc.StatusCode.OUT_OF_RANGE
    nowhere = stub.get_mmio(mmio_pb2.GetMmioRequest(base_addr=0, length=8)).mmio_id
    assert "nothing answers" in stub.read(mmio_pb2.ReadRequest(mmio_id=nowhere, offset=0, length=4)).msg


def test_files_and_bitstreams(channel: Any, buffers: Any, board: VirtualBoard) -> None:
    stub = remote_device_pb2_grpc.RemoteDeviceStub(channel)

    def put(path: str, *parts: bytes) -> None:
        stub.writefile(remote_device_pb2.WriteFileRequest(file_path=path, data=part) for part in parts)

    put("/tmp/f", b"12", b"3")
    read = stub.readfile(remote_device_pb2.ReadFileRequest(file_path="/tmp/f"))
    assert b"".join(answer.data for answer in read) == b"123"
    with pytest.raises(grpc.RpcError) as caught:
        list(stub.readfile(remote_device_pb2.ReadFileRequest(file_path="/etc/passwd")))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    with pytest.raises(grpc.RpcError) as caught:
        put("/tmp/none")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT

    name = buffers.allocate(buffer_pb2.AllocateRequest(size=4096, dtype="|u1")).buffer_id
    put("/lib/firmware/bad.bin", b"x" * 64)
    with pytest.raises(grpc.RpcError, match="not a simulated bitstream"):
        put(FPGA_MANAGER + "firmware", b"bad.bin")
    assert buffers.physical_address(buffer_pb2.AddressRequest(buffer_id=name)).address
    put("/lib/firmware/good.bin", firmware(make_bitstream(CONFIG, "")))
    put(FPGA_MANAGER + "firmware", b"good.bin")
    assert board.contiguous.free_bytes == board.contiguous.size  # of hosts that are gone


def test_a_port_that_is_taken(server: BoardServer) -> None:
    with pytest.raises(OSError, match=f"127.0.0.1:{server.port} cannot be listened on"):
        BoardServer(server.board, port=server.port)
