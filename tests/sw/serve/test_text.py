from __future__ import annotations

import pytest

from hwgen.sw.serve.text import AnswerText


class Letters:
    """A tokenizer whose tokens are characters."""

    def decode(self, ids: list[int]) -> str:
        return "".join(map(chr, ids))


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        ("hello", [], "hello"),
        ("hello", ["l"], "he"),
        ("hello", ["lo", "el"], "h"),
        ("aaab", ["aab"], "a"),
        ("abcabd", ["abd"], "abc"),
        ("ab", ["abc"], "ab"),
        ("xyz", ["xyz"], ""),
        ("one END two", ["END"], "one "),
    ],
)
def test_stop_strings(text: str, stops: list[str], expected: str) -> None:
    answer = AnswerText(Letters(), stops)  # type: ignore[arg-type]  # all that is used of a tokenizer
    sent = ""
    for letter in text:
        sent += answer.add(ord(letter))
        assert expected.startswith(sent)  # nothing of a stop string was ever sent
        if answer.stopped:
            break
    assert sent + answer.finish() == expected
    assert answer.stopped == (expected != text)


def test_text_flows_as_soon_as_it_can() -> None:
    answer = AnswerText(Letters(), ["END"])  # type: ignore[arg-type]
    assert [answer.add(ord(c)) for c in "aEbEN!"] == ["a", "", "Eb", "", "", "EN!"]
