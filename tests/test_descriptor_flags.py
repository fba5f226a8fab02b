"""Flags of descriptors: one bit each, and none twice."""

from __future__ import annotations

import enum

import pytest

from hwgen.descriptors import Buffers, Flag, Format


@pytest.mark.parametrize("flags", [Buffers, Flag, Format])
def test_a_flag_is_a_bit_of_its_own(flags: type[enum.Flag]) -> None:
    values = [member.value for name, member in flags.__members__.items() if name != "NONE"]
    assert flags["NONE"].value == 0 and all(value and value & value - 1 == 0 for value in values)
    assert len(set(values)) == len(values)
