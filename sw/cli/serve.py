"""``hwgen serve``: a model by the OpenAI protocol."""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import HwgenError
from ...packages import needs
from ..devices.power import sensor_of, why_no_energy
from ..runtime.generation import CONTEXT_FULL
from ..runtime.llm import LLM
from .kv_cache import add_kv
from .options import MODEL_HELP, add_board, add_device, at_least, check_port, configured_board, device_options, opened_model
from .output import Output, Result
from .systemd import service_unit

if TYPE_CHECKING:
    from ..serve.service import Service

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = "hwgen serve stories --device golden --port 8000"

#: Environment variable that holds the API key.
KEY_VARIABLE = "HWGEN_API_KEY"

#: Contexts that the KV cache holds when nothing else is asked for.
DEFAULT_CONTEXTS = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", nargs="?", default="stories", metavar="MODEL", help=MODEL_HELP
    )
    add_device(parser, "verilator")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at")
    parser.add_argument("--port", type=int, default=8000, help="port to listen at; 0 is any free one")
    parser.add_argument(
        "--api-key-file", type=Path, metavar="FILE", help=f"file with the key clients must send (or set {KEY_VARIABLE})"
    )
    parser.add_argument("--max-sessions", type=int, default=8, metavar="N", help="answers computed at the same time")
    parser.add_argument("--max-waiting", type=int, default=64, metavar="N", help="requests that wait; more get status 429")
    parser.add_argument(
        "--pass-width",
        type=int,
        default=None,
        metavar="N",
        help="tokens of a pass at most while answers are written, prompts among them (if not given: what costs no time)",
    )
    parser.add_argument("--max-new-tokens", type=int, default=None, metavar="N", help="longest answer (the context if not given)")
    parser.add_argument("--max-request-bytes", type=int, default=1 << 20, metavar="N", help="longest request")
    parser.add_argument(
        "--cache-tokens",
        type=int,
        default=None,
        metavar="N",
        help=f"KV cache of all sessions and kept prefixes (if not given: {DEFAULT_CONTEXTS} contexts, on a board one)",
    )
    parser.add_argument("--temperature", type=float, default=0.0, help="of requests that state none; 0 is greedy")
    parser.add_argument("--context-full", choices=CONTEXT_FULL, default="stop", help="what happens when the context is full")
    parser.add_argument("--no-reuse", action="store_true", help="compute every prompt anew (answers are the same)")
    parser.add_argument(
        "--cors", action="append", default=[], metavar="ORIGIN", help="let pages of this site use it; * is any (may be repeated)"
    )
    parser.add_argument("--log-requests", action="store_true", help="a line a request on standard error, without its text")
    parser.add_argument("--drain-seconds", type=int, default=30, metavar="S", help="time for running answers at shutdown")
    parser.add_argument(
        "--systemd", action="store_true", help="print a unit that serves with these options from the system's start on, and end"
    )
    add_kv(parser)
    add_board(parser, None)


def read_key(options: argparse.Namespace) -> str | None:
    """The API key, from its file or from the environment."""
    if options.api_key_file is None:
        return os.environ.get(KEY_VARIABLE) or None
    try:
        key = str(options.api_key_file.read_text(encoding="utf-8")).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise HwgenError("usage", f"{options.api_key_file} cannot be read", "give a text file with the key") from error
    if not key:
        raise HwgenError("usage", f"{options.api_key_file} is empty", "write the key into the file")
    return key


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listen(host: str, port: int) -> socket.socket:
    """A listening socket, so that a port that is taken is told before the model is compiled."""
    check_port(port, "choose another --port")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise HwgenError("usage", f"cannot listen at {host}:{port}: {error}", "choose another --host or --port") from error
    return listener


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGINT and SIGTERM mean nothing but the end of the server: uvicorn raises them again after it has shut down."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda number, frame: None) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def open_service(options: argparse.Namespace, output: Output) -> Service:
    """The model on its device, ready for requests."""
    from ..serve.service import Limits, Service

    model, board = opened_model(options, output)
    contexts = 1 if options.device == "pynq" else DEFAULT_CONTEXTS
    cache = options.cache_tokens or contexts * min(board.config.max_context, model.shape.max_context)
    llm = LLM(
        model, options.device, board.config, output.progress, cache_tokens=cache, reuse=not options.no_reuse,
        device_options=device_options(options, board),
    )
    if not llm.device.simulated and sensor_of(llm.device) is None:
        output.progress(f"energy is not counted: {why_no_energy(llm.device)}")
    limits = Limits(
        sessions=options.max_sessions,
        waiting=options.max_waiting,
        new_tokens=options.max_new_tokens,
        width=options.pass_width,
        body_bytes=options.max_request_bytes,
    )
    return Service(llm, limits=limits, temperature=options.temperature, context_full=options.context_full)


def run(options: argparse.Namespace, output: Output) -> Result:
    """Serve until a signal ends it."""
    if options.systemd:
        unit = service_unit(sys.argv[1:], options.drain_seconds)
        output.show(unit, end="")
        return 0, {"unit": unit}
    with needs("serving", "hwgen[serve]"):
        from ..serve.app import create_app
        from ..serve.server import Server
    key = read_key(options)
    configured_board(options)  # refused before the model is read
    at_least(options, "drain-seconds", 0)
    for name in ("max-new-tokens", "max-request-bytes", "cache-tokens"):
        if getattr(options, name.replace("-", "_")) is not None:
            at_least(options, name, 1)
    local = is_loopback(options.host)
    with listen(options.host, options.port) as listener:
        if not local and key is None:
            output.progress("warning: anyone who reaches this address can use the accelerator; set an API key")
        service = open_service(options, output)
        app = create_app(
            service,
            api_key=key,
            hosts=["localhost", "127.0.0.1", "[::1]"] if local else None,
            origins=options.cors,
            log=output.note if options.log_requests else None,
        )
        server = Server(app, service, drain_seconds=options.drain_seconds)
        host, port = listener.getsockname()[:2]
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"
        output.progress(f"{service.name} at {url} (Ctrl-C ends the server); a page for the browser at {url.removesuffix('/v1')}")
        with ended_by_signals():
            server.run(sockets=[listener])
    if server.failure is not None:
        raise server.failure
    return 0, {"model": service.name, "url": url}
