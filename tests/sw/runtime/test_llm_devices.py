"""The device that the Python interface opens, with which options, and what becomes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hwgen.boards import load_board
from hwgen.config import BuildConfig
from hwgen.errors import HwgenError
from hwgen.sw.compiler.image_file import CompiledModel
from hwgen.sw.devices.golden import GoldenDevice
from hwgen.sw.models.model import Model
from hwgen.sw.runtime import llm as llm_module
from hwgen.sw.runtime.draft_model import DraftModel
from hwgen.sw.runtime.llm import LLM, config_of
from hwgen.sw.runtime.sampling import Sampling

from ..conftest import CONFIG


class Closed(GoldenDevice):
    """A device that says when it is closed."""

    closed = 0

    def close(self) -> None:
        self.closed += 1


class Opened:
    """What is asked of `open_device`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[str, BuildConfig, dict[str, Any]]] = []
        monkeypatch.setattr(llm_module, "open_device", self._open)

    def _open(self, name: str, config: BuildConfig, **options: Any) -> Closed:
        self.calls.append((name, config, options))
        return Closed(config, memory_bytes=1 << 23)


def compiled(llm: LLM, head: str = "exact") -> CompiledModel:
    """The image of a model as if it had come from a file."""
    model: Any = llm.model
    return CompiledModel(
        path=Path("some.hwimage"), image=llm.image, board="", part="", head=head, stop_tokens=model.stop_tokens,
        _tokenizer=model.tokenizer,
    )


def test_how_a_device_is_opened(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory for all images, on a board what must be contiguous; progress where there is some; and what the caller says."""
    opened = Opened(monkeypatch)

    def progress(text: str) -> None:
        pass

    image = LLM(model, "golden", CONFIG).image
    LLM(model, "verilator", CONFIG, progress, draft_model=model)
    LLM(model, "pynq", CONFIG, progress)
    LLM(model, "pynq", CONFIG, progress, draft_model=model, device_options={"bitstream": "x", "progress": None})
    LLM(model, "golden", CONFIG, device_options={"memory_bytes": 5 << 20})
    memory, on_board = image.memory_bytes(), image.contiguous_bytes
    assert [(name, options) for name, _, options in opened.calls] == [
        ("golden", {"memory_bytes": memory}), ("verilator", {"memory_bytes": 2 * memory, "progress": progress}),
        ("pynq", {"memory_bytes": on_board, "progress": progress}),
        ("pynq", {"memory_bytes": 2 * on_board, "progress": None, "bitstream": "x"}), ("golden", {"memory_bytes": 5 << 20}),
    ]
    assert on_board != memory and all(config == CONFIG for _, config, _ in opened.calls)


def test_a_device_is_opened_again(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it was at first, once the old one is closed, whether or not that works; one that somebody else opened is not."""
    opened = Opened(monkeypatch)
    llm = LLM(model, "golden", CONFIG)
    first: Any = llm.device
    expected = llm.generate("cat", max_new_tokens=3).text
    llm.reopen()
    assert first.closed == 1 and llm.device is not first and llm.engine.device is llm.device
    assert opened.calls[1] == opened.calls[0] and llm.generate("cat", max_new_tokens=3).text == expected

    def fail() -> None:
        raise OSError("gone")

    llm.device.close = fail  # type: ignore[attr-defined]  # of the stand-in
    llm.reopen()
    assert len(opened.calls) == 3
    given = LLM(model, GoldenDevice(CONFIG, memory_bytes=1 << 23), CONFIG)
    with pytest.raises(HwgenError, match="was opened elsewhere") as caught:
        given.reopen()
    assert caught.value.kind == "device"


def test_a_model_beside_another(model: Model) -> None:
    """On the same device, which it takes over; each answers as before when it has it."""
    llm = LLM(model, "golden", CONFIG, draft="none")
    expected = llm.generate("the cat", max_new_tokens=4).text
    iterator = iter(llm.generate("the cat", max_new_tokens=9))
    next(iterator)
    other = llm.beside(compiled(llm), cache_tokens=128)
    assert other.device is llm.device and other._open is llm._open and other.prefixes is not None
    assert (other.image.pages, llm.image.pages) == (8, 4) and other._drafter() is None
    assert other.generate("the cat", max_new_tokens=4).text == expected
    llm.take(other.device)
    assert llm.generate("the cat", max_new_tokens=4).text == expected and not len(llm.documents)
    assert llm.beside(compiled(llm), reuse=False).prefixes is None


def test_which_build(llm: LLM, model: Model) -> None:
    """That of the board for the model's matrices, the demo board where none is named, or the one that is given."""
    assert config_of(CONFIG, "ternary") is CONFIG
    for engine in ("ternary", "int4"):
        assert config_of(None, engine) == config_of("demo", engine) == load_board("demo").for_engine(engine).config
    image = compiled(llm)
    assert LLM(image, "golden").image is llm.image is LLM(image, "golden", CONFIG, head="exact").image
    with pytest.raises(HwgenError, match="compiled with the exact head, not shortlist"):
        LLM(image, "golden", head="shortlist")
    with pytest.raises(HwgenError, match="not for build"):
        LLM(image, "golden", "demo")
    assert LLM(model, "golden", CONFIG, head="shortlist").image.head == "shortlist" != llm.image.head


def test_who_guesses(model: Model, llm: LLM) -> None:
    """Nobody, what stood in the text before, or a second model, whose cache has as many tokens."""
    with pytest.raises(HwgenError, match="draft must be one of lookup, none, not 'odd'"):
        LLM(model, "golden", CONFIG, draft="odd")
    drafter = llm._drafter()
    assert drafter is not None and not drafter.guesser.takes_passes and llm._draft_engine is None
    for none in ("none", str(b"none", "ascii")):  # the second is an object of its own, as the word of a command line
        assert LLM(model, "golden", CONFIG, draft=none)._drafter() is None
    two = LLM(model, "golden", CONFIG, draft_model=model, cache_tokens=192)
    drafter = two._drafter()
    assert drafter is not None and isinstance(drafter.guesser, DraftModel) and drafter.guesser.engine is two._draft_engine
    assert two._draft_image is not None and two.image.pages == two._draft_image.pages == 12
    assert two.generation([1], 2, Sampling()).drafter is not None
    assert two.generation([1], 2, Sampling(), kv_budget=1).drafter is None
    image = LLM(compiled(llm), "golden", draft_model=compiled(llm))
    assert image._draft_image is llm.image
    assert LLM(model, "golden", CONFIG, draft_model=model).image.pages == 4
