"""The scale memory against the layout of a panel: both modes, banks, and words that replace those just read."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import cocotb
import numpy as np
import pytest
from cocotb.triggers import ReadOnly, RisingEdge

from hwgen.config import BuildConfig
from hwgen.hw.linear.group_scales import ScaleMemory
from hwgen.layout import Int4Layout
from tests.cocotb_runner import cocotb_parameters, run_cocotb, start_clock


@cocotb.test()
async def codes(dut: Any) -> None:
    config = BuildConfig.from_dict(cocotb_parameters()["config"])
    rng = np.random.default_rng(2)
    for name in ("write", "word", "beat", "gang", "block"):
        getattr(dut, name).value = 0
    await start_clock(dut)
    expected: dict[int, list[int]] = {}
    cycle = checked = 0

    async def step() -> None:
        nonlocal cycle, checked
        await ReadOnly()
        for g, value in enumerate(expected.pop(cycle - ScaleMemory.LATENCY, [])):
            assert int(getattr(dut, f"codes__{g}").value) == value
            checked += 1
        await RisingEdge(dut.clk)
        cycle += 1

    for turn in range(6):
        # Alternate between a whole panel and few rows: what is read is never what an earlier group left behind.
        rows = config.panel_rows if turn % 2 == 0 else int(rng.integers(1, config.panel_rows))
        group = 4 * config.int4_slice_inputs
        layout = Int4Layout(config, rows, group, group)
        scales = rng.integers(0, 256, (rows, 1)).astype(np.uint8)
        midpoints = rng.integers(-127, 128, (rows, 1)).astype(np.int8)
        beats = layout.pack(np.zeros((rows, group), np.int8), scales, midpoints)[: layout.scale_beats]
        pairs = np.zeros((layout.row_blocks * config.rows, 2), np.uint8)
        pairs[:rows, 0], pairs[:rows, 1] = scales[:, 0], midpoints[:, 0].view(np.uint8)
        blocks = [int.from_bytes(pair.tobytes(), "little") for pair in pairs.reshape(layout.row_blocks, -1)]
        for w, beat in enumerate(beats):
            dut.write.value, dut.word.value = 1, w
            dut.beat.value = int.from_bytes(beat.tobytes(), "little")
            await step()
        dut.write.value = 0
        gang = turn in (1, 2, 5)
        dut.gang.value = int(gang)
        for block in range(layout.row_blocks // config.groups if gang else layout.row_blocks):
            dut.block.value = block
            expected[cycle] = [blocks[block * config.groups + g] if gang else blocks[block] for g in range(config.groups)]
            await step()
        for _ in range(ScaleMemory.LATENCY if turn % 2 else 2):  # the mode changes between operators only
            await step()
    for _ in range(ScaleMemory.LATENCY):
        await step()
    assert checked


#: Blocks of a beat, groups: 8 and 2, 1 and 4.
GEOMETRIES: dict[str, dict[str, int]] = {
    "beats_of_blocks": {"beat_bytes": 32, "rows": 2, "groups": 2, "panel_rows": 304},
    "banks": {"beat_bytes": 16, "rows": 4, "groups": 8, "beat_vectors": 1, "panel_rows": 352},
}


@pytest.mark.parametrize("name", GEOMETRIES)
def test_scales(tmp_path: Path, name: str) -> None:
    config = BuildConfig.from_dict({"name": name, "engine": "int4", "lanes": 1, "max_inputs": 256, **GEOMETRIES[name]})
    run_cocotb(partial(ScaleMemory, config, 2), test_module=__name__, build_dir=tmp_path, parameters={"config": config.to_dict()})
