"""Registers one by one: elements of an array have numbers, others have none."""

from __future__ import annotations

import pytest

from hwgen import flat_registers as module
from hwgen.config import BuildConfig
from hwgen.flat_registers import flat_registers
from hwgen.registers import Register, register_map


def test_names_and_offsets(monkeypatch: pytest.MonkeyPatch) -> None:
    config = BuildConfig(name="flat")
    found = flat_registers(config)
    assert len(found) == sum(r.count for r in register_map(config))
    assert len({r.offset for r in found}) == len({r.name for r in found}) == len(found)
    rows = [
        Register("ONE", 0, "ro", "alone"), Register("TWO", 4, "rw", "a pair", count=2),
        Register("WIDE", 16, "wo", "far", count=3, step=8),
    ]
    monkeypatch.setattr(module, "register_map", lambda config: rows)
    assert [(r.name, r.offset, r.access) for r in flat_registers(config)] == [
        ("ONE", 0, "read-only"), ("TWO_0", 4, "read-write"), ("TWO_1", 8, "read-write"),
        ("WIDE_0", 16, "write-only"), ("WIDE_1", 24, "write-only"), ("WIDE_2", 32, "write-only"),
    ]
