"""One client never hurts another: hostile requests, connections that send nothing, answers and devices that fail."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from hwgen.sw.devices.device import DeviceTimeout
from hwgen.sw.runtime.llm import LLM
from hwgen.sw.serve.server import ConnectionLimits
from hwgen.sw.serve.service import Limits

from .conftest import Running, delay, new_service, serving
from .test_app import MODEL, chat, metrics

TEXT = "/v1/completions"

#: Values of parameters that arithmetic, a queue or a parser could choke on.
HOSTILE = [
    '{"repetition_penalty": 1e-308, "temperature": 1}',
    '{"temperature": Infinity}',
    '{"temperature": NaN}',
    '{"temperature": 1e999}',
    '{"top_p": 5e-324}',
    '{"presence_penalty": -1e400}',
    '{"logit_bias": {"1": 1e999}}',
    '{"max_tokens": 1e999}',
    '{"max_tokens": 123456789012345678901234567890}',
    '{"seed": 18446744073709551616}',
    '{"top_k": 1e30}',
    '{"n": 1000000}',
    '{"stop": ["' + "x" * 100_000 + '"]}',
    '{"stop_token_ids": ' + str(list(range(1000))) + "}",
    '{"prompt": ' + "[" * 5000 + "]" * 5000 + "}",
    '{"prompt": "\\ud800"}',
    '{"prompt": [-1]}',
    '{"prompt": {"a": 1}}',
]


@pytest.fixture(scope="module")
def guarded(chat_directory: Path) -> Iterator[Running]:
    """A server with short time-outs."""
    limits = Limits(body_seconds=0.5, ping_seconds=0.05)
    connections = ConnectionLimits(head_seconds=0.5, write_seconds=0.5, look_seconds=0.1, connections=64)
    with serving(new_service(chat_directory, limits), connections=connections) as running:
        yield running


def raw(running: Running) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(running.url.rpartition(":")[2])), timeout=20)


def head(path: str, length: int) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", "Content-Type: application/json", f"Content-Length: {length}", "", ""]
    return "\r\n".join(lines).encode()


def closed_within(connection: socket.socket, seconds: float) -> bool:
    connection.settimeout(seconds)
    try:
        while connection.recv(4096):
            pass
    except TimeoutError:
        return False
    except ConnectionError:
        pass
    return True


@pytest.mark.parametrize("extra", HOSTILE)
def test_hostile_parameters_are_refused(server: Running, extra: str) -> None:
    body = json.dumps({"model": MODEL, "prompt": "x", "max_tokens": 1})[:-1] + ", " + extra[1:]
    answer = server.http.post(TEXT, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400 and answer.json()["error"]["type"] == "invalid_request_error"
    assert server.http.get("/health").status_code == 200


def test_answers_go_on_after_every_attack(server: Running, alone: LLM) -> None:
    assert chat(server, "the cat", max_tokens=4) == alone.generate("the cat", max_new_tokens=4, chat=True).text


def test_half_a_body(guarded: Running) -> None:
    """Those that send no more are closed and counted. Not among too many others: a connection whose head the server has not read
    yet may be closed for want of room.
    """
    before = metrics(guarded).get("hwgen_connections_closed_total/body", 0)
    with ExitStack() as stack:
        bodies = [stack.enter_context(raw(guarded)) for _ in range(4)]
        for connection in bodies:
            connection.sendall(head(TEXT, 100) + b'{"model": ')
        assert chat(guarded, "x", max_tokens=1) is not None
        assert all(closed_within(connection, 20) for connection in bodies)
    guarded.wait_until(lambda s: metrics(guarded).get("hwgen_connections_closed_total/body", 0) == before + 4)


def test_idle_and_half_sent_connections(guarded: Running) -> None:
    """136 that send nothing or half a head: everybody else is served, they are closed and counted."""
    before = metrics(guarded)
    with ExitStack() as stack:
        idle = [stack.enter_context(raw(guarded)) for _ in range(68)]
        half = [stack.enter_context(raw(guarded)) for _ in range(68)]
        for connection in half:
            connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-")
        with httpx.Client(base_url=guarded.url) as fresh:
            assert fresh.get("/health").status_code == 200
        assert chat(guarded, "x", max_tokens=1) is not None
        assert all(closed_within(connection, 20) for connection in idle + half)
    guarded.wait_until(lambda s: metrics(guarded)["hwgen_connections"] < 10)
    after = metrics(guarded)
    closed = [
        sum(values.get(f"hwgen_connections_closed_total/{reason}", 0) for reason in ("head", "full")) for values in (before, after)
    ]
    assert closed[1] - closed[0] >= 136


def test_a_head_that_never_ends(guarded: Running) -> None:
    """A byte now and then keeps no connection open."""
    with raw(guarded) as connection:
        end = time.monotonic() + 10
        try:
            connection.sendall(b"GET /health HTTP/1.1\r\n")
            while time.monotonic() < end:
                connection.sendall(b"X: y\r\n")
                time.sleep(0.05)
        except ConnectionError:
            return
    raise AssertionError("the connection stayed")


def test_a_client_that_takes_nothing(guarded: Running) -> None:
    """It asks for more than all buffers hold, and reads none of it."""
    with raw(guarded) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(0.5)
        with contextlib.suppress(OSError):
            connection.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 2000)
        end = time.monotonic() + 10
        while not metrics(guarded).get("hwgen_connections_closed_total/write"):
            assert time.monotonic() < end, "the connection stayed"
            time.sleep(0.1)


def test_a_kept_connection_may_go_on(guarded: Running) -> None:
    """Each request of a connection has a time of its own."""
    with httpx.Client(base_url=guarded.url) as client:
        for _ in range(5):
            assert client.get("/health").status_code == 200
            time.sleep(0.2)


@pytest.mark.parametrize(
    "bytes_",
    [
        b"\0\1\2" * 50, b"GET / HTTP/9.9\r\n\r\n", b"GET /" + b"a" * 100_000, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    ],
)
def test_what_is_no_http(guarded: Running, bytes_: bytes) -> None:
    with raw(guarded) as connection:
        connection.sendall(bytes_)
        assert closed_within(connection, 5)
    assert httpx.get(f"{guarded.url}/health").status_code == 200


def test_a_long_prompt_does_not_stop_the_others(guarded: Running) -> None:
    """A prompt of nearly 1 MB is made tokens while others are answered."""
    longest: list[float] = []
    done = threading.Event()

    def look() -> None:
        with httpx.Client(base_url=guarded.url) as client:
            while not done.is_set():
                begin = time.monotonic()
                assert client.get("/health").status_code == 200
                longest.append(time.monotonic() - begin)

    watcher = threading.Thread(target=look)
    watcher.start()
    begin = time.monotonic()
    answer = guarded.http.post(TEXT, json={"model": MODEL, "prompt": "the cat sat " * 80_000})
    took = time.monotonic() - begin
    done.set()
    watcher.join()
    assert answer.status_code == 400 and answer.json()["error"]["code"] == "context_length_exceeded"
    assert max(longest) < max(0.3, took / 2)


def garbage(random_: random.Random, running: Running) -> None:
    """One thing that a client should not send."""
    kind = random_.randrange(5)
    if kind < 2:
        with raw(running) as connection:
            connection.sendall(random_.randbytes(200) if kind else head(TEXT, 50) + b'{"model"')
            return
    body = {"model": MODEL, "prompt": "x", "max_tokens": 1}
    extra = json.loads(random_.choice(HOSTILE[:11]).replace("NaN", "1e999"))
    content: Any = json.dumps({**body, **extra}) if kind < 4 else random_.randbytes(random_.randrange(100))
    running.http.post(TEXT, content=content, headers={"content-type": "application/json"})


def test_sixty_four_that_send_garbage_beside_eight_that_do_not(guarded: Running, alone: LLM) -> None:
    texts = [f"the cat sat{' and sat' * (i % 4)} {i}" for i in range(8)]
    expected = [alone.generate(text, max_new_tokens=6, chat=True).text for text in texts]
    done = threading.Event()

    def attack(seed: int) -> int:
        random_, count = random.Random(seed), 0
        while not done.is_set():
            with contextlib.suppress(httpx.HTTPError, OSError):  # it may be thrown out
                garbage(random_, guarded)
            count += 1
            done.wait(0.2)  # clients and server share one interpreter here
        return count

    def ask(text: str) -> str:
        client = guarded.client.with_options(max_retries=2)
        answer = client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": text}], max_tokens=6)
        return str(answer.choices[0].message.content)

    with ThreadPoolExecutor(72) as pool:
        attackers = [pool.submit(attack, seed) for seed in range(64)]
        try:
            answers = list(pool.map(ask, texts))
        finally:
            done.set()
        assert sum(attacker.result() for attacker in attackers) >= 64
    assert answers == expected
    assert httpx.get(f"{guarded.url}/health").status_code == 200
    guarded.wait_idle()


# ---- answers and devices that fail -------------------------------------------------------------------------------
def test_an_exception_in_one_answer(server: Running, alone: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    from hwgen.sw.runtime.sampler import Sampler

    choose = Sampler.choose

    def fail(self: Sampler, *arguments: Any) -> int:
        if self.sampling.seed == 666:
            raise ZeroDivisionError("a bug")
        return choose(self, *arguments)

    monkeypatch.setattr(Sampler, "choose", fail)
    options = {"temperature": 1.0, "max_tokens": 4}
    expected = alone.generate("the cat", max_new_tokens=4, temperature=1.0, seed=1, chat=True).text
    with ThreadPoolExecutor(2) as pool:
        good = pool.submit(chat, server, "the cat", seed=1, **options)
        with pytest.raises(openai.InternalServerError, match="a bug"):
            chat(server, "the cat", seed=666, **options)
        assert good.result() == expected
    stream = server.http.post(TEXT, json={"model": MODEL, "prompt": "x", "seed": 666, "temperature": 1, "stream": True}).text
    last = json.loads(stream.strip().rpartition("data: ")[2])
    assert last["error"]["type"] == "server_error" and "[DONE]" not in stream
    assert server.http.get("/health").status_code == 200


def failing(running: Running) -> None:
    """Let every pass from now on fail, on this device."""

    def fail(*arguments: object) -> None:
        raise DeviceTimeout("it hangs")

    device = running.service.llm.device
    device.wait = fail  # type: ignore[method-assign]  # of this device alone
    device.read_registers = fail  # type: ignore[assignment,method-assign]  # one that is in a loop


def test_a_device_that_fails_once(chat_directory: Path, alone: LLM) -> None:
    """The stream that runs ends with an error event; the device is opened anew, and answers are exact again."""
    with serving(new_service(chat_directory, back_off=(0.3,))) as running:
        stream = running.client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "x"}], stream=True)
        next(iter(stream))
        failing(running)
        with pytest.raises(openai.APIError, match="it hangs"):
            list(stream)
        assert running.http.get("/health").status_code == 503
        # asked for while the device is being opened: it waits
        assert chat(running, "the cat", max_tokens=4) == alone.generate("the cat", max_new_tokens=4, chat=True).text
        assert running.http.get("/health").status_code == 200
        values = metrics(running)
        assert values["hwgen_device_reopened"] == 1 and values["hwgen_device_failed"] == 0


def test_a_device_that_cannot_be_opened_again(chat_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server ends by itself, with the reason."""
    service = new_service(chat_directory, back_off=(0.0, 0.05))

    def no_device() -> None:
        raise OSError("no such board")

    monkeypatch.setattr(service.llm, "reopen", no_device)
    with serving(service) as running:
        failing(running)
        with pytest.raises(openai.InternalServerError, match="it hangs"):
            chat(running, "x")
        running.wait_until(lambda s: running.server.failure is not None)
        assert running.server.failure is not None and "no such board" in running.server.failure.message


def test_the_end_of_the_server_ends_streams_with_an_error(chat_directory: Path) -> None:
    service = new_service(chat_directory)
    delay(service.llm.device, lambda: time.sleep(0.2))
    with serving(service, drain_seconds=0.3) as running:
        stream = running.client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "x"}], stream=True)
        next(iter(stream))
        running.server.should_exit = True
        with pytest.raises(openai.APIError, match="shutting down"):
            list(stream)


def test_silent_streams_get_comments(guarded: Running) -> None:
    device = guarded.service.llm.device
    wait = device.wait
    delay(device, lambda: time.sleep(0.2))
    try:
        text = guarded.http.post(TEXT, json={"model": MODEL, "prompt": "x", "max_tokens": 2, "stream": True}).text
    finally:
        device.wait = wait  # type: ignore[method-assign]
    assert ": waiting\n\n" in text and text.endswith("data: [DONE]\n\n")
