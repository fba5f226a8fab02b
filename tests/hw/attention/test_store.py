"""The KV store against a plain array, in Amaranth's own simulator: it is small, and needs no compiler."""

from __future__ import annotations

import random
from typing import Any

import pytest
from amaranth.sim import Simulator

from hwgen.config import BuildConfig
from hwgen.hw.attention.store import KvStore
from hwgen.hw.interfaces import KV_SCALE_LATENCY, kv_latency


@pytest.mark.parametrize(
    "sizes",
    [
        {"kv_block": 8, "chunk": 8},  # two elements a beat and key
        {"kv_block": 16, "chunk": 4, "max_kv_heads": 3},
        {"kv_block": 8, "chunk": 1},  # no neighbour
        {"kv_block": 4, "chunk": 2},  # a beat holds whole vectors
        {"beat_bytes": 64, "kv_block": 32, "chunk": 24, "builders": 3, "max_head_dim": 32, "max_kv_heads": 1},
        {"beat_bytes": 32, "kv_block": 16, "chunk": 6, "beat_vectors": 2},
    ],
)
def test_every_element_comes_back(sizes: dict[str, int]) -> None:
    config = BuildConfig(**{"beat_bytes": 16, "groups": 1, "builders": 7, "max_kv_heads": 2, "max_head_dim": 16} | sizes)  # type: ignore[arg-type]  # ints
    dut = KvStore(config)
    rng = random.Random(5)
    width, bits = config.width, 8 * config.key_bytes
    vectors = config.max_head_dim // width
    places = [(b, v, h) for b in range(config.chunk) for v in (0, 1) for h in range(config.max_kv_heads)]
    elements = {p: [rng.getrandbits(8) for _ in range(config.max_head_dim)] for p in places}
    scales = {p: rng.getrandbits(16) for p in places}
    requests = [
        (v, h, d, rng.randrange(config.chunk), rng.randrange(config.kv_block))
        for v in (0, 1)
        for h in range(config.max_kv_heads)
        for d in range(config.max_head_dim // config.key_bytes)
    ]
    rng.shuffle(requests)

    async def bench(ctx: Any) -> None:
        writes = [(*p, i) for p in places for i in range(vectors)]
        rng.shuffle(writes)
        for bank, value, head, vector in writes:
            ctx.set(dut.kv.valid, 1)
            for name, number in {"bank": bank, "value": value, "head": head, "vector": vector}.items():
                ctx.set(getattr(dut.kv, name), number)
            part = elements[bank, value, head][vector * width : (vector + 1) * width]
            ctx.set(dut.kv.data, int.from_bytes(bytes(part), "little"))
            ctx.set(dut.kv_scale.valid, vector == 0)
            for name, number in {"bank": bank, "value": value, "head": head, "scale": scales[bank, value, head]}.items():
                ctx.set(getattr(dut.kv_scale, name), number)
            await ctx.tick()
        ctx.set(dut.kv.valid, 0)
        ctx.set(dut.kv_scale.valid, 0)
        ctx.set(dut.kv.data, 0)
        latency = kv_latency(config)
        for cycle in range(len(requests) + latency):
            if cycle >= latency:
                value, head, dim, _, turn = requests[cycle - latency]
                data = ctx.get(dut.read.data)
                for bank in range(config.chunk):
                    wanted = elements[bank, value, head][dim * config.key_bytes : (dim + 1) * config.key_bytes]
                    got = data >> (bank + turn) % config.kv_block * bits & ((1 << bits) - 1)
                    assert got == int.from_bytes(bytes(wanted), "little"), (bank, value, head, dim, turn)
            if 0 <= cycle - KV_SCALE_LATENCY < len(requests):
                _, head, _, bank, _ = requests[cycle - KV_SCALE_LATENCY]
                assert ctx.get(dut.read.scales) == scales[bank, 0, head] | scales[bank, 1, head] << 16
            if cycle < len(requests):
                for name, number in zip(("value", "head", "dim", "bank", "turn"), requests[cycle], strict=True):
                    ctx.set(getattr(dut.read, name), number)
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
