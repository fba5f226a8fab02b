"""What clients send beside a prompt and a length."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from hwgen.sw.runtime.llm import LLM
from hwgen.sw.runtime.sampling import Sampling

from .conftest import Running

MODEL = "chatty"
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
SAY = [{"role": "user", "content": "the cat"}]


def ask(running: Running, path: str, **body: Any) -> dict[str, Any]:
    answer = running.http.post(path, json={"model": MODEL, **body})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def events(running: Running, path: str, **body: Any) -> list[dict[str, Any]]:
    """The events of a stream, which must end with [DONE]."""
    lines = running.http.post(path, json={"model": MODEL, "stream": True, **body}).text.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-2] if not line.startswith(":")]


def test_neutral_and_null_parameters_are_taken(server: Running, alone: LLM) -> None:
    nulls = dict.fromkeys(
        (
            "temperature", "top_p", "top_k", "min_p", "n", "seed", "stop", "stream", "stream_options", "presence_penalty",
            "logit_bias", "repetition_penalty", "stop_token_ids", "ignore_eos", "logprobs", "user", "best_of", "echo", "suffix",
        )
    )
    neutral = {"n": 1, "best_of": 1, "suffix": "", "logprobs": False, "user": "me", "top_k": -1, "seed": -1, "store": False}
    expected = alone.generate("x", max_new_tokens=3).text
    for extra in (nulls, neutral, {"temperature": 1.0e-3, "top_k": 1.0}):
        assert ask(server, TEXT, prompt="x", **{"max_tokens": 3, **extra})["choices"][0]["text"] == expected
    whole = ask(server, TEXT, prompt="x", max_tokens=-1)
    assert whole["usage"]["completion_tokens"] == 16  # as if it were left out
    nulls = dict.fromkeys(("tools", "tool_choice", "response_format", "top_logprobs"))
    chat = ask(server, CHAT, messages=SAY, max_tokens=2, **nulls)
    assert chat["choices"][0]["message"]["content"] == alone.generate("the cat", max_new_tokens=2, chat=True).text


def test_several_prompts_and_answers(server: Running, alone: LLM) -> None:
    """Answers are numbered prompt by prompt; the seed of each is its own and told by its number."""
    body = {"prompt": ["the cat", "a dog"], "n": 2, "temperature": 1.2, "seed": 5, "max_tokens": 6}
    each = [(prompt, seed) for prompt in ("the cat", "a dog") for seed in (5, 6)]
    expected = [alone.generate(prompt, max_new_tokens=6, temperature=1.2, seed=seed).text for prompt, seed in each]
    answer = ask(server, TEXT, **body)
    assert [c["text"] for c in answer["choices"]] == expected and [c["index"] for c in answer["choices"]] == [0, 1, 2, 3]
    prompts = sum(len(alone.model.tokenizer.encode(p)) for p in ("the cat", "a dog"))
    assert answer["usage"]["prompt_tokens"] == prompts and answer["usage"]["completion_tokens"] == 24
    texts = ["", "", "", ""]
    for chunk in events(server, TEXT, **body):
        texts[chunk["choices"][0]["index"]] += chunk["choices"][0]["text"]
    assert texts == expected
    ids = [alone.model.tokenizer.encode(p) for p in ("the cat", "a dog")]
    assert [c["text"] for c in ask(server, TEXT, **{**body, "prompt": ids})["choices"]] == expected


def test_logprobs(server: Running, alone: LLM) -> None:
    """They are those of the logits that the device gives, whatever the sampling."""
    generation = alone.generation(alone.model.tokenizer.encode("the cat"), 4, alone_sampling(), logprobs=3)
    expected = [item.logprobs for item in generation]
    generation.release()
    logits = alone.engine.logits().astype(np.float64)
    last = np.sort(logits - np.log(np.exp(logits).sum()))[::-1]
    assert expected[-1] is not None
    np.testing.assert_allclose([x for _, x in expected[-1].top], last[:3], atol=1e-9)
    body = {"max_tokens": 4, "temperature": 1.5, "seed": 2, "logit_bias": {"5": 3}}
    answer = ask(server, TEXT, prompt="the cat", logprobs=3, **body)["choices"][0]["logprobs"]
    assert answer["token_logprobs"] == pytest.approx([e.logprob for e in expected if e])
    for top, entry in zip(answer["top_logprobs"], expected, strict=True):
        assert entry is not None and sorted(top.values(), reverse=True) == pytest.approx([x for _, x in entry.top])
    assert answer["text_offset"][0] == 0 and len(answer["tokens"]) == 4
    streamed = events(server, TEXT, prompt="the cat", logprobs=3, **body)
    parts = [c["choices"][0]["logprobs"] for c in streamed if c["choices"][0]["logprobs"]]
    assert [x for part in parts for x in part["token_logprobs"]] == answer["token_logprobs"]
    chat = ask(server, CHAT, messages=SAY, logprobs=True, top_logprobs=2, max_tokens=3)["choices"][0]["logprobs"]["content"]
    assert len(chat) == 3 and all(t["logprob"] == t["top_logprobs"][0]["logprob"] for t in chat)  # greedy
    assert all(t["bytes"] is None or bytes(t["bytes"]).decode() == t["token"] for t in chat)
    wrong = server.http.post(CHAT, json={"model": MODEL, "messages": SAY, "top_logprobs": 2})
    assert wrong.status_code == 400 and wrong.json()["error"]["param"] == "top_logprobs"


def test_logprobs_of_the_prompt(server: Running, alone: LLM) -> None:
    """As the harnesses that score models ask for them: of every token but the first, in one pass or several, and no answer."""
    prompt = alone.model.tokenizer.encode("the cat sat on the mat")
    assert len(prompt) > alone.image.chunk
    scores = []
    for length in range(1, len(prompt)):
        whole = alone.generation(prompt[:length], 1, alone_sampling())
        list(whole)  # gives all logits behind every beginning
        whole.release()
        logits = alone.engine.logits().astype(np.float64)
        scores.append(float(logits[prompt[length]] - logits.max() - np.log(np.exp(logits - logits.max()).sum())))
    for new in (0, 2):
        answer = ask(server, TEXT, prompt=prompt, echo=True, logprobs=2, max_tokens=new)["choices"][0]["logprobs"]
        assert answer["token_logprobs"][0] is None and answer["top_logprobs"][0] is None
        assert answer["token_logprobs"][1 : len(prompt)] == pytest.approx(scores, abs=1e-9)
        assert len(answer["tokens"]) == len(prompt) + new and answer["text_offset"][0] == 0
        assert all(len(top) <= 2 for top in answer["top_logprobs"][1:])


def test_best_of(server: Running, alone: LLM) -> None:
    """The likeliest a token of those that n = best_of gives, in the order of their likelihood."""
    body = {"prompt": "the cat", "max_tokens": 6, "temperature": 2.0, "seed": 5}
    everything = ask(server, TEXT, **body, n=5, logprobs=0)["choices"]
    means = [np.mean(c["logprobs"]["token_logprobs"]) for c in everything]
    assert len(set(means)) == 5
    expected = [everything[i]["text"] for i in np.argsort(means)[::-1][:2]]
    best = ask(server, TEXT, **body, n=2, best_of=5)
    assert [c["text"] for c in best["choices"]] == expected and [c["index"] for c in best["choices"]] == [0, 1]
    assert best["choices"][0]["logprobs"] is None
    assert best["usage"]["completion_tokens"] == sum(len(c["logprobs"]["tokens"]) for c in everything)


def alone_sampling() -> Sampling:
    return Sampling(temperature=1.5, seed=2, logit_bias={5: 3.0})


def test_echo_and_no_tokens(server: Running, alone: LLM) -> None:
    text = alone.generate("the cat", max_new_tokens=3).text
    assert ask(server, TEXT, prompt="the cat", echo=True, max_tokens=3)["choices"][0]["text"] == "the cat" + text
    ids = alone.model.tokenizer.encode("the cat")
    nothing = ask(server, TEXT, prompt=ids, echo=True, max_tokens=0)
    assert nothing["choices"][0]["text"] == "the cat" and nothing["usage"]["completion_tokens"] == 0
    assert ask(server, CHAT, messages=SAY, max_tokens=0)["choices"][0]["message"]["content"] == ""
    chunks = events(server, TEXT, prompt="the cat", echo=True, max_tokens=3)
    assert "".join(c["choices"][0]["text"] for c in chunks) == "the cat" + text


def test_penalties_and_biases_reach_the_sampler(server: Running, alone: LLM) -> None:
    for name, value in (("presence_penalty", 2.0), ("frequency_penalty", 1.5), ("min_p", 0.5), ("repetition_penalty", 1.5)):
        options = {name: value, "temperature": 0.9, "seed": 1}
        expected = alone.generate("the cat", max_new_tokens=8, **options).text  # type: ignore[arg-type]  # by name
        assert ask(server, TEXT, prompt="the cat", max_tokens=8, **options)["choices"][0]["text"] == expected
    greedy = alone.generate("the cat", max_new_tokens=5)
    assert greedy.text != "77777"
    biased = ask(server, TEXT, prompt="the cat", max_tokens=5, logit_bias={str(alone.model.tokenizer.encode_text("7")[0]): 100})
    assert biased["choices"][0]["text"] == "77777"


def test_stop_tokens(server: Running, alone: LLM) -> None:
    answer = alone.generate("the cat", max_new_tokens=8)
    whole = answer.text
    stop = answer.generation.tokens[3]
    first = answer.generation.tokens.index(stop)
    stopped = ask(server, TEXT, prompt="the cat", max_tokens=8, stop_token_ids=[stop])
    assert stopped["usage"]["completion_tokens"] == first and stopped["choices"][0]["finish_reason"] == "stop"
    # the end token, made the most likely one, ends an answer unless it is ignored
    bias = {"logit_bias": {"0": 100}, "max_tokens": 4, "prompt": "the cat"}
    assert ask(server, TEXT, **bias)["usage"]["completion_tokens"] == 0
    ignored = ask(server, TEXT, ignore_eos=True, **bias)
    assert ignored["usage"]["completion_tokens"] == 4 and ignored["choices"][0]["finish_reason"] == "length"
    assert ask(server, TEXT, prompt="the cat", max_tokens=8)["choices"][0]["text"] == whole


def test_timings(server: Running) -> None:
    times = ask(server, TEXT, prompt="never said before", max_tokens=3, n=2, temperature=1)["timings"]
    assert times["time"] == "wall" and times["answer"]["tokens"] == 4 and times["answer"]["port_utilisation"] is None
    assert times["prompt"]["tokens"] > 0 and times["prompt"]["seconds"] > 0
    assert times["answer"]["tokens_per_second"] == pytest.approx(4 / times["answer"]["seconds"])
    last = events(server, TEXT, prompt="x", max_tokens=2, stream_options={"include_usage": True})[-1]
    assert last["choices"] == [] and last["usage"]["completion_tokens"] == 2 and last["timings"]["time"] == "wall"


def test_tokens_and_back(server: Running, alone: LLM) -> None:
    tokenizer = alone.model.tokenizer
    for body, expected in (
        ({"content": "the cat"}, tokenizer.encode("the cat")),
        ({"prompt": "the cat", "add_special": False, "model": MODEL}, tokenizer.encode_text("the cat")),
        ({"messages": SAY}, tokenizer.encode_chat("the cat")),
    ):
        answer = server.http.post("/tokenize", json=body).json()
        assert answer == {"tokens": expected, "count": len(expected), "max_model_len": 64}
    assert server.http.post("/detokenize", json={"tokens": tokenizer.encode_text("the cat")}).json()["content"] == "the cat"
    for path, body in (("/tokenize", {}), ("/tokenize", {"content": "a", "prompt": "b"}), ("/detokenize", {"tokens": [300]}),
                       ("/tokenize", {"content": "a", "model": "other"})):
        assert server.http.post(path, json=body).status_code in (400, 404)


def test_description(server: Running) -> None:
    described = server.http.get("/openapi.json").json()
    assert described["openapi"] == "3.1.0" and set(described["paths"]) >= {"/v1/chat/completions", "/tokenize", "/health"}
    fields = described["components"]["schemas"]["CompletionRequest"]["properties"]
    page = server.http.get("/docs")
    assert page.headers["content-type"].startswith("text/html") and "http://" not in page.text and "https://" not in page.text
    assert all(f"<code>{name}</code>" in page.text for name in fields) and "repetition_penalty" in fields
