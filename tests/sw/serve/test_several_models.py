"""Several models that take turns on one device."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

pytest.importorskip("uvicorn", reason="serving needs uvicorn")

from hwgen.boards import load_board
from hwgen.errors import HwgenError
from hwgen.sw.cli.main import main
from hwgen.sw.compiler.image_file import CompiledModel, load_image
from hwgen.sw.runtime.device_turns import TURN_SHARE, DeviceTurns
from hwgen.sw.runtime.llm import LLM
from hwgen.sw.serve.app import create_app
from hwgen.sw.serve.server import Server
from hwgen.sw.serve.service import Limits, Service
from hwgen.sw.serve.services import Services
from hwgen.weights import random_weights

from ..cli.calls import SMALL
from ..conftest import SHAPE
from .conftest import listening


@pytest.fixture(scope="module")
def images(chat_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> list[CompiledModel]:
    """Two models of one build: one with weights of its own, one that is larger."""
    from hwgen.sw.models.bitnet import save_model

    folder = tmp_path_factory.mktemp("images")
    other = folder / "other"
    save_model(random_weights(replace(SHAPE, layers=3), seed=8), other, chat_directory / "tokenizer.json", end_token=0)
    paths = []
    for directory in (chat_directory, other):
        paths.append(folder / f"{directory.name}.hwimage")
        assert main(["compile", str(directory), "--board", "demo", "--out", str(paths[-1]), "--quiet", *SMALL]) == 0
    return [load_image(path) for path in paths]


@pytest.fixture(scope="module")
def alone(images: list[CompiledModel]) -> dict[str, LLM]:
    return {image.name: LLM(image, "golden", reuse=False) for image in images}


def open_both(images: list[CompiledModel]) -> tuple[DeviceTurns, list[LLM]]:
    first, second = images
    needed = max(image.image.memory_bytes() for image in images) + (1 << 20)
    last = LLM(second, "golden", device_options={"memory_bytes": needed})
    models = [last, last.beside(first)]
    return DeviceTurns(models), models[::-1]


@pytest.fixture(scope="module")
def server(images: list[CompiledModel]) -> Iterator[tuple[httpx.Client, DeviceTurns]]:
    turns, models = open_both(images)
    services = Services([Service(llm, limits=Limits(sessions=2), turns=turns) for llm in models], turns)
    with listening(Server(create_app(services, prefixes=True), services)) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client, turns


def ask(client: httpx.Client, model: str, text: str) -> str:
    body = {"model": model, "prompt": text, "max_tokens": 6, "temperature": 0}
    return str(client.post("/v1/completions", json=body).json()["choices"][0]["text"])


def test_both_are_listed_and_answer_as_alone(server: tuple[httpx.Client, DeviceTurns], alone: dict[str, LLM]) -> None:
    client, turns = server
    assert [card["id"] for card in client.get("/v1/models").json()["data"]] == list(alone)
    device, before = turns.holder.device, turns.changes
    for number, name in enumerate(["chatty", "other", "other", "chatty"]):
        assert ask(client, name, "the cat") == alone[name].generate("the cat", max_new_tokens=6).text
        assert turns.holder.model.name == name == client.get("/machine").json()["machine"]["model"]
        assert turns.changes - before == (0, 1, 1, 2)[number]
    assert turns.holder.device is device, "the same device, opened once"
    wrong = client.post("/v1/completions", json={"model": "none", "prompt": "x"})
    assert wrong.status_code == 404 and "'chatty', 'other'" in wrong.json()["error"]["message"]


def test_answers_to_both_at_a_time(server: tuple[httpx.Client, DeviceTurns], alone: dict[str, LLM]) -> None:
    """Nothing ends early, and nobody waits for ever."""
    client, turns = server
    asked = [(name, f"{number} cats") for number in range(6) for name in alone]
    before = turns.changes
    with ThreadPoolExecutor(len(asked)) as pool:
        answers = list(pool.map(lambda pair: ask(client, *pair), asked))
    assert answers == [alone[name].generate(text, max_new_tokens=6).text for name, text in asked]
    assert turns.changes > before


def test_metrics_tell_them_apart(server: tuple[httpx.Client, DeviceTurns]) -> None:
    client, turns = server
    text = client.get("/metrics").text
    assert 'hwgen_kv_pages{model="chatty"}' in text and 'hwgen_kv_pages{model="other"}' in text
    here = [f'hwgen_model_on_device{{model="{name}"}} {float(turns.holder.model.name == name)}' for name in ("chatty", "other")]
    assert all(line in text for line in here)
    assert f"hwgen_model_changes {float(turns.changes)}" in text


def test_prompts_are_given_to_the_model_on_the_device_alone(server: tuple[httpx.Client, DeviceTurns]) -> None:
    client, turns = server
    taken = client.post("/prefixes/text", json={"model": "other", "prompt": "the cat sat"})
    assert taken.status_code == 200 and turns.holder.model.name == "other"
    assert client.put("/prefixes", params={"model": "other"}, content=taken.content).status_code == 200
    assert client.put("/prefixes", params={"model": "chatty"}, content=taken.content).status_code == 429


def test_turns(images: list[CompiledModel]) -> None:
    """Who has the device."""
    turns, (a, b) = open_both(images)
    assert turns.holder is a and turns.begin(a, 0) and turns.begin(a, 1)
    assert not turns.begin(b, 0), "an answer of the other runs"
    assert not turns.begin(a, 1), "another waits: no more begin"
    with pytest.raises(HwgenError, match="another model than 'other' has the accelerator"), turns.held(b):
        pass
    turns.rest(a, 1)
    assert not turns.begin(a, 0), "the one that waits is first"
    assert turns.begin(b, 0) and turns.holder is b
    with turns.held(b):
        pass
    turns.rest(b, 0)
    turns.rest(a, 0)  # what it waited for was cancelled
    assert turns.begin(b, 0), "nobody waits any more"


def test_a_turn_lasts_as_long_as_the_change_was_worth(images: list[CompiledModel]) -> None:
    now = [0.0]
    turns, (a, b) = open_both(images)
    turns._clock = lambda: now[0]
    take = b.take

    def slowly(device: object) -> None:
        now[0] += 10
        take(device)  # type: ignore[arg-type]

    b.take = slowly  # type: ignore[method-assign,assignment]
    assert turns.begin(b, 0) and turns.holder is b and turns.changes == 1
    assert not turns.begin(a, 0)
    now[0] += TURN_SHARE * 10 - 1
    assert turns.begin(b, 1), "its turn is not over"
    now[0] += 1
    assert not turns.begin(b, 1), "it is"
    turns.rest(b, 0)
    assert turns.begin(a, 0) and turns.holder is a and turns.changes == 2
    assert turns.begin(a, 1), "nobody waits"


def test_from_the_command_line(
    images: list[CompiledModel], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[list[str]] = []
    monkeypatch.setattr(Server, "run", lambda self, sockets: names.append(self._behind.names))
    paths = [str(image.path) for image in images]
    assert main(["serve", *paths, "--device", "golden", "--port", "0", "--quiet"]) == 0
    assert names == [["chatty", "other"]]
    for arguments, words in (
        ([paths[0], "stories"], "stories is not an image file"),
        ([paths[0], paths[0]], "two images have a model named 'chatty'"),
        (paths + ["--set", "max_context=256"], "was compiled for demo"),
        ([paths[0], "--boards", "a"], "--boards serve what each has"),
        (["--prompt-boards", "a"], "--prompt-boards read for boards that answer"),
        (["--boards", "a,http://a:8000"], "a board is named twice"),
        (["--boards", "a:x"], "'a:x' is not a board"),
        (["--boards", ","], "--boards names none"),
    ):
        assert main(["serve", *arguments, "--device", "golden", "--port", "0"]) == 2
        assert words in capsys.readouterr().err
    assert load_board("demo").name == images[0].board
