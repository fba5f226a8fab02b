"""Whose time the answers tell."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("starlette", reason="serving needs starlette")

from hwgen.sw.runtime.phase import Phase
from hwgen.sw.serve.replies import timings


@pytest.mark.parametrize(("simulated", "time"), [(True, "simulated"), (False, "measured")])
def test_cycles_are_time_at_the_clock(simulated: bool, time: str) -> None:
    """Summed over the answers to a request."""
    generations = [SimpleNamespace(prefill=Phase(8, 1000, 500, 9.0), decode=Phase(2, 4000, 1000, 9.0)) for _ in range(2)]
    completion: Any = SimpleNamespace(choices=[SimpleNamespace(generation=generation) for generation in generations])
    times = timings(completion, 250.0, simulated)
    assert times["time"] == time and times["prompt"]["port_utilisation"] == 0.5
    assert times["answer"] == {
        "tokens": 4, "seconds": pytest.approx(8000 / 250e6), "tokens_per_second": pytest.approx(4 / (8000 / 250e6)),
        "port_utilisation": 0.25,
    }


def test_without_cycles_it_is_the_time_of_this_computer() -> None:
    generation = SimpleNamespace(prefill=Phase(8, 0, 0, 0.5), decode=Phase())
    completion: Any = SimpleNamespace(choices=[SimpleNamespace(generation=generation)])
    times = timings(completion, 250.0, True)
    assert times["time"] == "wall" and times["prompt"]["tokens_per_second"] == 16
    assert times["answer"] == {"tokens": 0, "seconds": 0.0, "tokens_per_second": None, "port_utilisation": None}
