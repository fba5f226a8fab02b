"""The rules of a pass in hardware against those of the operator table: every combination of flags, tokens at every edge."""

from __future__ import annotations

import itertools
from typing import Any

from amaranth.sim import Simulator

from hwgen.config import BuildConfig
from hwgen.descriptors import Descriptor, Flag
from hwgen.hw.active import ActiveRange
from hwgen.operators import active_tokens, has_more_rounds, skipped

CHUNK = 8
RULES = (Flag.LOGITS, Flag.MULTI, Flag.REPLAY, Flag.CHOOSE)


def test_active_range() -> None:
    dut = ActiveRange(BuildConfig(chunk=CHUNK, kv_budget=2, page_entries=2048))
    executed = 0

    async def bench(ctx: Any) -> None:
        nonlocal executed
        for chosen in itertools.product((False, True), repeat=len(RULES)):
            others = Flag.TO_QUERY | Flag.STORE | Flag.QUERIES if chosen[0] else Flag.NONE  # of no importance here
            flags = sum((flag for flag, on in zip(RULES, chosen, strict=True) if on), others)
            for start, count in itertools.product((0, 1, 4, CHUNK - 1), (1, 2, 4, CHUNK)):
                d = Descriptor(flags=Flag(flags), token_start=start, token_count=count)
                ctx.set(dut.descriptor.as_value(), int.from_bytes(d.pack(), "little"))
                for tokens, wanted, chooses in itertools.product(range(1, CHUNK + 1), (0, 1, 3, CHUNK), (False, True)):
                    ctx.set(dut.current.tokens, tokens)
                    ctx.set(dut.current.wanted, wanted)
                    ctx.set(dut.current.chooses, chooses)
                    await ctx.tick()
                    case = d, tokens, wanted, chooses
                    assert bool(ctx.get(dut.skip)) == skipped(*case), case
                    if skipped(*case):
                        continue
                    executed += 1
                    active = active_tokens(d, tokens, wanted)
                    assert (ctx.get(dut.first), ctx.get(dut.count)) == (active.start, len(active)), case
                    assert bool(ctx.get(dut.more)) == has_more_rounds(d, tokens, wanted), case

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    assert executed > 500
