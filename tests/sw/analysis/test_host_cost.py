"""The loop that is counted, and what follows from counts; counting itself takes minutes."""

from __future__ import annotations

import json

import pytest

from hwgen.sw.analysis import host_cost
from hwgen.sw.analysis.host_share import MEASURED, SEQUENCES, host_json


@pytest.mark.parametrize("way", ["greedy", "top-p"])
def test_the_counted_passes_give_a_token_to_each(way: str) -> None:
    marks: list[int] = []
    tokens = host_cost.count(host_cost.WAYS[way], 1, lambda: marks.append(1))
    assert tokens >= host_cost.COUNTED and len(marks) == 2


def test_counts_are_there_for_every_case() -> None:
    """At most 600,000 instructions, 1 ms of a Cortex-A53."""
    measured = json.loads(MEASURED.read_text())
    for way, sequences in host_cost.cases():
        assert 1000 < measured["counts"][way][str(sequences)] <= 600_000


def test_what_remains() -> None:
    counts = json.loads(MEASURED.read_text())["counts"]["greedy"]
    one, many = (host_json("a53", n, 0.03)["ways"]["greedy"] for n in SEQUENCES)
    assert one["tok_s"] == pytest.approx(1 / (0.03 + counts["1"] / 0.6e9)) and one["remains"] == pytest.approx(one["tok_s"] * 0.03)
    assert many["tok_s"] == pytest.approx(24 / (0.03 + 24 * counts["24"] / 0.6e9))
    middle = host_json("a53", 12, 0.03)["ways"]["greedy"]["instructions_per_token"]
    assert min(counts.values()) <= middle <= max(counts.values())
