"""What planted faults are run through: that loops find nothing in a machine without one, and something in one that is wrong."""

from __future__ import annotations

from hwgen.sw.devices.device import Bytes
from hwgen.sw.devices.golden import GoldenDevice
from hwgen.sw.verification.case import MEMORY_BYTES
from tools.mutant_cases import CONFIG, cases, run_loops


class Wrong(GoldenDevice):
    """A bit of whatever the host reads of the memory is the other way round."""

    def read(self, address: int, size: int) -> Bytes:
        data = super().read(address, size).copy()
        data[0] ^= 1
        return data


def test_loops_without_a_fault() -> None:
    assert run_loops(lambda: GoldenDevice(CONFIG, memory_bytes=MEMORY_BYTES)).wrong == ""


def test_loops_with_a_fault() -> None:
    assert run_loops(lambda: Wrong(CONFIG, memory_bytes=MEMORY_BYTES)).wrong == "loop with the exact head: other cache"


def test_cases_are_different() -> None:
    names = [str(case) for case in cases()]
    assert len(set(names)) == len(names) == 11
