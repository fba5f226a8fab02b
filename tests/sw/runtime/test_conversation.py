"""Conversations on both families, without hardware."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwgen import LLM, Conversation, HwgenError, Sampling
from hwgen.decoder import LLAMA
from hwgen.sw.runtime.engine import Engine, PassResult, Run
from hwgen.sw.runtime.pages import Session
from hwgen.sw.runtime.running_loop import RunningLoop
from hwgen.sw.runtime.sampler import Sampler
from hwgen.weights import random_weights

from ..conftest import CONFIG
from ..models.llama_files import SHAPE, write_gguf

SAMPLED = Sampling(temperature=1.5, seed=4)


@pytest.fixture
def llama(tmp_path: Path) -> LLM:
    write_gguf(tmp_path / "m.gguf", random_weights(SHAPE, 2, LLAMA, "int4"), "Q4_1")
    return LLM(tmp_path / "m.gguf", "golden")


@pytest.fixture(params=["llama", "ternary"])
def llm(request: pytest.FixtureRequest) -> LLM:
    """A model of each family, both with a chat template."""
    if request.param == "llama":
        return request.getfixturevalue("llama")  # type: ignore[no-any-return]  # pytest says Any
    return LLM(request.getfixturevalue("chat_directory"), "golden", CONFIG)


class Passes:
    """Passes that an engine runs: their tokens, and whether they wrote every logit; and loops."""

    def __init__(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tokens: list[list[int]] = []
        self.logits: list[bool] = []
        self.loops: list[RunningLoop] = []
        run_pass = engine.run_pass

        def watched(runs: list[Run], *, write_logits: bool = False) -> PassResult:
            self.tokens += [list(run.tokens) for run in runs]
            self.logits.append(write_logits)
            return run_pass(runs, write_logits=write_logits)

        def watched_loop(*arguments: Any) -> RunningLoop:
            self.loops.append(RunningLoop(*arguments))
            return self.loops[-1]

        monkeypatch.setattr(engine, "run_pass", watched)
        monkeypatch.setattr("hwgen.sw.runtime.generation.RunningLoop", watched_loop)

    @property
    def count(self) -> int:
        return sum(map(len, self.tokens)) + sum(loop.passes for loop in self.loops)


def make_it_say(llm: LLM, text: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Every drawn answer is ``text``, whose tokens are those of its spelling; their number."""
    tokens = llm.model.tokenizer.encode_text(text)
    drawn = cycle(tokens)
    monkeypatch.setattr(Sampler, "choose", lambda *a: next(drawn))
    return len(tokens)


def test_greedy_answers_need_no_logits(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, passes = llm.model.tokenizer, Passes(llm.engine, monkeypatch)
    talk = Conversation(llm, max_new_tokens=6)
    first = "".join(talk.say("cat"))
    assert talk.generation is not None and len(talk.generation.tokens) <= 6
    assert talk.messages[1] == {"role": "assistant", "content": first}
    expected = tokenizer.encode_messages(talk.messages[:1])
    assert list(talk.generation.prompt) == expected == talk.session.tokens[: len(expected)]
    assert passes.count == talk.session.position and not any(passes.logits) and len(passes.loops) == 1
    "".join(talk.say("sat"))
    whole = tokenizer.encode_messages(talk.messages[:3])
    assert talk.session.tokens[: len(whole)] == whole
    talk.reset()
    assert talk.session.tokens == [] and "".join(talk.say("cat")) == first  # the same again


def test_turns_reuse_what_was_read(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """And their bits are those of the same passes in a fresh session."""
    passes = Passes(llm.engine, monkeypatch)
    talk = Conversation(llm, SAMPLED, max_new_tokens=make_it_say(llm, "The cat.", monkeypatch))
    for text in ("cat", "sat"):
        assert "".join(talk.say(text)) == "The cat."
        whole = llm.model.tokenizer.encode_messages(talk.messages[:-1])
        assert talk.session.tokens[: len(whole)] == whole
        assert passes.count == talk.session.position  # no token was computed twice
        assert talk.generation is not None and talk.generation.stop_reason == "length"
    logits, expected = llm.engine.logits(), list(passes.tokens)
    fresh, session = LLM(llm.model, "golden", llm.engine.config), Session()
    for tokens in expected:
        fresh.engine.forward(session, tokens, write_logits=True)
    assert session.tokens == talk.session.tokens
    np.testing.assert_array_equal(logits.view(np.uint32), fresh.engine.logits().view(np.uint32))


@pytest.mark.parametrize("sampling", [SAMPLED, Sampling(temperature=1.5, top_k=8, seed=4)], ids=["logits", "candidates"])
def test_random_draws_go_on_from_turn_to_turn(llama: LLM, sampling: Sampling) -> None:
    talk, other = (Conversation(llama, sampling, max_new_tokens=8) for _ in range(2))
    drawn = []
    for conversation in (talk, other, talk):
        conversation.reset()
        "".join(conversation.say("The cat"))
        assert conversation.generation is not None
        drawn.append(conversation.generation.tokens)
    assert drawn[0] == drawn[1] != drawn[2]


def test_other_tokens_for_what_was_read_begin_anew(llama: LLM) -> None:
    talk = Conversation(llama, max_new_tokens=4)
    "".join(talk.say("The cat sat upon a time"))
    talk.messages[1]["content"] = "once"
    answer = "".join(talk.say("sat"))
    other = Conversation(LLM(llama.model, "golden"), max_new_tokens=4)
    other.messages = [dict(m) for m in talk.messages[:2]]
    assert "".join(other.say("sat")) == answer and talk.session.tokens == other.session.tokens
    assert talk.generation is not None and talk.generation.reused > 0  # by the cache of prefixes


def test_context_ends_a_conversation(llama: LLM) -> None:
    talk = Conversation(llama, max_new_tokens=500)
    with pytest.raises(HwgenError, match="longer than the context of 128"):
        "".join(talk.say("cat " * 100))
    assert talk.messages == [] and talk.session.tokens == []
    "".join(talk.say("cat"))
    assert talk.generation is not None and talk.generation.stop_reason in ("context", "stop")
    assert talk.session.position <= 128


def test_a_model_without_a_template_continues_text(model_directory: Path) -> None:
    llm = LLM(model_directory, "golden", CONFIG)
    talk = Conversation(llm, max_new_tokens=3)
    assert "".join(talk.say("the cat")) == llm.generate("the cat", max_new_tokens=3).text


def test_a_prompt_to_the_last_token_of_the_context(llama: LLM) -> None:
    """One token must have room behind it."""
    talk, context = Conversation(llama, max_new_tokens=9), llama.image.context
    talk._encode = lambda: [5] * context  # type: ignore[method-assign]  # as many tokens as are wanted
    with pytest.raises(HwgenError, match=f"longer than the context of {context}"):
        "".join(talk.say("cat"))
    assert talk.messages == [] and talk.generation is None
    talk._encode = lambda: [5] * (context - 1)  # type: ignore[method-assign]  # as many tokens as are wanted
    "".join(talk.say("cat"))
    assert talk.generation is not None and 1 <= len(talk.generation.tokens) <= 2 and len(talk.messages) == 2


def test_what_is_left_to_read(llama: LLM) -> None:
    """The tokens behind those that were read; all of them where nothing would be left, or others were read."""
    talk, session = Conversation(llama), Session()
    for read, tokens, left in (
        ([1, 2], [1, 2, 3], [3]), ([1, 2], [1, 2], [1, 2]), ([1, 2], [1], [1]), ([1, 2], [1, 3, 4], [1, 3, 4]), ([], [7], [7]),
    ):
        session.tokens, session.pending, talk.session = list(read), [9], session
        part = talk._sampler._part
        assert talk._unread(tokens) == left and session.pending == []
        anew = len(left) == len(tokens) and read != []
        assert talk._sampler._part - part == anew and session.tokens == ([] if anew else read)


def test_an_answer_that_nobody_hears_to_its_end(llama: LLM) -> None:
    """It is what was said of it, and its session goes on."""
    talk = Conversation(llama, max_new_tokens=40)
    pieces = talk.say("cat")
    first = next(pieces)
    pieces.close()
    assert talk.messages[1:] == [{"role": "assistant", "content": first}] and talk.session.position > 0
    assert talk.generation is not None and talk.generation.stop_reason == "interrupted"
