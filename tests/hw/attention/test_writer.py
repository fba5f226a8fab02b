"""KvStore and KvWriter together, against :class:`hwgen.layout.KvBlockLayout` written out in numpy."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import cocotb
import numpy as np
import pytest
from amaranth.hdl import Array, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from cocotb.triggers import ClockCycles, RisingEdge

from hwgen.config import BuildConfig
from hwgen.descriptors import Descriptor, Opcode
from hwgen.formats import to_four_bits
from hwgen.hw.attention.store import KvStore
from hwgen.hw.attention.writer import KvWriter
from hwgen.hw.interfaces import KvScaleWrite, KvWrite, Operator, Segment, WriteBeat, kv_latency
from hwgen.layout import KV_FORMATS, KvBlockLayout
from tests.cocotb_runner import cocotb_parameters, run_cocotb, start_clock
from tests.hw.attention.bench import (
    RunOf,
    RunTable,
    Sink,
    answer_runs,
    begin_operator,
    drive_operator,
    start_and_wait,
    tiny_config,
    write_kv_store,
)

#: Page numbers of the context's blocks.
PAGES = [7, 2, 9, 0, 5, 11, 3, 8]
BASE, HEADS = 0x12_3456_7000, 3


class WriterBench(wiring.Component):
    """Store, writer and a page table."""

    def __init__(self, config: BuildConfig) -> None:
        self.config = config
        super().__init__({
            "op": In(Operator(config)), "start": In(1), "done": Out(1),
            "kv": In(KvWrite(config)), "kv_scale": In(KvScaleWrite(config)),
            "table": In(RunTable(config)), "segment": Out(Segment()), "beats": Out(WriteBeat(config)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.store = store = KvStore(self.config)
        m.submodules.writer = writer = KvWriter(self.config)
        for name in ("op", "segment", "beats"):
            wiring.connect(m, wiring.flipped(getattr(self, name)), getattr(writer, name))
        for name in ("kv", "kv_scale"):
            wiring.connect(m, wiring.flipped(getattr(self, name)), getattr(store, name))
        wiring.connect(m, writer.store, store.read)
        m.d.comb += [writer.start.eq(self.start), self.done.eq(writer.done)]
        number = Signal(8)
        m.d.sync += number.eq(Array(PAGES)[writer.pages.index])
        m.d.comb += writer.pages.number.eq(number)
        answer_runs(m, self.table, writer.runs)
        return m


def expected(
    config: BuildConfig, data: np.ndarray, scales: np.ndarray, run: RunOf, kv: str
) -> list[tuple[int, list[tuple[int, int]]]]:
    """Segments ``(address, [(masked data, strobe)])`` of a run, whose keys and values these are, from positions of the context,
    independent of the hardware's order."""
    position, count, pages = run
    layout = KvBlockLayout(config, data.shape[-1], KV_FORMATS[kv])
    block, segments = config.kv_block, []
    for head in range(HEADS):
        for b in range(position // block, (position + count - 1) // block + 1):
            image = np.zeros((layout.beats, config.beat_bytes), np.uint8)
            mask = np.zeros_like(image)
            for p in range(max(position, b * block), min(position + count, (b + 1) * block)):
                slot, bank = p % block, p - position
                flat, flat_mask = image[: layout.header_beats].reshape(-1), mask[: layout.header_beats].reshape(-1)
                for kind in (0, 1):
                    at = 2 * (kind * block + slot)
                    flat[at : at + 2] = scales[bank, kind, head : head + 1].view(np.uint8)
                    flat_mask[at : at + 2] = 1
                    pieces, dense = data.shape[-1] // config.key_bytes, layout.header_beats
                    size = [pieces // 2 if bits == "4" else pieces for bits in (kv[1], kv[3])]
                    beats = slice(dense + kind * size[0], dense + size[0] + kind * size[1])
                    place = slice(slot * config.key_bytes, (slot + 1) * config.key_bytes)
                    parts = data[bank, kind, head].view(np.uint8).reshape(-1, config.key_bytes)
                    if kv[2 * kind + 1] == "4":
                        codes = parts >> 4 & 8 | parts & 7
                        parts = codes[0::2] | codes[1::2] << 4
                    image[beats, place] = parts
                    mask[beats, place] = 1
            address = BASE + PAGES[pages + b] * HEADS * layout.bytes + head * layout.bytes
            segments.append((address, [
                (int.from_bytes((image[i] * mask[i]).tobytes(), "little"), sum(int(bit) << n for n, bit in enumerate(mask[i])))
                for i in range(layout.beats)
            ]))
    return segments


@cocotb.test()
async def writes_blocks(dut: Any) -> None:
    parameters = cocotb_parameters()
    config = BuildConfig.from_dict(parameters["config"])
    rng = np.random.default_rng(parameters["seed"])
    dim = parameters["head_dim"]
    for name in ("start", "kv__valid", "kv_scale__valid"):
        getattr(dut, name).value = 0
    drive_operator(dut, Descriptor())
    segments = Sink(dut, "segment", parameters["stall"], 1)
    beats = Sink(dut, "beats", parameters["stall"], 2)
    await start_clock(dut)
    for turn, runs in enumerate(parameters["passes"]):
        # All formats in turn, from one operator to the next.
        kv = ("k8v4", "k8v8", "k4v4")[turn % 3] if config.int4_kv else "k8v8"
        layout = KvBlockLayout(config, dim, KV_FORMATS[kv])
        command = Descriptor(
            opcode=Opcode.KV_WRITE, kv_heads=HEADS, head_vectors=dim // config.width, stream_address=BASE,
            stream_beats=layout.beats, stride=HEADS * layout.bytes, head_stride=layout.bytes,
            format=KV_FORMATS[kv],
        )
        data = rng.integers(-127, 128, (config.chunk, 2, HEADS, dim), dtype=np.int8)
        if turn % 4 == 3:
            data = np.where(data < 0, -127, 127).astype(np.int8)
        for kind in (0, 1):
            if kv[2 * kind + 1] == "4":
                data[:, kind] = to_four_bits(data[:, kind])
        scales = rng.integers(0, 1 << 15, (config.chunk, 2, HEADS), dtype=np.uint16)
        await write_kv_store(dut, config, data, scales)
        drive_operator(dut, command, runs=runs)
        if turn == parameters["interrupt"]:
            await begin_operator(dut)
            await ClockCycles(dut.clk, 23)
            dut.rst.value = 1
            await RisingEdge(dut.clk)
            dut.rst.value = 0
            segments.items.clear()
            beats.items.clear()
        cycles = await start_and_wait(dut)
        want, first = [], 0
        for run in runs:
            want += expected(config, data[first : first + run[1]], scales[first : first + run[1]], run, kv)
            first += run[1]
        mask40 = (1 << 40) - 1
        assert [(s & mask40, s >> 40) for s in segments.items] == [(address, layout.beats) for address, _ in want]
        got = []
        for item in beats.items:
            strobe = item >> (8 * config.beat_bytes)
            keep = sum(0xFF << (8 * n) for n in range(config.beat_bytes) if strobe >> n & 1)
            got.append((item & keep, strobe))
        assert got == [beat for _, segment in want for beat in segment]
        if not parameters["stall"]:
            # Slots, header scales, and what two beats of the store take, which are two of memory or one; one cycle for padding.
            pairs = dim // config.key_bytes
            assert cycles <= len(want) * (3 * config.kv_block + 30 + (kv_latency(config) + 2) * pairs + config.groups), cycles
        segments.items.clear()
        beats.items.clear()


@pytest.mark.parametrize("stall", [0.0, 0.4])
@pytest.mark.parametrize(
    ("changes", "head_dim"),
    [
        ({"kv_block": 4, "chunk": 4}, 16),
        ({"kv_block": 8, "chunk": 4}, 8),
        ({"kv_block": 16, "chunk": 2, "rows": 1, "groups": 4}, 32),
        ({"kv_block": 8, "chunk": 1}, 24),
        ({"kv_block": 8, "chunk": 6}, 16),
        ({"beat_bytes": 32, "kv_block": 16, "chunk": 10, "beat_vectors": 2}, 32),
        ({"kv_block": 4, "chunk": 4, "int4_kv": True}, 32),
        ({"kv_block": 8, "chunk": 6, "int4_kv": True, "groups": 4}, 24),
        ({"kv_block": 16, "chunk": 10, "int4_kv": True, "rows": 1}, 8),
    ],
)
def test_writes_blocks(tmp_path: Path, changes: dict[str, Any], head_dim: int, stall: float) -> None:
    config = tiny_config(**changes)
    block, chunk = config.kv_block, config.chunk
    single = [
        (0, 1),
        (0, chunk),
        (1, chunk),
        (block - 1, chunk),
        (block, 1),
        (2 * block - 1, 1),
        (3 * block + 1, max(1, chunk - 1)),
    ]
    single += [(position, min(chunk, 3)) for position in range(block - 3, block + 2) if position >= 0]
    passes = [[(*run, 0)] for run in single]
    passes += [[(position * 3 % (2 * block), 1, position % 5) for position in range(chunk)], [(block - 1, chunk - chunk // 2, 2)]]
    if chunk > 1:
        passes[-1] += [(0, chunk // 2, 4)]
    run_cocotb(
        partial(WriterBench, config), test_module=__name__, build_dir=tmp_path,
        parameters={"config": config.to_dict(), "head_dim": head_dim, "stall": stall, "passes": passes, "seed": 5, "interrupt": 2},
    )
