"""Several boards behind one endpoint: equal answers, boards that die, prompts that other boards read."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("uvicorn", reason="serving needs uvicorn")

from prometheus_client.parser import text_string_to_metric_families

from hwgen.sw.runtime.llm import LLM
from hwgen.sw.serve.front.board_link import BoardLink, Watch
from hwgen.sw.serve.front.front import Front, create_front
from hwgen.sw.serve.front.routing import Routes
from hwgen.sw.serve.server import Server

from ..conftest import Running, listening, new_service, serving

MODEL, CHAT, TEXT = "chatty", "/v1/chat/completions", "/v1/completions"
ROOT = Path(__file__).parents[4]

#: Soon to find boards, and patient with those that share a busy machine with many others.
QUICK = Watch(interval=0.1, patience=60.0, misses=2, models=0.5)


@contextmanager
def before(urls: list[str], prompt_urls: tuple[str, ...] = (), **options: Any) -> Iterator[httpx.Client]:
    """A front of boards at ``urls``, all of which have been found."""
    links = [[BoardLink(url.removeprefix("http://"), url) for url in some] for some in (urls, prompt_urls)]
    front = Front(Routes(*links, least=60), watch=QUICK, **options)
    with listening(Server(create_front(front), front, drain_seconds=2)) as url, httpx.Client(base_url=url, timeout=300) as client:
        wait_for(lambda: all(board.up or "refuses" in board.reason for board in front.routes))
        yield client


def wait_for(condition: Any) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end, "did not happen within two minutes"
        time.sleep(0.02)


def ask(client: httpx.Client, text: str, tokens: int = 8) -> httpx.Response:
    return client.post(TEXT, json={"model": MODEL, "prompt": text, "max_tokens": tokens, "temperature": 0})


def answer_to(alone: LLM, text: str, tokens: int = 8) -> str:
    return alone.generate(text, max_new_tokens=tokens).text


def sample(client: httpx.Client, name: str, **labels: str) -> float:
    """Sum of the samples that have these labels."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    return sum(s.value for f in families for s in f.samples if s.name == name and labels.items() <= s.labels.items())


@pytest.fixture(scope="module")
def boards(chat_directory: Path) -> Iterator[list[Running]]:
    """Three boards that are here all the time."""
    with ExitStack() as stack:
        yield [stack.enter_context(serving(new_service(chat_directory), prefixes=True)) for _ in range(3)]


@pytest.fixture
def clean(boards: list[Running]) -> list[Running]:
    """The same, with nothing kept of earlier prompts."""
    for board in boards:
        board.wait_idle()
        prefixes = board.service.llm.prefixes
        assert prefixes is not None
        board.service.scheduler.between_passes(prefixes.clear).result(10)
    return boards


def test_equal_answers_from_all_boards(clean: list[Running], alone: LLM) -> None:
    texts = [f"the cat sat {number} times" for number in range(9)]
    with before([board.url for board in clean]) as client, ThreadPoolExecutor(9) as pool:
        answers = list(pool.map(lambda text: ask(client, text), texts))
        assert [answer.json()["choices"][0]["text"] for answer in answers] == [answer_to(alone, text) for text in texts]
        assert len({answer.headers["x-hwgen-board"] for answer in answers}) == 3
        assert client.get("/health").json() == {"status": "ok"}
        assert [card["id"] for card in client.get("/v1/models").json()["data"]] == [MODEL]
        assert client.get(f"/v1/models/{MODEL}").json()["context_length"] == clean[0].service.llm.image.context
        states = client.get("/boards").json()["boards"]
        assert [(s["up"], s["for"], s["models"], s["busy"]) for s in states] == [(True, "answers", [MODEL], 0)] * 3
        names = [board.url.removeprefix("http://") for board in clean]
        assert sum(sample(client, "hwgen_board_requests_total", board=name, status="200") for name in names) == 9
        for board, name in zip(clean, names, strict=True):  # of the boards themselves, told apart
            assert sample(client, "hwgen_passes_total", board=name) > 0
            assert sample(client, "hwgen_kv_pages", board=name) == board.service.llm.image.pages
        assert sample(client, "hwgen_requests_total", board="front", path=TEXT) == 9
        tokens = client.post("/tokenize", json={"model": MODEL, "prompt": "the cat"}).json()["tokens"]
        assert client.post("/detokenize", json={"model": MODEL, "tokens": tokens}).json()["prompt"] == "the cat"


def test_a_prompt_goes_where_its_beginning_is(clean: list[Running]) -> None:
    first = [{"role": "user", "content": "the cat sat on the mat"}, {"role": "assistant", "content": "x"}]
    with before([board.url for board in clean]) as client:
        for text in ("a", "b"):  # so that the others are as little busy, and keep as much
            ask(client, text)
        turns = [first[:1], [*first, {"role": "user", "content": "why"}]]
        answers = [client.post(CHAT, json={"model": MODEL, "messages": turn, "max_tokens": 2}) for turn in turns]
        assert len({answer.headers["x-hwgen-board"] for answer in answers}) == 1
        assert answers[1].json()["usage"]["prompt_tokens_details"]["cached_tokens"] > 10


def test_what_is_refused(clean: list[Running]) -> None:
    with before([clean[0].url, clean[1].url]) as client:
        other = client.post(TEXT, json={"model": "other", "prompt": "x"})
        assert other.status_code == 404 and other.json()["error"]["code"] == "model_not_found"
        for stream in (False, True):  # of a board, as it is
            wrong = client.post(TEXT, json={"model": MODEL, "prompt": "x", "temperature": 9, "stream": stream})
            assert wrong.status_code == 400 and wrong.json()["error"]["param"] == "temperature"
        assert client.post(TEXT, content=b"{", headers={"content-type": "application/json"}).status_code == 400
        assert client.post(TEXT, content=b"{}", headers={"content-type": "text/plain"}).status_code == 415
        assert client.get("/v1/models/other").status_code == 404
        assert sample(client, "hwgen_board_retries_total") == 0


def test_keys(chat_directory: Path) -> None:
    with serving(new_service(chat_directory), key="secret") as board:
        with before([board.url], key="secret") as client:
            assert ask(client, "x").status_code == 401 and client.get("/boards").status_code == 401
            client.headers["Authorization"] = "Bearer secret"
            assert ask(client, "x").status_code == 200
            assert sample(client, "hwgen_board_up") == 1 and sample(client, "hwgen_passes_total") > 0
        with before([board.url], key="wrong", body_bytes=100) as client:
            client.headers["Authorization"] = "Bearer wrong"
            assert "check the API key" in client.get("/boards").json()["boards"][0]["reason"]
            assert client.get("/health").status_code == 503 and ask(client, "x").json()["error"]["code"] == "no_board"
            assert ask(client, "x" * 200).status_code == 413


# ---- a board dies ------------------------------------------------------------------------------------------------
@contextmanager
def process_board(directory: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [sys.executable, "-m", "tests.sw.serve.front.slow_board", str(directory)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, f"http://127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.kill()


def events(stream: Iterator[str]) -> list[Any]:
    rows = [line.removeprefix("data: ") for line in stream if line.startswith("data: ")]
    return [row if row == "[DONE]" else json.loads(row) for row in rows]


def text_of(rows: list[Any]) -> str:
    return "".join(choice["text"] for row in rows if "choices" in row for choice in row["choices"])


def test_a_board_is_killed_in_the_middle_of_a_load(clean: list[Running], chat_directory: Path, alone: LLM) -> None:
    """One stream runs on it, and breaks; whole answers and streams that wait there are answered elsewhere."""
    long = {"model": MODEL, "max_tokens": 30, "stream": True, "temperature": 0}
    # an event with every token, whether or not it is whole characters
    first_of_all = {**long, "prompt": "the first", "ignore_eos": True, "logprobs": 1}
    whole_of_it = clean[2].http.post(TEXT, json={**first_of_all, "stream": False}).json()["choices"][0]["text"]
    with ExitStack() as stack:
        process, url = stack.enter_context(process_board(chat_directory))
        name = url.removeprefix("http://")
        client = stack.enter_context(before([url, clean[0].url, clean[1].url]))
        running = stack.enter_context(client.stream("POST", TEXT, json=first_of_all))
        assert running.headers["x-hwgen-board"] == name
        lines = running.iter_lines()
        first = next(lines)
        os.kill(process.pid, signal.SIGSTOP)  # what comes now waits there
        pool = stack.enter_context(ThreadPoolExecutor(12))

        def streamed(text: str) -> list[Any]:
            with client.stream("POST", TEXT, json={**long, "prompt": text, "max_tokens": 8}) as response:
                return events(response.iter_lines())

        texts = [f"the cat sat {number}" for number in range(6)]
        whole = [pool.submit(ask, client, text) for text in texts]
        streams = [pool.submit(streamed, text) for text in texts]
        wait_for(lambda: next(b["busy"] for b in client.get("/boards").json()["boards"] if b["board"] == name) >= 3)
        process.kill()
        expected = [answer_to(alone, text) for text in texts]
        assert [answer.result().json()["choices"][0]["text"] for answer in whole] == expected
        for rows, text in zip([stream.result() for stream in streams], expected, strict=True):
            assert rows[-1] == "[DONE]" and text_of(rows[:-1]) == text
        broken = events(iter([first, *lines]))
        assert broken[-1]["error"]["code"] == "board_lost" and name in broken[-1]["error"]["message"]
        assert whole_of_it.startswith(text_of(broken[:-1]))
        assert sample(client, "hwgen_board_broken_answers_total", board=name) == 1
        assert sample(client, "hwgen_board_retries_total", board=name) >= 2
        assert sample(client, "hwgen_board_up", board=name) == 0 and sample(client, "hwgen_board_up") == 2
        assert client.get("/health").status_code == 200 and ask(client, "after that").status_code == 200


def test_no_board(clean: list[Running]) -> None:
    """A board that fails and comes back."""
    with before([clean[0].url]) as client:
        clean[0].service.scheduler._recovering = RuntimeError("made up")  # type: ignore[assignment]
        try:
            wait_for(lambda: client.get("/health").status_code == 503)
            missing = ask(client, "x")
            assert missing.status_code == 503 and "its accelerator failed" in missing.json()["error"]["message"]
        finally:
            clean[0].service.scheduler._recovering = None
        wait_for(lambda: client.get("/health").status_code == 200)
        assert ask(client, "x").status_code == 200


# ---- prompts of other boards -------------------------------------------------------------------------------------
def test_prompts_and_answers_apart(clean: list[Running], alone: LLM) -> None:
    """Equal bits as of one board; the board that answers computes the last token of a prompt and what follows."""
    reader, *others = clean
    texts = [f"{number} cats sat on the mat and the cat sat" for number in range(4)]
    passes = [board.service.metrics.registry.get_sample_value("hwgen_passes_total", {"phase": "prefill"}) or 0 for board in clean]
    with before([board.url for board in others], (reader.url,), worth=20) as client:
        answers = [ask(client, text, 12).json() for text in texts]
        assert [answer["choices"][0]["text"] for answer in answers] == [answer_to(alone, text, 12) for text in texts]
        for answer in answers:
            usage = answer["usage"]
            assert usage["prompt_tokens_details"]["cached_tokens"] == usage["prompt_tokens"] - 1 > 16
        assert sample(client, "hwgen_prefixes_moved_total", result="ok") == 4
        assert sample(client, "hwgen_prefix_bytes_total") > 4 * 1000
        message = [{"role": "user", "content": "why does the cat sit on the mat"}]
        drawn = {"model": MODEL, "messages": message, "max_tokens": 12, "temperature": 0.9, "seed": 5, "stream": True}
        with client.stream("POST", CHAT, json=drawn) as response:
            rows = events(response.iter_lines())
        text = "".join(row["choices"][0]["delta"].get("content") or "" for row in rows[:-1])
        expected = alone.generate(message[0]["content"], max_new_tokens=12, temperature=0.9, seed=5, chat=True).text
        assert text == expected and sample(client, "hwgen_prefixes_moved_total", result="ok") == 5
        several = client.post(TEXT, json={"model": MODEL, "prompt": [text * 2 for text in texts[:2]], "max_tokens": 1})
        assert several.status_code == 200 and sample(client, "hwgen_prefixes_moved_total", result="not read") == 1
        assert ask(client, "short").status_code == 200 and sample(client, "hwgen_prefixes_moved_total") == 6
    after = [board.service.metrics.registry.get_sample_value("hwgen_passes_total", {"phase": "prefill"}) or 0 for board in clean]
    assert after[0] > passes[0]


def test_prefixes_are_given_to_nobody_by_default(chat_directory: Path) -> None:
    with serving(new_service(chat_directory)) as board:
        body = {"model": MODEL, "prompt": "the cat"}
        assert board.http.post("/prefixes/text", json=body).status_code == 404
        assert board.http.put("/prefixes", content=b"x").status_code == 404


def test_prefixes_that_are_refused(clean: list[Running]) -> None:
    board, other, _ = clean
    taken = board.http.post("/prefixes/text", json={"model": MODEL, "prompt": "the cat sat on the mat"})
    assert taken.status_code == 200 and taken.headers["content-type"] == "application/octet-stream"
    damaged = bytearray(taken.content)
    damaged[-1] ^= 1
    assert other.http.put("/prefixes", content=bytes(damaged)).status_code == 500
    assert other.http.put("/prefixes", params={"model": "none"}, content=taken.content).status_code == 404
    assert other.service.llm.prefixes is not None and len(other.service.llm.prefixes) == 0
    given = other.http.put("/prefixes", content=taken.content).json()
    tokens = other.http.post("/tokenize", json={"model": MODEL, "prompt": "the cat sat on the mat"}).json()["count"]
    assert given == {"tokens": tokens - 1}
    assert other.service.llm.engine.pages.free == other.service.llm.image.pages - other.service.llm.engine.pages.blocks(tokens - 1)
    assert board.http.post("/prefixes/chat", json={"model": MODEL, "messages": []}).status_code == 400
