"""Whose turn it is, with models that only know whether they have the device, and a clock that stands still."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from hwgen.errors import HwgenError
from hwgen.sw.runtime import device_turns
from hwgen.sw.runtime.device_turns import TURN_SHARE, DeviceTurns


class Model:
    """Takes a second to take the device."""

    def __init__(self, name: str, clock: list[float]) -> None:
        self.model, self.device, self.clock, self.taken = SimpleNamespace(name=name), f"device of {name}", clock, list[str]()

    def take(self, device: str) -> None:
        self.taken.append(device)
        self.clock[0] += 1


@pytest.fixture
def clock() -> list[float]:
    return [0.0]


@pytest.fixture
def models(clock: list[float]) -> list[Any]:
    return [Model("first", clock), Model("second", clock)]


@pytest.fixture
def turns(models: list[Any], clock: list[float], monkeypatch: pytest.MonkeyPatch) -> DeviceTurns:
    monkeypatch.setattr(device_turns, "WAIT_SECONDS", 0.01)
    return DeviceTurns(models, lambda: clock[0])


def test_the_last_one_has_it(turns: DeviceTurns, models: list[Any]) -> None:
    first, second = models
    assert turns.holder is second and turns.begin(second, 0) and turns.changes == 0 and not second.taken
    with turns.held(second):
        pass
    with pytest.raises(HwgenError, match="another model than 'first'") as error, turns.held(first):
        pass
    assert error.value.kind == "busy"


def test_one_that_is_free_is_given(turns: DeviceTurns, models: list[Any]) -> None:
    first, second = models
    assert turns.begin(first, 0) and turns.holder is first
    assert first.taken == ["device of second"] and turns.changes == 1
    assert not turns.begin(second, 0), "an answer of the first has begun"
    turns.rest(first, 0)
    assert turns.begin(second, 0) and turns.changes == 2 and second.taken == ["device of first"]


def test_a_turn_lasts_while_nobody_waits_and_then_so_long(turns: DeviceTurns, models: list[Any], clock: list[float]) -> None:
    first, second = models
    assert turns.begin(first, 0)
    clock[0] += 100
    assert turns.begin(first, 1), "nobody waits"
    assert not turns.begin(second, 0)
    assert not turns.begin(first, 1), "another waits, and the turn has lasted"
    turns.rest(first, 1)
    assert turns.begin(second, 0)
    assert not turns.begin(first, 0)
    clock[0] += TURN_SHARE - 0.5
    assert turns.begin(second, 1), "another waits, but the turn is young"
    clock[0] += 0.5
    assert not turns.begin(second, 1)
    turns.rest(first, 0)  # it wants nothing any more
    assert turns.begin(second, 1)


def test_who_wants_it_first_gets_it(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_turns, "WAIT_SECONDS", 0.01)
    first, second, third = models = [Model(name, clock) for name in ("first", "second", "third")]
    turns = DeviceTurns(models, lambda: clock[0])  # type: ignore[arg-type]  # stand-ins
    assert turns.begin(third, 0)  # type: ignore[arg-type]  # likewise
    for model in (second, first, second):
        assert not turns.begin(model, 0)  # type: ignore[arg-type]  # likewise
    turns.rest(third, 0)  # type: ignore[arg-type]  # likewise
    assert not turns.begin(first, 0) and turns.begin(second, 0)  # type: ignore[arg-type]  # likewise
    turns.rest(second, 0)  # type: ignore[arg-type]  # likewise
    assert turns.begin(first, 0) and turns.changes == 2  # type: ignore[arg-type]  # likewise


def test_the_first_turn_took_nothing(turns: DeviceTurns, models: list[Any]) -> None:
    """It is over as soon as another waits; a model that waits twice waits once."""
    first, second = models
    assert turns.begin(second, 0) and not turns.begin(first, 0) and not turns.begin(first, 0)
    assert not turns.begin(second, 1)
    turns.rest(second, 0)
    assert turns.begin(first, 0) and turns.begin(first, 1), "nobody waits any more"


def test_it_waits_until_the_device_is_free(models: list[Any], clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """For a while, in which the other may come to its end."""
    monkeypatch.setattr(device_turns, "WAIT_SECONDS", 60.0)
    turns = DeviceTurns(models, lambda: clock[0])
    first, second = models
    assert turns.begin(second, 0)
    later = threading.Timer(0.01, turns.rest, (second, 0))
    later.start()
    assert turns.begin(first, 0) and turns.holder is first
    later.join()
