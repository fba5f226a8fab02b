from __future__ import annotations

import threading

import pytest

from hwgen.errors import HwgenError
from hwgen.sw.runtime.errands import Errands


def test_in_order_and_each_with_its_own_result() -> None:
    errands, done = Errands(), []
    futures = [errands.add(lambda number=number: done.append(number) or 10 // number) for number in (1, 2, 0, 5)]  # type: ignore[misc]
    assert errands and not done
    errands.run()
    assert done == [1, 2, 0, 5] and not errands
    assert [futures[i].result(0) for i in (0, 1, 3)] == [10, 5, 2]
    with pytest.raises(ZeroDivisionError):
        futures[2].result(0)


def test_one_that_nobody_waits_for_any_more() -> None:
    errands, done = Errands(), []
    first, second = (errands.add(lambda number=number: done.append(number)) for number in (1, 2))  # type: ignore[misc]
    assert first.cancel()
    errands.run()
    assert done == [2] and second.done()


def test_those_that_come_too_late() -> None:
    errands = Errands()
    futures = [errands.add(threading.get_ident) for _ in range(2)]
    futures[0].cancel()
    errands.refuse(HwgenError("busy", "the server is shutting down", "try again later"))
    with pytest.raises(HwgenError, match="shutting down"):
        futures[1].result(0)
    assert not errands
