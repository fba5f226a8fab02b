from __future__ import annotations

import json
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from hwgen.rounding import ceil_div
from hwgen.sw.runtime.llm import LLM
from hwgen.sw.serve.protocol import CompletionRequest, parse
from hwgen.sw.serve.service import Limits

from .conftest import Running, delay, new_service, serving

MODEL = "chatty"


def chat(running: Running, text: str, **options: object) -> str:
    answer = running.client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": text}],
        **options,  # type: ignore[call-overload]  # by name
    )
    return str(answer.choices[0].message.content)


def streamed(running: Running, text: str, **options: object) -> str:
    chunks = running.client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": text}],
        stream=True,
        **options,  # type: ignore[call-overload]
    )
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


def metrics(running: Running) -> dict[str, float]:
    families = text_string_to_metric_families(running.http.get("/metrics").text)
    return {
        s.name + "".join(f"/{v}" for v in s.labels.values()): s.value for f in families for s in f.samples if "bucket" not in s.name
    }


# ---- answers -----------------------------------------------------------------------------------------------------
def test_chat(server: Running, alone: LLM) -> None:
    expected = alone.generate("the cat", max_new_tokens=12, chat=True)
    answer = server.client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "the cat"}], max_completion_tokens=12
    )
    assert answer.object == "chat.completion" and answer.model == MODEL
    choice = answer.choices[0]
    assert choice.message.role == "assistant" and choice.message.content == expected.text
    assert choice.finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(expected.generation.prompt)
    assert answer.usage.completion_tokens == 12
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 12


def test_chat_streams(server: Running, alone: LLM) -> None:
    expected = alone.generate("a cat", max_new_tokens=12, chat=True)
    chunks = list(
        server.client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "a cat"}],
            max_tokens=12,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert {c.object for c in chunks} == {"chat.completion.chunk"} and len({c.id for c in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks[:-1]) == expected.text
    assert [c.choices[0].finish_reason for c in chunks[:-1]] == [None] * (len(chunks) - 2) + ["length"]
    usage = chunks[-1].usage
    assert chunks[-1].choices == [] and usage is not None and usage.completion_tokens == 12
    pieces = list(alone.generate("a cat", max_new_tokens=12, chat=True))
    assert [c.choices[0].delta.content for c in chunks[1:-2]] == pieces  # as they come


def test_conversation(server: Running, alone: LLM) -> None:
    """Every message reaches the template; the beginning that both turns share is not computed again."""
    messages = [
        {"role": "developer", "content": "be a cat"},
        {"role": "user", "content": [{"type": "text", "text": "the "}, {"type": "text", "text": "cat"}]},
        {"role": "assistant", "content": "meow"},
        {"role": "user", "content": "sat"},
    ]
    prompts: list[list[int]] = []
    for count in (2, 4):
        text = "".join(
            f"[{r}]{c}" for r, c in [("system", "be a cat"), ("user", "the cat"), ("assistant", "meow"), ("user", "sat")][:count]
        )
        expected = alone.generate(alone.model.tokenizer.encode_text(text + "[assistant]"), max_new_tokens=3)
        answer = server.client.chat.completions.create(model=MODEL, messages=messages[:count], max_tokens=3)  # type: ignore[arg-type]
        assert answer.choices[0].message.content == expected.text
        assert answer.usage is not None and answer.usage.prompt_tokens == len(expected.generation.prompt)
        prompts.append(list(expected.generation.prompt))
    shared = len(os.path.commonprefix(prompts))
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == shared > 0


@pytest.mark.parametrize("kind", ["text", "list", "tokens"])
def test_completion(server: Running, alone: LLM, kind: str) -> None:
    expected = alone.generate("once", max_new_tokens=16)
    ids = list(expected.generation.prompt)
    prompt = {"text": "once", "list": ["once"], "tokens": ids}[kind]
    answer = server.client.completions.create(model=MODEL, prompt=prompt)  # type: ignore[call-overload]
    assert answer.object == "text_completion" and answer.choices[0].text == expected.text
    assert answer.usage.completion_tokens == 16 and answer.usage.prompt_tokens == len(ids)
    pieces = [c.choices[0].text for c in server.client.completions.create(model=MODEL, prompt=prompt, stream=True)]  # type: ignore[call-overload]
    assert "".join(pieces) == expected.text


def test_sampling_parameters(server: Running, alone: LLM) -> None:
    options = {"temperature": 1.5, "top_p": 0.9, "seed": 3}
    expected = alone.generate("the cat", max_new_tokens=10, chat=True, top_k=50, repetition_penalty=1.2, **options)  # type: ignore[arg-type]
    extra = {"top_k": 50, "repetition_penalty": 1.2}
    assert chat(server, "the cat", max_tokens=10, extra_body=extra, **options) == expected.text
    # Seeds of their own, where none is given; not seen in answers of the tiny model, which is sure of nearly every token.
    body = json.dumps({"model": MODEL, "prompt": "x", "temperature": 2})
    assert len({server.service._sampling(parse(CompletionRequest, body.encode()), 0).seed for _ in range(4)}) > 1


def test_context_full(server: Running) -> None:
    answer = server.client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "the cat"}], max_tokens=4000)
    assert answer.choices[0].finish_reason == "length" and answer.usage is not None
    assert answer.usage.total_tokens == 65  # the last token needs no place in the context


def test_stop_strings(server: Running, alone: LLM) -> None:
    text = alone.generate("the cat", max_new_tokens=20, chat=True).text
    assert len(text) > 8
    stop = text[4:7]
    expected = text[: text.index(stop)]
    for ask in (chat, streamed):
        assert ask(server, "the cat", max_tokens=20, stop=["\0nothing", stop]) == expected
        assert ask(server, "the cat", max_tokens=20, stop="\0nothing") == text
    answer = server.client.completions.create(model=MODEL, prompt="x", stop=stop, max_tokens=1)
    assert answer.choices[0].finish_reason == "length"
    stopped = server.client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "the cat"}], max_tokens=20, stop=stop
    )
    assert stopped.choices[0].finish_reason == "stop"
    server.wait_idle()


def test_models(server: Running) -> None:
    assert [m.id for m in server.client.models.list()] == [MODEL]
    assert server.client.models.retrieve(MODEL).owned_by == "hwgen"
    with pytest.raises(openai.NotFoundError, match="no-such"):
        server.client.models.retrieve("no-such")
    with pytest.raises(openai.NotFoundError) as caught:
        server.client.completions.create(model="no-such", prompt="x")
    assert caught.value.code == "model_not_found"


# ---- many clients ------------------------------------------------------------------------------------------------
def test_eight_clients_get_what_each_gets_alone(server: Running, alone: LLM) -> None:
    texts = [f"the cat sat{' and sat' * i}" for i in range(4)] + ["a cat", "the dog", "once", "x" * 30]
    expected = [alone.generate(t, max_new_tokens=8 + i, chat=True).text for i, t in enumerate(texts)]
    together = threading.Barrier(8)

    def ask(i: int) -> str:
        together.wait()
        return (streamed if i % 2 else chat)(server, texts[i], max_tokens=8 + i)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(8))) == expected
    server.wait_idle()


def test_a_client_that_goes_away_frees_its_slot(chat_directory: Path) -> None:
    with serving(new_service(chat_directory, Limits(sessions=1))) as running:
        whole = chat(running, "once", max_tokens=3)
        delay(running.service.llm.device, lambda: time.sleep(0.1))
        stream = running.client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "the cat"}], stream=True)
        next(iter(stream))
        port = int(running.url.rpartition(":")[2])
        body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "a cat"}]}).encode()
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        head += f"Content-Length: {len(body)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", port)) as waiting:  # no stream, and behind the other
            waiting.sendall(head.encode() + body)
            running.wait_until(lambda s: s.scheduler.waiting == 1 and s.scheduler.running == 1)
        running.wait_until(lambda s: s.scheduler.waiting == 0)
        assert running.service.scheduler.running == 1
        stream.response.close()
        running.wait_idle()
        assert metrics(running)["hwgen_cancelled_total"] == 2
        assert chat(running, "once", max_tokens=3) == whole
        prefixes = running.service.llm.prefixes
        assert prefixes is not None
        running.wait_idle()
        prefixes.clear()
        engine = running.service.llm.engine
        assert engine.pages.free == engine.image.pages


# ---- refusals ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({"prompt": "x", "n": 0}, "n", "greater than or equal to 1"),
        ({"prompt": "x", "n": 100}, "n", "takes 72 at a time"),
        ({"prompt": "x", "best_of": 2, "n": 3}, "best_of", "fewer than the 3 answers"),
        ({"prompt": "x", "best_of": 2, "stream": True}, "best_of", "a stream cannot have them"),
        ({"prompt": "x", "logprobs": 3, "echo": True, "stream": True}, "logprobs", "do not come in a stream"),
        ({"prompt": "x", "logprobs": 21}, "logprobs", "less than or equal to 20"),
        ({"prompt": "x", "suffix": "y"}, "suffix", "not supported"),
        ({"prompt": "x", "frobnicate": 1}, "frobnicate", "not a parameter"),
        ({"prompt": "x", "messages": []}, "messages", "not a parameter"),
        ({"prompt": "x", "presence_penalty": 2.5}, "presence_penalty", "less than or equal to 2"),
        ({"prompt": "x", "temperature": -1}, "temperature", "greater than or equal to 0"),
        ({"prompt": "x", "temperature": "1"}, "temperature", "valid number"),
        ({"prompt": "x", "temperature": 1e-310}, "temperature", "normal number"),
        ({"prompt": "x", "repetition_penalty": 1e-300}, "repetition_penalty", "greater than or equal to 0.01"),
        ({"prompt": "x", "min_p": 1.1}, "min_p", "less than or equal to 1"),
        ({"prompt": "x", "logit_bias": {"300": 1}}, "logit_bias", "outside 0..258"),
        ({"prompt": "x", "logit_bias": {"x": 1}}, "logit_bias", "pattern"),
        ({"prompt": "x", "max_tokens": -2}, "max_tokens", "greater than or equal to 0"),
        ({"prompt": "x", "max_tokens": 1.5}, "max_tokens", "valid integer"),
        ({"prompt": "x", "seed": -2}, "seed", "greater than or equal to 0"),
        ({"prompt": "x", "stream": "yes"}, "stream", "valid boolean"),
        ({"prompt": "x", "stream_options": {"include_everything": True}}, "stream_options", "not permitted"),
        ({"prompt": "x", "stop": ["a"] * 5}, "stop", "at most 4"),
        ({"prompt": "x", "stop": ""}, "stop", "at least 1"),
        ({"prompt": [[]]}, "prompt", "at least 1"),
        ({"prompt": ["a", 1]}, "prompt", "valid"),
        ({"prompt": [300]}, "prompt", "outside 0..258"),
        ({"prompt": []}, "prompt", "at least 1"),
        ({"prompt": None}, "prompt", "required"),
        ({}, "prompt", "required"),
    ],
)
def test_bad_requests(server: Running, body: dict[str, object], param: str | None, message: str) -> None:
    answer = server.http.post("/v1/completions", json={"model": MODEL, **body})
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["type"] == "invalid_request_error"
    assert error["param"] == param and message in error["message"]


@pytest.mark.parametrize(
    "messages",
    [[], [{"role": "robot", "content": "x"}], [{"role": "user"}], [{"role": "user", "content": [{"type": "image_url"}]}]],
)
def test_bad_messages(server: Running, messages: list[object]) -> None:
    answer = server.http.post("/v1/chat/completions", json={"model": MODEL, "messages": messages})
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "messages"


def test_requests_that_are_no_json(server: Running) -> None:
    path, kind = "/v1/completions", {"content-type": "application/json"}
    for content in (b"", b"{", b"[]", b"\xff", b"3"):
        assert server.http.post(path, content=content, headers=kind).status_code == 400
    assert server.http.post(path, content=b"{}", headers={"content-type": "text/plain"}).status_code == 415
    assert server.http.get(path).status_code == 405
    assert server.http.get("/v2").json()["error"]["type"] == "not_found_error"
    refused = server.http.post("/v1/responses", json={"model": MODEL, "input": "x"})
    assert refused.status_code == 404 and "use /v1/chat/completions" in refused.json()["error"]["message"]


def test_neutral_parameters_are_taken(server: Running) -> None:
    body = {
        "model": MODEL,
        "prompt": "x",
        "max_tokens": 1,
        "n": 1,
        "logprobs": None,
        "presence_penalty": 0,
        "logit_bias": {},
        "user": "me",
    }
    assert server.http.post("/v1/completions", json=body).status_code == 200


def test_limits(chat_directory: Path) -> None:
    limits = Limits(sessions=1, waiting=1, new_tokens=40, body_bytes=2000)
    with serving(new_service(chat_directory, limits)) as running:
        with pytest.raises(openai.BadRequestError, match="longer than the context of 64") as caught:
            chat(running, "y" * 500)
        assert caught.value.code == "context_length_exceeded"
        with pytest.raises(openai.APIStatusError, match="longer than 2000 bytes") as large:
            chat(running, "y" * 2000)
        assert large.value.status_code == 413
        with pytest.raises(openai.BadRequestError, match="at most 40"):
            chat(running, "x", max_tokens=41)
        going = threading.Event()
        delay(running.service.llm.device, lambda: going.wait(60))
        busy = [
            running.client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "x"}], stream=True)
            for _ in range(2)
        ]
        with pytest.raises(openai.RateLimitError) as full:
            chat(running, "x")
        assert full.value.response.headers["retry-after"] and full.value.code == "queue_full"
        going.set()
        assert [list(stream)[-1].choices[0].finish_reason for stream in busy] == ["length"] * 2
        assert chat(running, "x", max_tokens=2) is not None
        assert metrics(running)["hwgen_requests_total//v1/chat/completions/429"] == 1


def test_api_key(chat_directory: Path) -> None:
    with serving(new_service(chat_directory), key="secret") as running:
        assert chat(running, "x", max_tokens=1) is not None
        for headers in ({}, {"Authorization": "Bearer secreT"}, {"Authorization": "Basic secret"}, {"Authorization": "Bearer"}):
            for method, path in (("POST", "/v1/completions"), ("GET", "/v1/models"), ("GET", "/metrics")):
                answer = running.http.request(method, path, headers=headers)
                assert answer.status_code == 401 and answer.json()["error"]["type"] == "authentication_error"
        with pytest.raises(openai.AuthenticationError):
            running.client.with_options(api_key="wrong").models.list()
        assert running.http.get("/health").json() == {"status": "ok"}


def test_other_hosts(chat_directory: Path) -> None:
    with serving(new_service(chat_directory), hosts=["127.0.0.1"]) as running:
        assert running.http.get("/v1/models").status_code == 200
        assert running.http.get("/v1/models", headers={"Host": "rebound.example"}).status_code == 400


def test_model_without_template(model_directory: Path, alone: LLM) -> None:
    """A conversation is continued as text."""
    with serving(new_service(model_directory)) as running:
        messages = [
            {"role": "user", "content": "the cat"},
            {"role": "assistant", "content": " sat"},
            {"role": "user", "content": "and"},
        ]
        answer = running.client.chat.completions.create(model="small", messages=messages, max_tokens=5)  # type: ignore[arg-type]
        assert answer.choices[0].message.content == alone.generate("the cat sat\nand", max_new_tokens=5).text


def test_template_that_refuses(chat_directory: Path, tmp_path: Path) -> None:
    service = new_service(chat_directory)
    service.llm.model.tokenizer._chat_template = "{{ raise_exception('no such order') }}"
    with serving(service) as running, pytest.raises(openai.BadRequestError, match="no such order"):
        chat(running, "x")


def test_pages_of_other_sites(server: Running, chat_directory: Path) -> None:
    ask = {"Origin": "https://page.example", "Access-Control-Request-Method": "POST"}
    ask["Access-Control-Request-Headers"] = "content-type"
    assert "access-control-allow-origin" not in server.http.options("/v1/completions", headers=ask).headers
    with serving(new_service(chat_directory), key="secret", origins=["https://page.example"]) as running:
        allowed = running.http.options("/v1/completions", headers=ask)
        assert allowed.status_code == 200 and allowed.headers["access-control-allow-origin"] == "https://page.example"
        other = running.http.options("/v1/completions", headers={**ask, "Origin": "https://other.example"})
        assert other.status_code == 400 and "access-control-allow-origin" not in other.headers
        # an error can be read by the page too
        refused = running.http.get("/v1/models", headers={"Origin": "https://page.example"})
        assert refused.status_code == 401 and refused.headers["access-control-allow-origin"] == "https://page.example"


def test_log_of_requests(chat_directory: Path) -> None:
    """A line a request, with nothing of its text, and none that a path could forge."""
    lines: list[str] = []
    with serving(new_service(chat_directory), log=lines.append) as running:
        assert chat(running, "a secret", max_tokens=3) is not None
        streamed(running, "a secret", max_tokens=2)
        running.http.get("/x%0aforged")
        running.http.post("/v1/completions", json={"model": MODEL})
        running.wait_until(lambda s: len(lines) == 4)
    words = [line.split() for line in lines]
    assert [w[2:5] for w in words] == [
        ["POST", "/v1/chat/completions", "200"], ["POST", "/v1/chat/completions", "200"],
        ["GET", "/x%0Aforged", "404"], ["POST", "/v1/completions", "400"],
    ]
    assert words[0][-2:] == ["answer=3", "end=length"] and words[1][-2] == "answer=2" and words[0][-3].startswith("prompt=")
    assert not any("secret" in line or "\n" in line for line in lines)


# ---- metrics -----------------------------------------------------------------------------------------------------
def test_metrics(chat_directory: Path) -> None:
    with serving(new_service(chat_directory)) as running:
        for _ in range(2):
            chat(running, "the cat sat and sat", max_tokens=4)
        running.wait_idle()
        values = metrics(running)
    prompt = values["hwgen_prompt_tokens_total"] / 2
    assert values["hwgen_answer_tokens_total"] == 8
    assert values["hwgen_reused_tokens_total"] == prompt - 1 > 0
    assert values["hwgen_passes_total/decode"] == 6 and values["hwgen_passes_total/prefill"] == ceil_div(prompt, 8) + 1
    assert values["hwgen_first_token_seconds_count"] == 2 and values["hwgen_next_token_seconds_count"] == 6
    assert values["hwgen_running"] == values["hwgen_waiting"] == 0
    assert 0 < values["hwgen_kv_pages_free"] < values["hwgen_kv_pages"] == 16 and values["hwgen_prefixes"] == 1
    assert values["hwgen_requests_total//v1/chat/completions/200"] == 2
