"""When a draft pays, by costs that are easily added up; what is looked up in a text; likelihoods of tokens in plain numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from hwgen.sw.compiler.pass_costs import PassCosts
from hwgen.sw.runtime.answers import best_answers, mean_logprob
from hwgen.sw.runtime.document_passes import _distances, _joined, chosen_spans
from hwgen.sw.runtime.documents import checked_share, slice_of
from hwgen.sw.runtime.drafts import Drafter, PromptLookup
from hwgen.sw.runtime.kv_arrays import KvArrays
from hwgen.sw.runtime.logprobs import token_logprobs
from hwgen.sw.runtime.prefix_cache import common_prefix


class Guesses:
    """Always has as many tokens as are asked for; a guess costs 3 cycles a token."""

    debt, takes_passes, closed = 0.5, True, False

    def __init__(self, most: int = 9, cycles: float = 3.0) -> None:
        self._most, self._cycles, self.asked = most, cycles, list[int]()

    def most(self, text: Sequence[int], most: int) -> int:
        return min(most, self._most)

    def cycles(self, length: int) -> float:
        return self._cycles * length

    def guess(self, length: int) -> list[int]:
        self.asked.append(length)
        return list(range(length))

    def close(self) -> None:
        self.closed = True


def costs(token: float, wanted: float) -> PassCosts:
    """100 cycles and so many for every further token, and for every further wanted one."""
    sizes = (1, 64)
    return PassCosts(
        sizes=sizes, plain=(100.0, 100 + 63 * token), wanting=(100.0, 100 + 63 * (token + wanted)), block=0.0,
    )


@pytest.mark.parametrize(("token", "wanted", "guess", "length"), [
    # half of the drafted tokens are thought right: n tokens gain 100 (1/2 + 1/4 + ...), and cost n (token + wanted + guess)
    (1, 1, 3, 4), (2, 2, 3, 3), (5, 5, 3, 2), (20, 10, 3, 1), (20, 26, 3, 1), (24, 24, 3, 0), (0, 0, 0, 9), (20, 10, 20, 0),
    (10, 0, 0, 3), (0, 10, 0, 3), (0, 0, 10, 3),
])
def test_how_long_a_draft_is(token: float, wanted: float, guess: float, length: int) -> None:
    drafter = Drafter(costs(token, wanted), Guesses(cycles=guess))
    assert drafter.propose([], 9) == list(range(length))
    best = max(range(10), key=lambda n: (100 * sum(0.5**k for k in range(1, n + 1)) - n * (token + wanted + guess), -n))
    if best * (token + wanted + guess) <= 50:
        assert length == best


def test_beside_others_a_token_is_worth_less() -> None:
    """A pass of three answers gives three tokens; what it costs is that of more tokens and logits in it."""
    drafter = Drafter(costs(2, 3), Guesses(cycles=0))
    assert drafter.propose([], 9, 2, 2) == [0, 1] and drafter._worth == 110 / 3
    assert drafter._extra == 10
    bent = PassCosts(sizes=(1, 4, 5, 64), plain=(100.0,) * 4, wanting=(100.0, 100.0, 200.0, 200.0), block=0.0)
    assert Drafter(bent, Guesses(cycles=0)).propose([], 9, 1, 1) == [0, 1], "four logits cost what one does, five do not"


def test_what_is_saved_may_be_spent() -> None:
    """Half a pass to begin with; 0.2% of a pass with every pass; what right tokens save, less what drafts cost."""
    drafter = Drafter(costs(10, 7), Guesses())
    assert drafter._credit == 50
    draft = drafter.propose([], 2)
    assert len(draft) == 2 and drafter._extra == 40
    drafter.settle(2, 1)
    assert drafter._credit == pytest.approx(50 + 100.2 - 40) and (drafter.proposed, drafter.accepted, drafter.passes) == (2, 1, 1)
    assert (drafter._trials, drafter._hits) == (2 + 2, 1 + 1)
    drafter.propose([], 1)
    drafter.settle(1, 1)
    assert (drafter._trials, drafter._hits) == (0.97 * 2 + 2 + 1, 0.97 * 1 + 1 + 1)
    credit = drafter._credit
    for _ in range(3):
        drafter.settle(0, 0)
    assert drafter.passes == 5 and drafter._credit == credit, "counted when it is asked again"
    drafter.propose([], 1)
    assert drafter._credit == credit + 3 * 0.2
    assert drafter._trials == pytest.approx(0.97**3 * 2.94 + 2) and drafter._hits == pytest.approx(0.97**3 * 1.97 + 1)
    assert drafter.tokens_per_pass == 1 + 2 / 5 and Drafter(costs(1, 1)).tokens_per_pass is None


def test_passes_without_drafts_count_by_who_was_beside() -> None:
    drafter = Drafter(costs(100, 0), Guesses(0))
    assert drafter.propose([], 5) == []
    drafter.settle(0, 0)
    assert drafter.propose([], 5, 1, 1) == [] and drafter._credit == 50 + 0.2
    drafter.settle(0, 0)
    drafter.settle(0, 0)
    drafter.propose([], 5)
    assert drafter._credit == 50 + 0.2 + 2 * 0.002 * 200 / 2


def test_a_draft_that_is_too_dear_is_not_made() -> None:
    for guess, made in ((50.0, [1]), (50.1, [])):
        guesses = Guesses(cycles=guess)
        drafter = Drafter(costs(0, 0), guesses)
        drafter._hits = 2.0  # everything was right
        assert len(drafter.propose([], 1)) == len(made) and guesses.asked == made


@pytest.mark.parametrize(("text", "most", "expected"), [
    ([1, 2, 3, 9, 1, 2, 3], 5, [9, 1, 2, 3]), ([1, 2, 3, 9, 7, 2, 3], 5, [9, 7, 2, 3]), ([1, 2, 3, 4, 2, 3, 5, 1, 2, 3], 2, [4, 2]),
    ([2, 3, 5, 1, 2, 3, 4, 7, 2, 3], 3, [4, 7, 2]), ([1, 2, 1, 2], 1, [1]), ([1, 1], 3, []), ([1, 1, 1], 3, [1]), ([5], 3, []),
    ([1, 2, -7, 9, 1, 2], 3, []), ([1, 2, 9, -7, 1, 2], 3, [9]), ([1, 2, 9, 8, 1, 2], 0, []),
])
def test_what_followed_before(text: list[int], most: int, expected: list[int]) -> None:
    """Three tokens first, then two, where they stood last; no vectors, no more than is asked for or stands there."""
    assert PromptLookup().propose(text, most) == expected and PromptLookup().most(text, most) == len(expected)
    grown = PromptLookup()
    for end in range(len(text) + 1):
        found = grown.propose(text[:end], most)
    assert found == expected


# ---- likelihoods -----------------------------------------------------------------------------------------------------
def test_logarithms_of_probabilities() -> None:
    logits = np.array([0.0, 3.0, 1.0, 3.0, -50.0], np.float32)
    total = sum(math.exp(x) for x in logits.tolist())
    found = token_logprobs(logits, 2, 3)
    assert found.logprob == 1 - math.log(total) and [token for token, _ in found.top] == [1, 3, 2]
    assert [p for _, p in found.top] == pytest.approx([3 - math.log(total)] * 2 + [1 - math.log(total)])
    assert token_logprobs(logits, 4, 0).top == () and token_logprobs(logits, 4, 1).top[0][0] == 1
    assert math.exp(token_logprobs(np.array([1e4, 1e4], np.float32), 0, 0).logprob) == 0.5
    assert sum(math.exp(p) for _, p in token_logprobs(logits, 0, 5).top) == 1


def test_the_best_of_several() -> None:
    assert best_answers([-1.0, -0.5, -0.5, -2.0], 3) == [1, 2, 0] and best_answers([1.0], 1) == [0]
    assert mean_logprob(-6.0, 3) == -2 and mean_logprob(0.0, 0) == -math.inf


# ---- documents -------------------------------------------------------------------------------------------------------
def test_spans_that_deviate_most() -> None:
    """Of eight neighbours, by their sums, until they are the share of all tokens; neighbours are joined."""
    values = np.zeros(20, np.float32)
    values[3], values[17], values[9] = 1, 5, 2
    deviations = [((100, 120), values), ((200, 204), np.full(4, 1.1, np.float32))]
    spans = {0.0: [], 0.01: [(116, 120)], 4 / 24: [(116, 120)], 0.17: [(116, 120), (200, 204)], 0.34: [(108, 120), (200, 204)],
             16 / 24: [(108, 120), (200, 204)], 0.67: [(100, 120), (200, 204)], 1.0: [(100, 120), (200, 204)]}
    for share, expected in spans.items():
        assert chosen_spans(deviations, share) == expected, share
    equal = [((0, 24), np.ones(24, np.float32))]
    assert chosen_spans(equal, 0.3) == [(0, 8)] and chosen_spans(equal, 0.34) == [(0, 16)], "of equal ones the earlier"
    assert _joined([(5, 6), (0, 3), (3, 5), (8, 9)]) == [(0, 6), (8, 9)] and _joined([]) == []


def test_distances() -> None:
    """By position the part of the squares of all keys, and of all values, that has changed."""
    rng = np.random.default_rng(1)
    new, old = (rng.integers(-9, 10, (2, 1, 2, 3, 4)).astype(np.int8) for _ in range(2))
    scales = np.full((2, 1, 2, 3), 0x3F80, np.uint16)  # 1.0
    found = _distances(KvArrays(new, scales), KvArrays(old, scales))
    for position in range(3):
        expected = 0.0
        for kind in range(2):
            far = ((new[kind, :, :, position].astype(float) - old[kind, :, :, position]) ** 2).sum()
            expected += far / (new[kind].astype(float) ** 2).sum()
        assert found[position] == pytest.approx(expected)
    nothing = KvArrays(np.zeros_like(new), scales)
    assert not _distances(nothing, nothing).any()
    part = slice_of(KvArrays(new, scales), 1, 3)
    assert np.array_equal(part.elements, new[:, :, :, 1:3]) and part.scales.shape == (2, 1, 2, 2)


def test_shares_and_beginnings() -> None:
    assert [checked_share(share) for share in (0, 1, 0.5)] == [0.0, 1.0, 0.5]
    for wrong in (-0.01, 1.01):
        with pytest.raises(Exception, match="recompute must be 0 to 1"):
            checked_share(wrong)
    pairs = (([1, 2, 3], [1, 2, 4]), ([1, 2], [1, 2, 3]), ([1, 2, 3], [1, 2]), ([], [1]), ([2], [1]), ([1, 2], [1, 2]))
    assert [common_prefix(a, b) for a, b in pairs] == [2, 2, 2, 0, 0, 2]
