"""Waves of the Verilator device, with a simulator that only notes what it is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwgen.config import BuildConfig
from hwgen.errors import HwgenError
from hwgen.registers import Control, register
from hwgen.sw.devices.verilator import VerilatorDevice, Waves

from ..cli.calls import call

CONFIG = BuildConfig(name="waves")


class Noting:
    """In place of the simulated accelerator."""

    def __init__(self) -> None:
        self.cycle = 5000
        self.recorded: list[tuple[Path, int, int]] = []
        self.written: list[tuple[int, int]] = []

    def record_waves(self, path: Path, first: int, end: int) -> None:
        self.recorded.append((path, first, end))

    def write_register(self, offset: int, value: int) -> None:
        self.written.append((offset, value))
        self.cycle += 10


def test_waves_begin_at_the_first_doorbell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noting, traced = Noting(), []

    def simulate(
        config: BuildConfig, memory: int, base: int, timing: object, public: object, trace: bool, *rest: object
    ) -> Noting:
        traced.append(trace)
        return noting

    monkeypatch.setattr(VerilatorDevice, "_simulate", staticmethod(simulate))
    path, control = tmp_path / "a.fst", register(CONFIG, "CONTROL").offset
    device = VerilatorDevice(CONFIG, waves=Waves(path, 7, 90))
    assert traced == [True]
    device.write_register(register(CONFIG, "COUNT").offset, 1)
    device.write_register(control, Control.ACKNOWLEDGE)
    assert noting.recorded == []
    for _ in range(2):
        device.write_register(control, Control.START)
    assert noting.recorded == [(path, 5027, 5110)] and len(noting.written) == 4
    VerilatorDevice(CONFIG)
    assert traced == [True, False]


@pytest.mark.parametrize(("first", "end"), [(5, 5), (-1, 4), (9, 3)])
def test_cycles_in_order(first: int, end: int, tmp_path: Path) -> None:
    with pytest.raises(HwgenError, match=f"not {first} to {end}"):
        Waves(tmp_path / "a.fst", first, end)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "stories", "x", "--waves", "no/such/a.fst"], "cannot be written"),
        (["run", "stories", "x", "--from", "3"], "are for waves"),
        (["run", "stories", "x", "--waves", "a.fst", "--device", "golden"], "of the simulator"),
        (["verify", "--waves", "a.fst", "--from", "8", "--to", "2"], "not 8 to 2"),
        (["bench", "--waves", "no/such/a.fst"], "cannot be written"),
    ],
)
def test_doors(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    code, result = call(capsys, *arguments)
    assert code == 2 and message in result["error"]["message"]
