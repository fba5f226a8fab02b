"""Why an answer is not taken, in words; and calls that wait for their thread."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from hwgen.errors import HwgenError
from hwgen.sw.runtime.errands import Errands
from hwgen.sw.runtime.jobs import DeviceFailed, NoRoom, QueueFull


def test_reasons() -> None:
    engine: Any = SimpleNamespace(pages=SimpleNamespace(blocks=lambda positions: -(-positions // 16)))
    for position, remaining, summaries, pages in ((30, 3, 0, 3), (0, 16, 0, 1), (31, 1, 0, 2), (16, 17, 0, 3), (30, 1, 2, 4)):
        session = SimpleNamespace(position=position)
        job: Any = SimpleNamespace(generation=SimpleNamespace(session=session, remaining=remaining, summary_pages=summaries))
        error = NoRoom(engine, job)
        assert error.kind == "context" and error.message.startswith(f"the answer needs {pages} KV pages")
    assert (QueueFull(7).kind, QueueFull(7).message) == ("busy", "7 requests are waiting already")
    assert (DeviceFailed("x").kind, DeviceFailed("x").message) == ("device", "the device failed: x")


def test_errands() -> None:
    """Run in their order; an error is of who asked; one that was cancelled, or refused, is not run."""
    errands, ran = Errands(), list[int]()
    assert not errands
    first, second, third = errands.add(lambda: ran.append(1)), errands.add(lambda: 1 // 0), errands.add(lambda: ran.append(3) or 9)
    assert errands and second.cancel() is True
    fourth = errands.add(lambda: 1 // 0)
    errands.run()
    assert ran == [1, 3] and first.result() is None and third.result() == 9 and second.cancelled() and not errands
    with pytest.raises(ZeroDivisionError):
        fourth.result()
    refused, gone = errands.add(lambda: ran.append(5)), errands.add(lambda: ran.append(6))
    gone.cancel()
    errands.refuse(HwgenError("busy", "no"))
    with pytest.raises(HwgenError, match="no"):
        refused.result()
    assert ran == [1, 3] and not errands
