"""Buffers are given back behind the pass that uses them, and FIFOs of ports are reset, on registers that are a dictionary."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from hwgen.sw.devices import loading, pass_stop
from hwgen.sw.devices.loading import RST_FPD_TOP, reset_ports
from hwgen.sw.devices.pass_stop import Holdings


class Buffer:
    nbytes = 0x100

    def __init__(self, events: list[str], name: str, error: Exception | None = None) -> None:
        self._events, self._name, self._error = events, name, error

    def freebuffer(self) -> None:
        self._events.append(self._name)
        if self._error is not None:
            raise self._error


class Stop:
    """A pass whose program is at ``program``."""

    def __init__(self, events: list[str], program: int, error: BaseException | None = None) -> None:
        self.program, self._events, self._error = program, events, error

    def __call__(self) -> None:
        self._events.append("stop")
        if self._error is not None:
            raise self._error


def holdings(stop: Any, *buffers: Buffer) -> Holdings:
    held = Holdings(stop, lambda error: isinstance(error, ConnectionError))
    held.buffers.update({0x1000 * (i + 1): buffer for i, buffer in enumerate(buffers)})
    return held


@pytest.mark.parametrize(("program", "stopped"), [
    (0x1000, True), (0x20FF, True), (0x2100, False), (0xFFF, False), (0x3000, False),
])
def test_a_pass_on_these_buffers_is_stopped_first(program: int, stopped: bool) -> None:
    events: list[str] = []
    held = holdings(Stop(events, program), Buffer(events, "a"), Buffer(events, "b"))
    held.release()
    assert events == ["stop"] * stopped + ["a", "b"] and not held.buffers
    held.release()
    assert len(events) == 2 + stopped, "once"


def test_one_that_does_not_stop_keeps_its_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Any] = []
    monkeypatch.setattr(pass_stop, "_KEPT", kept)
    for error in (TimeoutError(), KeyboardInterrupt()):
        events: list[str] = []
        held = holdings(Stop(events, 0x1000, error), buffer := Buffer(events, "a"))
        with pytest.raises(type(error)):
            held.release()
        assert events == ["stop"] and kept.pop() is buffer


def test_of_a_board_that_is_lost_nothing_is_told() -> None:
    events: list[str] = []
    lost = ConnectionError()
    holdings(Stop(events, 0x1000, lost), Buffer(events, "a", lost), Buffer(events, "b", lost)).release()
    assert events == ["stop", "a", "b"]
    with pytest.raises(ValueError, match="torn"):
        holdings(Stop(events, 0), Buffer(events, "a", ValueError("torn"))).release()


@pytest.mark.parametrize("arch", ["aarch64", "armv7l"])
def test_ports_are_reset_and_nothing_else(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "ANSWER_SECONDS", 0)
    before, events = 0xFFFF_FFFF & ~(1 << 9), list[Any]()

    def mmio(address: int, size: int, device: Any) -> Any:
        assert (address, size) == (RST_FPD_TOP, 4)
        return SimpleNamespace(read=lambda offset: before, write=lambda offset, value: events.append((offset, value)))

    target = SimpleNamespace(arch=arch, set_axi_port_width=events.append)
    reset_ports(SimpleNamespace(MMIO=mmio), target, "parser")
    ports = 0x1F80  # bits 7 to 12 by UG1087
    assert events == ([(0, before | ports), (0, before & ~ports), "parser"] if arch == "aarch64" else [])
