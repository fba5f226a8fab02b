"""The virtual board behind PYNQ's remote protocol: gRPC services whose classes ``pynq`` itself ships.

Behaves like AMD's server where hosts can tell the difference: a buffer is written from its start and read as a whole
whatever range a request names, a register write takes four bytes, a failed allocation answers without a buffer, identifiers
that were never given are refused. There is no PS GPIO: gRPC itself says so. One thing is kinder: loading a bitstream frees
the buffers of hosts that are gone.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

import grpc
from pynq.remote import (
    buffer_pb2,
    buffer_pb2_grpc,
    mmio_pb2,
    mmio_pb2_grpc,
    remote_device_pb2,
    remote_device_pb2_grpc,
)

from ...rounding import align
from .board import BusError, VirtualBoard
from .memory import LINE, CachedBuffer, OutOfMemory

__all__ = ["PORT", "BoardServer"]

#: Where PYNQ looks for boards.
PORT = 7967

#: Bytes of one answer of a stream.
CHUNK = 1 << 20


class _Handles:
    """Objects by identifier, as a client names them."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._count = itertools.count(1)
        self._objects: dict[str, Any] = {}
        self._lock = threading.Lock()

    def add(self, item: Any) -> str:
        with self._lock:
            name = f"{self._kind}-{next(self._count)}"
            self._objects[name] = item
            return name

    def get(self, name: str, context: grpc.ServicerContext) -> Any:
        item = self._objects.get(name)
        if item is None:
            known = name.startswith(f"{self._kind}-")
            code = grpc.StatusCode.NOT_FOUND if known else grpc.StatusCode.INVALID_ARGUMENT
            context.abort(code, f"{self._kind} {name!r} is unknown")
        return item

    def pop(self, name: str) -> Any | None:
        with self._lock:
            return self._objects.pop(name, None)

    def pop_all(self) -> list[Any]:
        with self._lock:
            items = list(self._objects.values())
            self._objects.clear()
            return items


class _Files(remote_device_pb2_grpc.RemoteDeviceServicer):
    def __init__(self, board: VirtualBoard, loaded: Callable[[], None]) -> None:
        self.board = board
        self.loaded = loaded

    def existsfile(self, request: Any, context: grpc.ServicerContext) -> Any:
        return remote_device_pb2.ExistsFileResponse(exists=self.board.file_exists(request.file_path))

    def readfile(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        data = self.board.read_file(request.file_path)
        if data is None:
            context.abort(grpc.StatusCode.NOT_FOUND, f"{request.file_path} does not exist")
            return
        for start in range(0, len(data), CHUNK):
            yield remote_device_pb2.ReadFileResponse(data=data[start : start + CHUNK])

    def writefile(self, request_iterator: Iterator[Any], context: grpc.ServicerContext) -> Any:
        path, parts = None, []
        for request in request_iterator:
            path = path if path is not None else request.file_path
            parts.append(request.data)
        if path is None:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no file is named")
            return None
        loads = self.board.loads
        try:
            self.board.write_file(path, b"".join(parts))
        except (ValueError, FileNotFoundError) as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        if self.board.loads != loads:
            self.loaded()
        return remote_device_pb2.WriteFileResponse()

    def set_bitstream_attrs(self, request: Any, context: grpc.ServicerContext) -> Any:
        return remote_device_pb2.SetBitstreamAttrsResponse(status=True)


def _sent(word: int) -> int:
    """A 32-bit word as the protocol carries it: PYNQ 3.1 has declared it with a sign."""
    field = mmio_pb2.ReadResponse.DESCRIPTOR.fields_by_name["data"]
    return word - (1 << 32) if field.type == field.TYPE_INT32 and word >> 31 else word


class _Registers(mmio_pb2_grpc.MmioServicer):
    def __init__(self, board: VirtualBoard) -> None:
        self.board = board
        self.ranges = _Handles("mmio")

    def get_mmio(self, request: Any, context: grpc.ServicerContext) -> Any:
        return mmio_pb2.GetMmioResponse(status=True, mmio_id=self.ranges.add((request.base_addr, request.length)))

    def _address(self, request: Any, context: grpc.ServicerContext) -> int:
        base, length = self.ranges.get(request.mmio_id, context)
        if request.offset % 4 or request.offset + 4 > length:
            context.abort(grpc.StatusCode.OUT_OF_RANGE, f"offset 0x{request.offset:x} is outside the {length} bytes mapped")
        return int(base + request.offset)

    def read(self, request: Any, context: grpc.ServicerContext) -> Any:
        address = self._address(request, context)
        try:
            return mmio_pb2.ReadResponse(status=True, data=_sent(self.board.read_word(address)))
        except (BusError, RuntimeError) as error:
            return mmio_pb2.ReadResponse(status=False, msg=str(error))

    def write(self, request: Any, context: grpc.ServicerContext) -> Any:
        address = self._address(request, context)
        if len(request.data) < 4:
            return mmio_pb2.WriteResponse(status=False, msg=f"4 bytes are written at a time, not {len(request.data)}")
        try:
            self.board.write_word(address, int.from_bytes(request.data[:4], "little"))
        except (BusError, RuntimeError) as error:
            return mmio_pb2.WriteResponse(status=False, msg=str(error))
        return mmio_pb2.WriteResponse(status=True)


class _Buffer(CachedBuffer):
    def __init__(self, board: VirtualBoard, size: int) -> None:
        rounded = max(LINE, align(size, LINE))
        self.address = board.contiguous.allocate(rounded)
        super().__init__(board.memory(self.address, rounded))
        self.bytes = size


class _Buffers(buffer_pb2_grpc.RemoteBufferServicer):
    def __init__(self, board: VirtualBoard) -> None:
        self.board = board
        self.buffers = _Handles("buffer")

    def free_all(self) -> None:
        for buffer in self.buffers.pop_all():
            self._free(buffer)

    def _free(self, buffer: _Buffer) -> None:
        with self.board.lock:
            self.board.contiguous.free(buffer.address)

    def allocate(self, request: Any, context: grpc.ServicerContext) -> Any:
        try:
            with self.board.lock:
                buffer = _Buffer(self.board, request.size)
        except (OutOfMemory, ValueError) as error:
            return buffer_pb2.AllocateResponse(msg=str(error))
        return buffer_pb2.AllocateResponse(buffer_id=self.buffers.add(buffer))

    def write(self, request_iterator: Iterator[Any], context: grpc.ServicerContext) -> Any:
        buffer: _Buffer | None = None
        offset = 0
        for request in request_iterator:
            if buffer is None:
                buffer = self.buffers.get(request.buffer_id, context)
                assert buffer is not None
            if offset + len(request.data) > buffer.bytes:
                return buffer_pb2.BufferWriteResponse(msg="Buffer overflow.")
            with self.board.lock:
                buffer.write(offset, request.data)
            offset += len(request.data)
        return buffer_pb2.BufferWriteResponse()

    def read(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        buffer: _Buffer = self.buffers.get(request.buffer_id, context)
        for start in range(0, buffer.bytes, CHUNK):
            if not context.is_active():
                return
            with self.board.lock:
                data = buffer.read(start, min(CHUNK, buffer.bytes - start))
            yield buffer_pb2.BufferReadResponse(data=data)

    def flush(self, request: Any, context: grpc.ServicerContext) -> Any:
        buffer: _Buffer = self.buffers.get(request.buffer_id, context)
        with self.board.lock:
            buffer.flush()
        return buffer_pb2.FlushResponse()

    def invalidate(self, request: Any, context: grpc.ServicerContext) -> Any:
        buffer: _Buffer = self.buffers.get(request.buffer_id, context)
        with self.board.lock:
            buffer.invalidate()
        return buffer_pb2.InvalidateResponse()

    def freebuffer(self, request: Any, context: grpc.ServicerContext) -> Any:
        buffer = self.buffers.pop(request.buffer_id)
        if buffer is not None:
            self._free(buffer)
        return buffer_pb2.FreeBufferResponse()

    def physical_address(self, request: Any, context: grpc.ServicerContext) -> Any:
        buffer: _Buffer = self.buffers.get(request.buffer_id, context)
        return buffer_pb2.AddressResponse(address=buffer.address)

    #: A process on the board is not simulated: what it would see is the physical memory.
    virtual_address = physical_address

    def cacheable(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.buffers.get(request.buffer_id, context)
        return buffer_pb2.CacheableResponse(cacheable=True)


class BoardServer:
    """Serves one board until :meth:`stop`; a context manager. Port 0 takes any free one, see :attr:`port`."""

    def __init__(self, board: VirtualBoard, *, host: str = "127.0.0.1", port: int = PORT) -> None:
        self.board = board
        self._pool = ThreadPoolExecutor(8, thread_name_prefix="board")
        # without so_reuseport a second board on the same port is refused instead of taking half of the requests
        self._server = grpc.server(self._pool, options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", 16 << 20)])
        buffers = _Buffers(board)
        remote_device_pb2_grpc.add_RemoteDeviceServicer_to_server(_Files(board, buffers.free_all), self._server)
        mmio_pb2_grpc.add_MmioServicer_to_server(_Registers(board), self._server)
        buffer_pb2_grpc.add_RemoteBufferServicer_to_server(buffers, self._server)
        try:
            #: Port that is listened on.
            self.port: int = self._server.add_insecure_port(f"{host}:{port}")
        except RuntimeError:
            self.port = 0
        if not self.port:
            self._fail(host, port)
        self._server.start()

    def _fail(self, host: str, port: int) -> NoReturn:
        self._pool.shutdown()
        raise OSError(f"{host}:{port} cannot be listened on: the port is taken, or the address is not of this machine")

    def wait(self) -> None:
        """Until somebody stops the server."""
        self._server.wait_for_termination()

    def stop(self, grace: float | None = None) -> None:
        """End every call after ``grace`` seconds and close the port."""
        self._server.stop(grace).wait()

    def __enter__(self) -> BoardServer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()
