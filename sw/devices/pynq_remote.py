"""PYNQ's remote protocol from the host's side: a connection whose calls end, and transfers of the bytes that are wanted.

Importing this module needs ``pynq``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
from pynq.pl_server.remote_device import PYNQ_PORT, RemoteDevice
from pynq.remote import buffer_pb2

from ...errors import HwgenError
from .device import Bytes

__all__ = ["BoardConnection", "add_deadlines", "connect", "read_buffer", "write_buffer"]

#: Seconds that one call may take. PYNQ sets no limit of its own: a board that stops answering would hang its host.
CALL_SECONDS = 60.0

#: Bytes of a message, as in PYNQ's own transfers.
MESSAGE = 2 << 20

#: Bytes a second below which a connection counts as lost: a call that moves more may take longer than others.
SLOWEST = 2e6

#: Hosts that gRPC reaches without a proxy; it takes no other spelling.
_NO_PROXY = "no_grpc_proxy"


@dataclass(frozen=True)
class _CallDetails(grpc.ClientCallDetails):
    """What grpc asks of a call."""

    method: str
    timeout: float | None
    metadata: Any
    credentials: Any
    wait_for_ready: bool | None
    compression: Any


class _Deadline(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor, grpc.StreamUnaryClientInterceptor):
    """Gives every call a time limit."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def _continue(self, continuation: Callable[..., Any], details: Any, request: Any) -> Any:
        return continuation(
            _CallDetails(
                method=details.method,
                timeout=self._seconds if details.timeout is None else details.timeout,
                metadata=details.metadata,
                credentials=details.credentials,
                wait_for_ready=details.wait_for_ready,
                compression=details.compression,
            ),
            request,
        )

    intercept_unary_unary = intercept_unary_stream = intercept_stream_unary = _continue


def _limited(stubs: dict[str, Any], channel: Any, seconds: float) -> dict[str, Any]:
    """The same stubs on a channel with deadlines."""
    limited = grpc.intercept_channel(channel, _Deadline(seconds))
    return {name: type(stub)(limited) for name, stub in stubs.items()}


def add_deadlines(device: Any, seconds: float = CALL_SECONDS) -> None:
    """Give the calls of a :class:`RemoteDevice` that PYNQ opened itself a time limit."""
    if not isinstance(device, BoardConnection):
        device._stub = _limited(device._stub, device.client.channel, seconds)


class BoardConnection(RemoteDevice):
    """A remote board on any port, from the first call on with a time limit."""

    def __init__(self, host: str, port: int = PYNQ_PORT, *, seconds: float = CALL_SECONDS) -> None:
        self._seconds = seconds
        super().__init__(0, host, port)

    @property
    def _stub(self) -> dict[str, Any]:
        return self._limited_stubs

    @_stub.setter
    def _stub(self, stubs: dict[str, Any]) -> None:
        self._limited_stubs = _limited(stubs, self.client.channel, self._seconds)


def connect(address: str, seconds: float = CALL_SECONDS) -> BoardConnection:
    """The board at ``HOST`` or ``HOST:PORT``."""
    host, _, port = address.partition(":")
    if port and not port.isdigit():
        raise HwgenError("usage", f"{port!r} in {address!r} is not a port", "give HOST or HOST:PORT")
    # a proxy of the environment cannot reach a board on the desk, least of all 127.0.0.1
    listed = os.environ.get(_NO_PROXY, "")
    if host not in listed.split(","):
        os.environ[_NO_PROXY] = ",".join(filter(None, (listed, os.environ.get("no_proxy", ""), host)))
    number = int(port) if port else PYNQ_PORT
    try:
        return BoardConnection(host, number, seconds=seconds)
    except (RuntimeError, grpc.RpcError) as error:
        raise HwgenError(
            "device",
            f"no board answers at {host}:{number}",
            "check address, power, and that its image runs PYNQ's remote service; `hwgen board --simulate` starts a virtual one",
        ) from error


def read_buffer(buffer: Any, start: int, size: int) -> Bytes:
    """Bytes of a remote buffer. The service sends a buffer from its start: the rest behind what is wanted is declined."""
    response = buffer.stub.invalidate(buffer_pb2.InvalidateRequest(buffer_id=buffer.buffer_id))
    if response.msg:
        raise RuntimeError(response.msg)
    out = np.empty(size, np.uint8)
    position = 0
    stream = buffer.stub.read(buffer_pb2.BufferReadRequest(buffer_id=buffer.buffer_id, start=start, end=start + size))
    for answer in stream:
        data = np.frombuffer(answer.data, np.uint8)
        low, high = max(start, position), min(start + size, position + data.size)
        if low < high:
            out[low - start : high - start] = data[low - position : high - position]
        position += data.size
        if position >= start + size:
            stream.cancel()
            break
    if position < start + size:
        raise RuntimeError(f"the board sent {position} bytes, {start + size} were expected")
    return out


def write_buffer(buffer: Any, parts: Iterable[Bytes], size: int) -> None:
    """Replace the first ``size`` bytes of a remote buffer by ``parts``, sent as they come: no second copy is held here."""
    failed: list[BaseException] = []

    def requests() -> Iterator[Any]:
        try:
            for part in parts:
                for first in range(0, part.size, MESSAGE):
                    data = part[first : first + MESSAGE].tobytes()
                    yield buffer_pb2.BufferWriteRequest(buffer_id=buffer.buffer_id, data=data)
        except BaseException as error:  # gRPC, which runs this in a thread of its own, tells nobody what it was
            failed.append(error)
            raise

    options = {"timeout": size / SLOWEST} if size > SLOWEST * CALL_SECONDS else {}
    try:
        responses = [buffer.stub.write(requests(), **options)]
    except grpc.RpcError:
        if failed:
            raise failed[0] from None
        raise
    responses.append(buffer.stub.flush(buffer_pb2.FlushRequest(buffer_id=buffer.buffer_id)))
    for response in responses:
        if response.msg:
            raise RuntimeError(response.msg)
