"""Stops through a window of words that the test turns: which registers, how long, and whose buffers."""

from __future__ import annotations

from typing import Any

import pytest

from hwgen.errors import HwgenError
from hwgen.sw.devices import pass_stop
from hwgen.sw.devices.device import StopFailed
from hwgen.sw.devices.pass_stop import Holdings, PassStop


class Window:
    """STATUS is busy for so many reads."""

    def __init__(self, busy: int = 0, low: int = 0, high: int = 0) -> None:
        self.busy, self.words, self.written = busy, {0x20: low, 0x24: high}, list[tuple[int, int]]()

    def read(self, offset: int) -> int:
        if offset == 0x14:
            self.busy -= 1
            return 1 if self.busy >= 0 else 2
        return self.words[offset]

    def write(self, offset: int, value: int) -> None:
        self.written.append((offset, value))


class Buffer:
    nbytes = 4096

    def __init__(self, freed: list[object], error: Exception | None = None) -> None:
        self._freed, self._error = freed, error

    def freebuffer(self) -> None:
        if self._error is not None:
            raise self._error
        self._freed.append(self)


def test_what_runs() -> None:
    stop = PassStop(Window(2, 0x8000_0040, 3))
    assert stop.program == 0x3_8000_0040 and [stop.is_busy, stop.is_busy, stop.is_busy] == [True, True, False]


def test_a_stop_waits_for_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now, slept = [0.0], list[float]()
    monkeypatch.setattr(pass_stop.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(pass_stop.time, "sleep", lambda seconds: (slept.append(seconds), now.__setitem__(0, now[0] + 2.5)))
    window = Window(5)
    PassStop(window)()
    assert window.written == [(0x10, 4)] and slept == [0.001] * 5, "10 s are not more than 10 s"
    now[0] = 0.0
    with pytest.raises(StopFailed, match="has not ended within 10 s"):
        PassStop(Window(6))()


@pytest.mark.parametrize(("program", "stopped"), [(0xFFF, False), (0x1000, True), (0x1FFF, True), (0x2000, False), (0x8000, True)])
def test_a_pass_on_these_buffers_is_stopped(program: int, stopped: bool) -> None:
    """One on other buffers is of another device; without buffers nothing is looked at."""
    window, freed = Window(1, program), list[object]()
    holdings = Holdings(PassStop(window), lambda error: False)
    holdings.release()
    assert window.written == []
    holdings.buffers = {0x1000: Buffer(freed), 0x8000: Buffer(freed)}
    holdings.release()
    assert len(freed) == 2 and not holdings.buffers and window.written == ([(0x10, 4)] if stopped else [])


@pytest.mark.parametrize("lost", [True, False])
def test_a_board_that_fails(lost: bool) -> None:
    """Buffers of a machine that did not stop are kept; those of a board that is gone are nobody's."""
    freed: list[object] = []

    class Broken(Window):
        def read(self, offset: int) -> int:
            raise HwgenError("device", "gone")

    kept = len(pass_stop._KEPT)
    broken: Any = Holdings(PassStop(Broken()), lambda error: lost)
    broken.buffers = {0x1000: Buffer(freed)}
    if lost:
        broken.release()
        assert len(freed) == 1 and len(pass_stop._KEPT) == kept
    else:
        with pytest.raises(HwgenError, match="gone"):
            broken.release()
        assert len(pass_stop._KEPT) == kept + 1 and not freed
    freed.clear()
    del pass_stop._KEPT[kept:]
    partly: Any = Holdings(PassStop(Window()), lambda error: lost)
    partly.buffers = {0x1000: Buffer(freed, ValueError("odd")), 0x4000: Buffer(freed)}
    if lost:
        partly.release()
        assert len(freed) == 1
        return
    with pytest.raises(ValueError, match="odd"):
        partly.release()
