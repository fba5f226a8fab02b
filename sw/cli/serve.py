"""``hwgen serve``: a model by the OpenAI protocol."""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import json
import os
import signal
import socket
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from ...boards import Board
from ...errors import HwgenError
from ...packages import needs
from ..compiler.image_file import CompiledModel, check_same_build, is_image_file
from ..devices.power import sensor_of, why_no_energy
from ..runtime.generation import CONTEXT_FULL
from ..runtime.kv_arrays import with_cache_tokens
from ..runtime.llm import LLM
from ..serve.dashboard import dashboard
from .documents import add_documents, check_documents, read_documents
from .kv_budget import add_kv_budget, answer_budget_of
from .kv_cache import add_kv
from .options import (
    MODEL_HELP,
    add_board,
    add_device,
    add_draft,
    add_time_between_tokens,
    at_least,
    check_port,
    configured_board,
    device_options,
    opened_model,
    time_between_tokens,
)
from .output import Output, Result
from .serve_boards import add_boards, fronted
from .systemd import service_unit

if TYPE_CHECKING:
    from ..serve.server import Server
    from ..serve.service import Limits
    from ..serve.services import Services

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = "hwgen serve stories --device golden --port 8000"

#: Environment variable that holds the API key.
KEY_VARIABLE = "HWGEN_API_KEY"

#: Contexts that the KV cache holds when nothing else is asked for.
DEFAULT_CONTEXTS = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", nargs="*", metavar="MODEL",
        help=f"{MODEL_HELP} (stories if not given); several image files take turns on the device",
    )
    add_device(parser, "verilator")
    add_boards(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at")
    parser.add_argument("--port", type=int, default=8000, help="port to listen at; 0 is any free one")
    parser.add_argument(
        "--api-key-file", type=Path, metavar="FILE", help=f"file with the key clients must send (or set {KEY_VARIABLE})"
    )
    parser.add_argument("--max-sessions", type=int, default=8, metavar="N", help="answers computed at the same time")
    parser.add_argument("--max-waiting", type=int, default=64, metavar="N", help="requests that wait; more get status 429")
    add_time_between_tokens(parser)
    add_draft(parser)
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
        "--prefixes", action="store_true",
        help="let a front of several boards take and give keys of prompts here; who may ask can then change answers of others",
    )
    parser.add_argument("--grafana", action="store_true", help="print a dashboard of Grafana for /metrics, and end")
    parser.add_argument(
        "--systemd", action="store_true", help="print a unit that serves with these options from the system's start on, and end"
    )
    add_documents(parser)
    add_kv(parser)
    add_kv_budget(parser)
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
def ended_by_signals(server: Server) -> Iterator[None]:
    """SIGINT and SIGTERM mean nothing but the end of the server: also before uvicorn has handlers of its own, which raises them
    again after it has shut down.
    """
    def end(number: int, frame: object) -> None:
        server.should_exit = True

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, end) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def limits_of(options: argparse.Namespace) -> Limits:
    """What the server takes."""
    from ..serve.service import Limits

    return Limits(
        sessions=options.max_sessions,
        waiting=options.max_waiting,
        new_tokens=options.max_new_tokens,
        time_between_tokens=time_between_tokens(options),
        body_bytes=options.max_request_bytes,
    )


def cache_of(options: argparse.Namespace, context: int) -> int:
    """Tokens that the KV cache of a model with this context holds."""
    contexts = 1 if options.device == "pynq" else DEFAULT_CONTEXTS
    return options.cache_tokens or contexts * context


def open_models(options: argparse.Namespace, output: Output) -> list[LLM]:
    """The models, the last of which is on the device: the first one that was named."""
    reuse = not options.no_reuse
    if len(options.model) < 2:
        (options.model,) = options.model or ["stories"]
        model, board = opened_model(options, output)
        answer_budget_of(options, board.config)
        cache = cache_of(options, min(board.config.max_context, model.shape.max_context))
        where = device_options(options, board)
        return [LLM(
            model, options.device, board.config, output.progress, cache_tokens=cache, reuse=reuse, draft=options.draft,
            draft_model=options.draft_model, device_options=where,
        )]
    if options.draft_model is not None:
        raise HwgenError("usage", "a draft model guesses for one model", "serve one model, or leave --draft-model out")
    compiled, board = images_of_one_build(options, output)
    images = [with_cache_tokens(model.image, cache_of(options, model.image.context)) for model in compiled]
    needed = max(image.contiguous_bytes if options.device == "pynq" else image.memory_bytes() for image in images)
    where = {**device_options(options, board), "memory_bytes": needed}
    caches = [cache_of(options, model.image.context) for model in compiled]
    # every one is put there once: what does not fit is said now, and the first one named is there at the end
    models = [LLM(
        compiled[-1], options.device, board.config, output.progress, cache_tokens=caches[-1], reuse=reuse, draft=options.draft,
        device_options=where,
    )]
    for model, cache in zip(compiled[-2::-1], caches[-2::-1], strict=True):
        models.append(models[-1].beside(model, cache_tokens=cache, reuse=reuse))
    return models


def images_of_one_build(options: argparse.Namespace, output: Output) -> tuple[list[CompiledModel], Board]:
    """Several image files, and the board of the first one."""
    wrong = next((name for name in options.model if not is_image_file(name)), None)
    if wrong is not None:
        raise HwgenError(
            "usage", f"{wrong} is not an image file, and several models take turns as images of one build",
            f"compile it first: hwgen compile {wrong} --board B --out {Path(wrong).name}.hwimage",
        )
    compiled: list[CompiledModel] = []
    board: Board | None = None
    for name in options.model:
        model, board_of_model = opened_model(argparse.Namespace(**{**vars(options), "model": name}), output)
        assert isinstance(model, CompiledModel)
        if model.name in [other.name for other in compiled]:
            raise HwgenError("usage", f"two images have a model named {model.name!r}", "give one of each")
        board = board or board_of_model
        check_same_build(model, board.config)
        compiled.append(model)
    assert board is not None
    answer_budget_of(options, board.config)
    return compiled, board


def open_services(options: argparse.Namespace, output: Output) -> Services:
    """The models on their device, ready for requests."""
    from ..runtime.device_turns import DeviceTurns
    from ..serve.service import Service
    from ..serve.services import Services

    models = open_models(options, output)
    device = models[-1].device
    if not device.simulated and sensor_of(device) is None:
        output.progress(f"energy is not counted: {why_no_energy(device)}")
    read_documents(models[-1], options, output)
    turns = DeviceTurns(models) if len(models) > 1 else None
    limits = limits_of(options)
    return Services([
        Service(
            llm, limits=limits, temperature=options.temperature, context_full=options.context_full, turns=turns,
            kv_budget=options.kv_budget,
        )
        for llm in reversed(models)
    ], turns)


def served(options: argparse.Namespace, output: Output, key: str | None, hosts: list[str] | None) -> tuple[Server, list[str]]:
    """The server of models on one device, and their names."""
    from ..serve.app import create_app
    from ..serve.server import Server

    services = open_services(options, output)
    log = output.note if options.log_requests else None
    app = create_app(services, api_key=key, hosts=hosts, origins=options.cors, log=log, prefixes=options.prefixes)
    return Server(app, services, drain_seconds=options.drain_seconds), services.names


def check_options(options: argparse.Namespace) -> None:
    """Refuse wrong options before a model is read."""
    at_least(options, "drain-seconds", 0)
    check_documents(options)
    answer_budget_of(options)
    for name in ("max-new-tokens", "max-request-bytes", "cache-tokens"):
        if getattr(options, name.replace("-", "_")) is not None:
            at_least(options, name, 1)
    if options.boards is None:
        configured_board(options)
        if options.prompt_boards is not None:
            raise HwgenError("usage", "--prompt-boards read for boards that answer", "add --boards")
    elif options.model:
        raise HwgenError("usage", f"--boards serve what each has, not {options.model[0]}", "give the model to each board")


def run(options: argparse.Namespace, output: Output) -> Result:
    """Serve until a signal ends it."""
    if options.systemd:
        unit = service_unit(sys.argv[1:], options.drain_seconds)
        output.show(unit, end="")
        return 0, {"unit": unit}
    if options.grafana:
        text = dashboard()
        output.show(text, end="")
        return 0, json.loads(text)
    with needs("serving", "hwgen[serve]"):
        for name in ("app", "server"):  # which import all that is not hwgen's
            import_module(f"..serve.{name}", __package__)
    key = read_key(options)
    check_options(options)
    local = is_loopback(options.host)
    hosts = ["localhost", "127.0.0.1", "[::1]"] if local else None
    with listen(options.host, options.port) as listener:
        if not local and key is None:
            output.progress("warning: anyone who reaches this address can use the accelerator; set an API key")
        behind = served if options.boards is None else fronted
        server, names = behind(options, output, key, hosts)
        host, port = listener.getsockname()[:2]
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"
        where = "boards" if options.boards is not None else "a page for the browser"
        look = f"{url.removesuffix('/v1')}{'/boards' if options.boards is not None else ''}"
        listener.listen()  # who reads where the server is may connect at once
        with ended_by_signals(server):
            output.progress(f"{', '.join(names)} at {url} (Ctrl-C ends the server); {where} at {look}")
            server.run(sockets=[listener])
    if server.failure is not None:
        raise server.failure
    return 0, {"model": names[0], "models": names, "url": url}
