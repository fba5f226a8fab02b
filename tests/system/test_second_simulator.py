"""A pass on a second simulator, with unknown bits where nothing was ever written: the pins do what they do under Verilator, where
every operator equals golden.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from hwgen.hw.verilog import cached_verilog
from hwgen.sim.dram import RANDOM
from hwgen.sw.devices.golden import GoldenDevice
from hwgen.sw.devices.verilator import VerilatorDevice
from hwgen.sw.verification.lock_step import LockStep

from .replay import HAS_ICARUS, Recording, differences, pins_of, read_waves, run_icarus, without_first_values
from .small import CONFIG, MEMORY_BYTES, small_image

pytestmark = pytest.mark.regress

#: Cycles that may be recorded.
MOST = 40_000


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """From a reset to the end of two passes, the second of which has a cache to read, and two rounds of tokens."""
    waves = tmp_path_factory.mktemp("waves") / "pins.fst"
    verilog = cached_verilog(CONFIG)
    device = VerilatorDevice(
        CONFIG, memory_bytes=MEMORY_BYTES, timing=RANDOM(5), trace=True, optimize=False, verilog=verilog
    )
    accelerator = device.accelerator
    first = accelerator.cycle
    accelerator.record_waves(waves, first, first + MOST)
    accelerator.reset()
    step = LockStep(CONFIG, small_image(), device, GoldenDevice(CONFIG, memory_bytes=MEMORY_BYTES))
    for tokens in ([5, 40], [23, 8, 31]):
        assert step.forward(tokens, logits=True) is not None, step.outcome.first
    cycles = accelerator.cycle - first
    assert cycles < MOST
    accelerator.tick(MOST - cycles + 1)  # the file ends with its last cycle
    return read_waves(waves, pins_of(verilog), first, cycles)


@pytest.mark.skipif(not HAS_ICARUS, reason="Icarus Verilog is missing (Debian: iverilog)")
def test_unknown_bits_reach_no_pin(recording: Recording, tmp_path: Path) -> None:
    source = tmp_path / "design.v"
    source.write_text(without_first_values(cached_verilog(CONFIG)))
    answers = run_icarus(recording, [source], tmp_path / "icarus")
    assert next(differences(recording, answers), None) is None
    written = [cycle for cycle, valid in enumerate(recording.values["m00_axi_wvalid"]) if valid == "1"]
    assert written and "1" in recording.values["irq"], "a pass ran"
