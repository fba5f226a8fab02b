from __future__ import annotations

import json
import random

import pytest

pytest.importorskip("httpx", reason="the front of several boards needs httpx")

from hwgen.sw.serve.front.board_link import BoardLink
from hwgen.sw.serve.front.exchange import begins, is_refusal
from hwgen.sw.serve.front.routing import IMBALANCE, LEAST, Routes, prompt_text
from hwgen.sw.serve.front.sent_prompts import MOST, MOST_CHARACTERS, SentPrompts, common_length

LONG = "Once upon a time there was a cat that sat on a mat and thought of fish. " * 4


def boards(count: int) -> list[BoardLink]:
    return [BoardLink(name, f"http://{name}", up=True, models={"m": {}}) for name in "abcdefgh"[:count]]


def test_common_length() -> None:
    random_ = random.Random(1)
    for _ in range(200):
        a, b = ("".join(random_.choices("xy", k=random_.randrange(12))) for _ in range(2))
        assert common_length(a, b) == next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def test_prompts_that_are_remembered() -> None:
    sent = SentPrompts()
    sent.add("the cat")
    sent.add("the cat sat")  # covers the other
    assert sent.longest("the cat sat on") == 11 and sent.longest("a dog") == 0 and sent.characters == 11
    for number in range(MOST + 5):
        sent.add(f"{number} of many")
    assert sent.longest("the cat sat") == 0, "the oldest is forgotten"
    sent.add("x" * (MOST_CHARACTERS + 1))
    assert sent.characters == MOST_CHARACTERS + 1  # one is always kept
    sent.clear()
    assert (sent.longest("x"), sent.characters) == (0, 0)


def test_the_next_turn_begins_like_the_one_before() -> None:
    turns = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}, {"role": "user", "content": "why?"}]
    first, last = ({"model": "m", "messages": turns[:count]} for count in (1, 3))
    assert prompt_text(last).startswith(prompt_text(first))
    assert not prompt_text({**last, "tools": [{"type": "function"}]}).startswith(prompt_text(first))
    assert not prompt_text({**last, "model": "n"}).startswith(prompt_text(first))
    assert prompt_text({"prompt": [1, 2, 3]}).startswith(prompt_text({"prompt": [1, 2]}))
    assert prompt_text({"prompt": "ab"}).startswith(prompt_text({"prompt": "a"}))
    prompt_text({"prompt": 3, "messages": "no list"})  # wrong ones are for the board to refuse


def test_the_least_busy_board() -> None:
    a, b, c = boards(3)
    routes = Routes([a, b, c])
    a.busy, b.busy, c.busy = 2, 1, 3
    assert routes.answering("m", LONG) is b
    assert routes.answering("m", LONG, [b]) is a
    assert routes.answering("m", LONG, [a, b, c]) is None and routes.answering("other", LONG) is None
    b.up = False
    assert routes.answering("m", LONG) is a
    a.busy = c.busy
    a.sent.add("something else")
    assert routes.answering("m", LONG) is c, "the one that keeps less for others"


def test_the_board_that_has_most_of_a_prompt() -> None:
    a, b, c = boards(3)
    routes = Routes([a, b, c])
    a.sent.add(LONG[: LEAST - 1])
    b.sent.add(LONG[: len(LONG) // 2 + 1])
    b.busy = IMBALANCE
    assert routes.answering("m", LONG) is b
    b.busy += 1
    assert routes.answering("m", LONG) is c, "it is too busy, and a quarter is too little"
    b.busy = 1
    b.lose("gone")
    b.up = True
    assert routes.answering("m", LONG) is c, "what it kept is gone"
    short = "x" * (LEAST - 1)
    a.sent.add(short)
    assert routes.answering("m", short) is c, "little is not looked for"


def test_boards_for_prompts() -> None:
    a, b, c = boards(3)
    routes = Routes([a, b], [c])
    assert routes.reading("m", LONG) is c and routes.answering("m", LONG) in (a, b)
    a.up = b.up = False
    assert routes.answering("m", LONG) is c, "better than none"
    c.up = False
    assert routes.reading("m", LONG) is routes.answering("m", LONG) is None
    assert routes.models() == {}


def chunk(**choice: object) -> bytes:
    return f"data: {json.dumps({'choices': [choice]})}\n\n".encode()


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (chunk(delta={"role": "assistant", "content": ""}, finish_reason=None, logprobs=None), False),
        (chunk(text="", finish_reason=None), False),
        (chunk(delta={"content": "x"}), True),
        (chunk(delta={"tool_calls": [{}]}), True),
        (chunk(text="x"), True),
        (chunk(text="", finish_reason="length"), True),
        (chunk(text="", logprobs={"tokens": []}), True),
        (b"data: [DONE]\n\n", True),
        (b'data: {"error": {"code": "internal"}}\n\n', True),
        (b"data: cut sh", True),
    ],
)
def test_where_an_answer_begins(event: bytes, expected: bool) -> None:
    assert begins(event) is expected


def test_what_another_board_might_answer() -> None:
    assert is_refusal(429, b"") and is_refusal(503, b"{}")
    assert is_refusal(500, b'{"error": {"code": "device"}}') and is_refusal(200, b'data: {"error": {"code": "queue_full"}}\n\n')
    assert not is_refusal(400, b'{"error": {"code": "invalid_value"}}') and not is_refusal(500, b'{"error": {"code": "internal"}}')
    assert not is_refusal(200, b"data: [DONE]\n\n") and not is_refusal(500, b"[]") and not is_refusal(500, b'{"error": "text"}')
