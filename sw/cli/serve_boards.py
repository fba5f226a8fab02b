"""``hwgen serve --boards``: one endpoint before several boards."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ...errors import HwgenError
from ...packages import needs
from .output import Output

if TYPE_CHECKING:
    from ..serve.front.board_link import BoardLink
    from ..serve.server import Server

__all__ = ["add_boards", "board_url", "fronted"]

#: Port of a board that names none: that of ``hwgen serve``.
DEFAULT_PORT = 8000


def add_boards(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("several boards behind one endpoint; each runs hwgen serve, and has the same API key")
    group.add_argument("--boards", metavar="HOST[:PORT],...", help="boards that answer")
    group.add_argument(
        "--prompt-boards", metavar="HOST[:PORT],...", help="boards that read long prompts for them; all run with --prefixes"
    )


def board_url(address: str) -> str:
    """Where the server of a board is."""
    parts = urlsplit(address if "://" in address else f"http://{address}")
    try:
        port = parts.port
    except ValueError:
        port = None
        parts = parts._replace(netloc="")
    if not parts.hostname or parts.scheme not in ("http", "https") or parts.path not in ("", "/"):
        raise HwgenError("usage", f"{address!r} is not a board", "give HOST, HOST:PORT, or a URL without a path")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    if port is None and "://" in address:
        return f"{parts.scheme}://{host}"
    return f"{parts.scheme}://{host}:{DEFAULT_PORT if port is None else port}"


def links(addresses: str | None) -> list[BoardLink]:
    """The boards of an option."""
    from ..serve.front.board_link import BoardLink

    names = [name.strip() for name in (addresses or "").split(",") if name.strip()]
    return [BoardLink(name, board_url(name)) for name in names]


def fronted(options: argparse.Namespace, output: Output, key: str | None, hosts: list[str] | None) -> tuple[Server, list[str]]:
    """The server before several boards, and their names."""
    with needs("a front of several boards", "hwgen[serve,front]"):
        from ..serve.front.front import Front, create_front
    from ..serve.front.routing import Routes
    from ..serve.server import Server

    routes = Routes(links(options.boards), links(options.prompt_boards))
    urls = [board.url for board in routes]
    if not routes.boards:
        raise HwgenError("usage", "--boards names none", "give --boards HOST[:PORT],...")
    if len(set(urls)) < len(urls):
        raise HwgenError("usage", "a board is named twice", "name each board once, in --boards or in --prompt-boards")
    front = Front(routes, key=key, body_bytes=options.max_request_bytes)
    log = output.note if options.log_requests else None
    app = create_front(front, hosts=hosts, origins=options.cors, log=log)
    return Server(app, front, drain_seconds=options.drain_seconds), [board.address for board in routes]
