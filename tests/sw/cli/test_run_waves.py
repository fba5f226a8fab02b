"""``hwgen run --waves`` from the command line to the file. It has a simulator of its own, so `make regress` runs it."""

from __future__ import annotations

from pathlib import Path

import pytest
import pywellen

from .calls import SMALL, call

pytestmark = pytest.mark.regress

#: Of the time axis of waves (`sim/harness.cpp`).
PICOSECONDS_PER_CYCLE = 4000


def test_waves_of_a_run(capsys: pytest.CaptureFixture[str], model_directory: Path, tmp_path: Path) -> None:
    for header in ("lz4.h", "zlib.h"):
        if not Path("/usr/include", header).exists():
            pytest.skip(f"waves need {header}")
    path, run = tmp_path / "a.fst", ["run", str(model_directory), "--prompt", "the cat", "--max-new-tokens", "1", *SMALL]
    code, result = call(capsys, *run, "--device", "verilator", "--waves", str(path), "--from", "50", "--to", "350")
    assert code == 0
    head = path.read_bytes()[:25]
    assert head[0] == 0  # FST header block: length, then first and last time stamp
    first, last = (int.from_bytes(head[at : at + 8], "big") // PICOSECONDS_PER_CYCLE for at in (9, 17))
    assert last - first == 299
    signals = {variable.full_name: variable.signal for variable in pywellen.Waveform(str(path)).all_vars()}
    assert len(signals) > 1000 and {"TOP.clk", "TOP.irq", "TOP.m00_axi_arvalid"} <= signals.keys()
    port = signals["TOP.m00_axi_arvalid"]
    assert {port.value_at(cycle * PICOSECONDS_PER_CYCLE) for cycle in range(first + 1, last)} == {0, 1}  # the pass reads memory
    code, golden = call(capsys, *run, "--device", "golden")
    assert code == 0 and result["tokens"] == golden["tokens"]
