"""The decoder over all bytes, and its signs over random beats."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import cocotb
import numpy as np
import pytest
from cocotb.triggers import ReadOnly, RisingEdge

from hwgen.config import BuildConfig
from hwgen.hw.linear.trits import TritDecoder, partner
from tests.cocotb_runner import cocotb_parameters, run_cocotb, start_clock

# These simulations are short: compiling is what takes time.

LEGAL_BYTES = 243
LATENCY = TritDecoder.INDEX_LATENCY


def codes_of(config: BuildConfig, beat: np.ndarray) -> np.ndarray:
    """Signed codes w0 + 3 w1 + 9 w2 ``[rows, tables]`` of a beat."""
    trits = np.stack([beat // 3**j % 3 for j in range(5)], axis=-1).astype(int) - 1
    trits = trits.reshape(config.rows, -1)
    trits = np.pad(trits, ((0, 0), (0, 3 * config.tables - trits.shape[1])))
    return trits.reshape(config.rows, config.tables, 3) @ np.array([1, 3, 9])


@cocotb.test()
async def decodes(dut: Any) -> None:
    config = BuildConfig.from_dict(cocotb_parameters()["config"])
    row_bytes = config.beat_bytes // config.rows
    levels = (config.tables - 1).bit_length()
    rng = np.random.default_rng(1)
    # Every byte at every position, then random beats.
    beats = [(np.arange(config.beat_bytes) + i) % LEGAL_BYTES for i in range(LEGAL_BYTES)]
    beats += list(rng.integers(0, LEGAL_BYTES, (100, config.beat_bytes)))
    sent: dict[int, np.ndarray] = {}
    dut.valid.value = 0
    await start_clock(dut)
    pending = list(beats)
    checked = 0
    for cycle in range(len(beats) * 2):
        if pending and rng.random() < 0.8:
            beat = pending.pop(0)
            sent[cycle] = codes_of(config, beat)
            dut.valid.value = 1
            dut.beat.value = int.from_bytes(beat.astype(np.uint8).tobytes(), "little")
        else:
            dut.valid.value = 0
            dut.beat.value = 0
        await ReadOnly()
        for row in range(config.rows):
            if cycle - LATENCY in sent:
                index = getattr(dut, f"index__{row}").value.to_unsigned()
                assert [index >> 4 * t & 15 for t in range(config.tables)] == abs(sent[cycle - LATENCY][row]).tolist()
                checked += 1
            negate = getattr(dut, f"negate__{row}").value.to_unsigned()
            for table in range(config.tables):
                level, left = partner(table) if table else (levels - 1, None)
                codes = sent.get(cycle - LATENCY - 1 - level)
                if codes is None or codes[row, table] == 0 or left is not None and codes[row, left] == 0:
                    continue  # the sign of a zero is arbitrary
                expected = (codes[row, table] < 0) ^ (left is not None and codes[row, left] < 0)
                assert (negate >> table & 1) == expected, (cycle, row, table)
        await RisingEdge(dut.clk)
    assert checked == len(beats) * config.rows
    assert row_bytes * 5 == config.slice_inputs


@pytest.mark.parametrize(("ports", "rows"), [(1, 1), (1, 4)])
def test_decoder(tmp_path: Path, ports: int, rows: int) -> None:
    config = BuildConfig(ports=ports, rows=rows, groups=1, builders=1)
    run_cocotb(
        partial(TritDecoder, config), test_module=__name__, build_dir=tmp_path,
        parameters={"config": config.to_dict()},
    )


def test_partner_is_the_pairwise_tree() -> None:
    """Adding neighbours level by level meets exactly the pairs that ``partner`` names, for any number of tables."""
    for tables in range(1, 40):
        nodes, level, seen = list(range(tables)), 0, {}
        while len(nodes) > 1:
            seen |= {right: (level, left) for left, right in zip(nodes[::2], nodes[1::2], strict=False)}
            nodes, level = nodes[::2], level + 1
        assert seen == {table: partner(table) for table in range(1, tables)}
