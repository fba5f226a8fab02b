"""What a machine tells about a pass is compared: every lie about it is found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest

from hwgen.descriptors import Opcode
from hwgen.sw.devices.golden import GoldenDevice
from hwgen.sw.runtime.engine import PassResult
from hwgen.sw.verification.lock_step import LockStep
from hwgen.sw.verification.pass_records import PassRecords
from tests.system.small import CONFIG, MEMORY_BYTES, SmallDevice, small_image


@cache
def told() -> tuple[PassRecords, PassResult]:
    """Of a pass that is right."""
    device, records = SmallDevice(), []
    golden = GoldenDevice(CONFIG, memory_bytes=MEMORY_BYTES)
    step = LockStep(CONFIG, small_image(), device, golden, retired=lambda tag: records[0].retired(tag))
    records.append(PassRecords(step.rtl_engine, device))
    records[0].begin()
    assert step.forward([5, 40, 3], logits=True) is not None and step.rtl_result is not None
    return records[0], step.rtl_result


def test_what_is_so() -> None:
    records, result = told()
    assert records.wrong(result) == ""
    assert len(records.ended) == result.counters["operators"] > 50


def counted_more(result: PassResult, number: int) -> PassResult:
    return replace(result, counted=[count + (i == number) for i, count in enumerate(result.counted)])


def more(name: str) -> Callable[[PassResult], PassResult]:
    def lie(result: PassResult) -> PassResult:
        return counted_more(result, list(result.counters).index(name))

    return lie


def slower(result: PassResult) -> PassResult:
    return counted_more(result, len(result.counters) + Opcode.NORM)


@pytest.mark.parametrize(("lie", "wrong"), [
    (more("cycles"), "causes of the engine's cycles add up to"),
    (more("engine_busy"), "causes of the engine's cycles add up to"),
    (lambda result: more("cycles")(more("engine_busy")(result)), "the engine was busy for"),
    (more("operators"), "operators are counted"),
    (more("write_beats"), "bytes are counted as written"),
    (slower, "cycles by operator are"),
])
def test_a_lie_about_counters(lie: Callable[[PassResult], PassResult], wrong: str) -> None:
    records, result = told()
    assert wrong in records.wrong(lie(result))


def test_a_lie_about_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    records, result = told()
    (a, at), (b, then), *others = records.ended
    monkeypatch.setattr(records, "ended", [(b, at), (a, then), *others])
    assert "the trace has operators" in records.wrong(result)
    monkeypatch.setattr(records, "ended", [(a, at - 1), (b, then), *others])
    assert "not as far apart" in records.wrong(result)
