"""A server whose answers choose blocks of the cache: by its own budget, or by that of a request."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hwgen.sw.runtime.llm import LLM
from hwgen.sw.serve.service import Service

from ..conftest import CONFIG
from .conftest import serving

BUILD = replace(CONFIG, kv_block=8, kv_budget=3)
PROMPT = list(range(3, 50))
ASK = {"model": "chatty", "prompt": PROMPT, "max_tokens": 12, "temperature": 0}


@pytest.fixture(scope="module")
def expected(chat_directory: Path) -> dict[int, str]:
    llm = LLM(chat_directory, "golden", BUILD, reuse=False, draft="none")
    return {budget: llm.generate(PROMPT, max_new_tokens=12, kv_budget=budget).text for budget in (0, 2, 3)}


def test_the_budget_of_the_server_and_of_requests(chat_directory: Path, expected: dict[int, str]) -> None:
    service = Service(LLM(chat_directory, "golden", BUILD, cache_tokens=256), kv_budget=2)
    with serving(service) as server:
        for given, budget in (({}, 2), ({"kv_budget": 0}, 0), ({"kv_budget": 3}, 3), ({"kv_budget": None}, 2)):
            reply = server.http.post("/v1/completions", json={**ASK, **given})
            assert reply.status_code == 200 and reply.json()["choices"][0]["text"] == expected[budget]
        several = server.http.post("/v1/completions", json={**ASK, "n": 3, "best_of": 3})
        assert [choice["text"] for choice in several.json()["choices"]] == [expected[2]] * 3
        for wrong, status in ((4, 400), (254, 400), (-1, 400), ("2", 400)):
            assert server.http.post("/v1/completions", json={**ASK, "kv_budget": wrong}).status_code == status
        server.wait_idle()
        pages = service.llm.engine.pages
        assert service.llm.prefixes is not None
        service.llm.prefixes.clear()
        assert pages.free == service.llm.image.pages


def test_a_build_without(chat_directory: Path) -> None:
    with serving(Service(LLM(chat_directory, "golden", CONFIG))) as server:
        reply = server.http.post("/v1/completions", json={**ASK, "kv_budget": 2})
        assert reply.status_code == 400 and "no budget of blocks" in reply.json()["error"]["message"]
        assert server.http.post("/v1/completions", json={**ASK, "kv_budget": 0}).status_code == 200
