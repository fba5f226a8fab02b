"""Servers in a thread, with the small model of the host tests on the golden device."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from hwgen.sw.devices.device import Device
from hwgen.sw.runtime.llm import LLM
from hwgen.sw.serve.app import create_app
from hwgen.sw.serve.server import ConnectionLimits, Server
from hwgen.sw.serve.service import Limits, Service
from hwgen.sw.serve.services import Services

from ..conftest import CONFIG


@dataclass
class Running:
    """A server that listens."""

    service: Service
    url: str
    client: openai.OpenAI
    http: httpx.Client
    server: Server

    def wait_until(self, condition: Callable[[Service], bool]) -> None:
        end = time.monotonic() + 60
        while not condition(self.service):
            assert time.monotonic() < end, "did not happen within a minute"
            time.sleep(0.01)

    def wait_idle(self) -> None:
        """Until no answer has a session and nothing is held but what prefixes hold."""
        self.wait_until(lambda s: s.scheduler.running == s.scheduler.waiting == 0)


def delay(device: Device, seconds: Callable[[], object]) -> None:
    """Have ``seconds`` called in every pass of this device, those of loops too."""
    wait = device.wait

    def slowly(timeout: float, look: Callable[[], bool] | None = None) -> bool:
        seconds()
        return wait(timeout, look and (lambda: (seconds(), look())[1]))

    device.wait = slowly  # type: ignore[method-assign]  # of this device alone


@contextlib.contextmanager
def listening(server: Server) -> Iterator[str]:
    """A server in a thread, and where it is."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


@contextlib.contextmanager
def serving(
    service: Service,
    key: str | None = None,
    hosts: list[str] | None = None,
    connections: ConnectionLimits | None = None,
    drain_seconds: float = 5.0,
    **options: Any,
) -> Iterator[Running]:
    services = Services([service])
    app = create_app(services, api_key=key, hosts=hosts, **options)
    server = Server(app, services, limits=connections or ConnectionLimits(), drain_seconds=drain_seconds)
    with listening(server) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key=key or "none", max_retries=0, timeout=120)
        with httpx.Client(base_url=url, timeout=120) as http, client:
            yield Running(service, url, client, http, server)


@pytest.fixture(scope="session")
def alone(chat_directory: Path) -> LLM:
    """The model without a server and without reuse: what answers must be."""
    return LLM(chat_directory, "golden", CONFIG, reuse=False)


def new_service(directory: Path, limits: Limits | None = None, **options: object) -> Service:
    llm = LLM(directory, "golden", CONFIG, cache_tokens=256)
    return Service(llm, limits=limits or Limits(), **options)  # type: ignore[arg-type]  # passed on by name


@pytest.fixture(scope="module")
def server(chat_directory: Path) -> Iterator[Running]:
    with serving(new_service(chat_directory)) as running:
        yield running
