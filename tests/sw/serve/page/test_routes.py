"""What the page is made of and what it asks for, without a browser."""

from __future__ import annotations

import re
from pathlib import Path

from hwgen.rounding import ceil_div
from hwgen.sw.runtime.jobs import Job
from hwgen.sw.runtime.sampling import Sampling
from hwgen.sw.serve.page.routes import FILES

from ...conftest import CONFIG
from ..conftest import Running, new_service, serving

MODEL = "chatty"
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "the cat"}]}


def test_files(server: Running) -> None:
    page = server.http.get("/")
    assert page.status_code == 200 and "default-src 'self'" in page.headers["content-security-policy"]
    wanted = re.findall(r'(?:src|href)="(/[^"]+)"', page.text)
    assert len(wanted) >= 8
    for path in wanted:
        assert server.http.get(path).status_code == 200, path
    for file in FILES.glob("*.js"):  # modules that modules import
        for name in re.findall(r'from "\./([^"]+)"', file.read_text()):
            assert (FILES / name).is_file(), name
    assert server.http.get("/page/../routes.py").status_code == 404


def test_nothing_comes_from_elsewhere() -> None:
    for file in FILES.iterdir():
        if not file.name.startswith("uPlot"):
            outside = re.findall(r"(?:src|href|url|from|import|fetch)\W{1,3}https?:[^\s\"')]+", file.read_text())
            assert not outside, file.name


def test_machine(chat_directory: Path) -> None:
    with serving(new_service(chat_directory)) as running:
        empty = running.http.get("/machine").json()
        assert empty["last"] is None and empty["passes"] == [] and empty["failure"] is None
        assert empty["machine"]["device"] == "golden" and empty["machine"]["simulated"] is True
        assert empty["pages"]["all"] == empty["pages"]["free"] == 256 // CONFIG.kv_block
        usage = running.http.post("/v1/chat/completions", json={**CHAT, "max_tokens": 5}).json()["usage"]
        running.wait_idle()
        state = running.http.get("/machine").json()
        passes, prompt = state["passes"], usage["prompt_tokens"]
        prefill = ceil_div(prompt, running.service.llm.image.chunk)
        assert [p["phase"] for p in passes] == ["prefill"] * prefill + ["decode"], "four passes are a loop"
        assert sum(p["tokens"] for p in passes) == prompt + 4
        assert [p["number"] for p in passes] == list(range(1, len(passes) + 1))
        assert state["last"]["runs"] == [{"answer": 1, "position": prompt, "tokens": 4}]
        assert state["last"]["counters"]["operators"] > 10 and state["last"]["cycles"] == 0
        assert [p["number"] for p in running.http.get(f"/machine?since={len(passes) - 1}").json()["passes"]] == [len(passes)]
        assert running.http.get("/machine?since=x").status_code == 400
        kept = state["pages"]["kept"]
        assert kept == ceil_div(running.service.llm.prefixes._entries[-1].position, CONFIG.kv_block) > 0  # type: ignore[union-attr]
        assert state["running"] == state["waiting"] == []


def test_sessions_and_queue(chat_directory: Path) -> None:
    """Without a scheduler that runs, so that the state stands still."""
    service = new_service(chat_directory)
    for length in (8, 7):  # the first fills a pass
        generation = service.llm.generation(list(range(1, 1 + length)), 4, Sampling())
        service.scheduler.submit(Job(generation, lambda token: None, lambda error: None))
    service.scheduler.step()
    state = service.machine.sessions(service.scheduler)
    assert state["running"] == [
        {"answer": 1, "state": "answer", "position": 8, "prompt": 8, "new": 1, "reused": 0, "pages": 1}
    ]
    assert state["waiting"] == [{"answer": 2, "prompt": 7}]
    assert state["pages"]["free"] == state["pages"]["all"] - 1


def test_what_the_model_reads(server: Running) -> None:
    tokenizer = server.service.llm.model.tokenizer
    rows = server.http.post("/machine/prompt", json=CHAT).json()["tokens"]
    assert [row[0] for row in rows] == tokenizer.encode_messages(CHAT["messages"])  # type: ignore[arg-type]  # of this shape
    assert "".join(text for _, text, control in rows if not control).endswith("[user]the cat[assistant]")


def test_key_and_files(chat_directory: Path) -> None:
    with serving(new_service(chat_directory), key="secret") as running:
        assert running.http.get("/").status_code == running.http.get("/page/page.js").status_code == 200
        for path in ("/machine", "/machine/trace"):
            assert running.http.get(path).status_code == 401
            assert running.http.get(path, headers={"Authorization": "Bearer secret"}).status_code == 200
        assert running.http.post("/machine/prompt", json=CHAT).status_code == 401
