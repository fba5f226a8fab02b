"""The clients that people use, each in its own words, against one server with the smallest model."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import openai
import pytest

from hwgen.sw.runtime.llm import LLM

from .conftest import Running, new_service, serving
from .test_forms import SCHEMA, TEMPLATE, TOOL

MODEL = "chatty"
SAY = [{"role": "user", "content": "cat"}]


@pytest.fixture(scope="module")
def running(chat_directory: Path) -> Iterator[Running]:
    """With a key, tools, and a ping every few milliseconds."""
    from hwgen.sw.serve.service import Limits

    service = new_service(chat_directory, Limits(ping_seconds=0.01))
    service.llm.model.tokenizer._chat_template = TEMPLATE
    with serving(service, key="secret") as running:
        yield running


@pytest.fixture(scope="module")
def expected(alone: LLM) -> str:
    """The greedy answer of 6 tokens to `SAY`."""
    return alone.generate(alone.model.tokenizer.encode_text("/ucat/a"), max_new_tokens=6).text


def test_openai(running: Running, expected: str) -> None:
    client = running.client
    answer = client.chat.completions.create(model=MODEL, messages=SAY, max_tokens=6)  # type: ignore[arg-type]
    assert answer.choices[0].message.content == expected
    with client.chat.completions.stream(model=MODEL, messages=SAY, max_tokens=6) as stream:  # type: ignore[arg-type]
        assert "".join(e.delta for e in stream if e.type == "content.delta") == expected
    raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=SAY, max_tokens=1)  # type: ignore[arg-type]
    assert raw.http_response.json()["timings"]["time"] == "wall"
    text = client.completions.create(model=MODEL, prompt=["a", "b"], n=2, max_tokens=1, logprobs=2)
    assert len(text.choices) == 4 and text.choices[0].logprobs is not None
    models = client.models.list().data
    assert [m.id for m in models] == [MODEL]


def test_openai_asynchronous(running: Running, expected: str) -> None:
    async def ask() -> list[str | None]:
        async with openai.AsyncOpenAI(base_url=f"{running.url}/v1", api_key="secret", max_retries=0) as client:
            create = client.chat.completions.create
            answers = await asyncio.gather(*(create(model=MODEL, messages=SAY, max_tokens=6) for _ in range(3)))  # type: ignore[arg-type]
            return [answer.choices[0].message.content for answer in answers]

    assert asyncio.run(ask()) == [expected] * 3


def test_openai_parses_a_pydantic_model(running: Running) -> None:
    pytest.importorskip("llguidance", reason="answers of given form need llguidance")
    from pydantic import BaseModel

    class Mood(BaseModel):
        mood: Literal["glad", "sad"]

    answer = running.client.chat.completions.parse(model=MODEL, messages=SAY, response_format=Mood)  # type: ignore[arg-type]
    parsed = answer.choices[0].message.parsed
    assert parsed is not None and parsed.mood in ("glad", "sad")


def test_litellm(running: Running, expected: str) -> None:
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # it would ask the network for prices
    litellm = pytest.importorskip("litellm", reason="the client litellm")
    where = {"model": f"openai/{MODEL}", "api_base": f"{running.url}/v1", "api_key": "secret", "messages": SAY, "max_tokens": 6}
    assert litellm.completion(**where).choices[0].message.content == expected
    chunks = litellm.completion(**where, stream=True, stream_options={"include_usage": True})
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == expected
    called = litellm.completion(**{**where, "max_tokens": 40}, tools=[TOOL], tool_choice="required").choices[0].message.tool_calls
    assert called[0].function.name == "f"
    with pytest.raises(litellm.exceptions.BadRequestError):
        litellm.completion(**where, temperature=3)


def test_langchain(running: Running, expected: str) -> None:
    chat_models = pytest.importorskip("langchain_openai", reason="the client langchain-openai")
    model = chat_models.ChatOpenAI(base_url=f"{running.url}/v1", api_key="secret", model=MODEL, max_tokens=6, max_retries=0)
    answer = model.invoke("cat")
    assert answer.content == expected and answer.usage_metadata["output_tokens"] == 6
    assert "".join(str(chunk.content) for chunk in model.stream("cat")) == expected
    longer = model.model_copy(update={"max_tokens": 40})
    bound = longer.bind_tools([TOOL], tool_choice="required")
    assert bound.invoke("cat").tool_calls[0]["name"] == "f"
    formed = longer.with_structured_output({"title": "mood", **SCHEMA}, method="json_schema").invoke("cat")
    assert formed["mood"] in ("glad", "sad")
    text = chat_models.OpenAI(base_url=f"{running.url}/v1", api_key="secret", model=MODEL, max_tokens=2, temperature=0)
    assert isinstance(text.invoke("cat"), str)


def test_llm(running: Running, expected: str, tmp_path: Path) -> None:
    """The command line client of Simon Willison, with the server as a model of its own."""
    pytest.importorskip("llm", reason="the client llm")
    (tmp_path / "extra-openai-models.yaml").write_text(
        f"- model_id: board\n  model_name: {MODEL}\n  api_base: {running.url}/v1\n  api_key_name: board\n"
    )
    (tmp_path / "keys.json").write_text(json.dumps({"board": "secret"}))
    for extra in ([], ["--no-stream"]):
        command = [sys.executable, "-m", "llm", "-m", "board", "cat", "-o", "max_tokens", "6", "--no-log", *extra]
        run = subprocess.run(
            command, env={**os.environ, "LLM_USER_PATH": str(tmp_path)}, capture_output=True, text=True, check=False, timeout=120
        )
        assert run.stdout.strip() == expected.strip(), run.stderr


def test_lm_eval(running: Running, alone: LLM, tmp_path: Path) -> None:
    """A task of two questions whose right answers are what the model says: a score of 1."""
    pytest.importorskip("lm_eval", reason="the evaluation harness lm-eval, which brings more than it is worth here")
    questions = ("the cat", "a dog")
    answers = [alone.generate(text, max_new_tokens=4).text for text in questions]
    documents = "".join(json.dumps({"q": q, "a": a}) + "\n" for q, a in zip(questions, answers, strict=True))
    (tmp_path / "tiny.jsonl").write_text(documents)
    (tmp_path / "tiny.yaml").write_text(
        f"task: tiny\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {tmp_path}/tiny.jsonl}}}}\ntest_split: test\n"
        'output_type: generate_until\ndoc_to_text: "{{q}}"\ndoc_to_target: "{{a}}"\n'
        'generation_kwargs: {until: ["\\0never"], max_gen_toks: 4, do_sample: false}\n'
        "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]\n"
    )
    where = f"model={MODEL},base_url={running.url}/v1/completions,tokenizer_backend=None,tokenized_requests=False"
    run = subprocess.run(
        [sys.executable, "-m", "lm_eval", "--model", "local-completions", "--model_args", where, "--tasks", "tiny",
         "--include_path", str(tmp_path), "--output_path", str(tmp_path / "out")],
        env={**os.environ, "OPENAI_API_KEY": "secret", "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache")},
        capture_output=True, text=True, check=False, timeout=300,
    )
    (results,) = (tmp_path / "out").rglob("results*.json")
    assert json.loads(results.read_text())["results"]["tiny"]["exact_match,none"] == 1, run.stderr


def test_schemathesis(running: Running, tmp_path: Path) -> None:
    """Requests made from the description, right and wrong ones: every answer is as the description says, none is a defect."""
    pytest.importorskip("schemathesis", reason="makes requests from the description")
    checks = ",".join((
        "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance",
        "negative_data_rejection", "ignored_auth",
    ))
    script = Path(sys.executable).with_name("schemathesis")
    run = subprocess.run(
        [str(script), "run", f"{running.url}/openapi.json", "--checks", checks, "--header", "Authorization: Bearer secret",
         "--max-examples", "8", "--seed", "1", "--phases", "examples,fuzzing", "--no-color", "--exclude-path", "/docs"],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300,
    )
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
