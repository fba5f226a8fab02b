"""Which tokens of a pass a descriptor works on, and whether it is executed at all."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from ..config import BuildConfig
from ..descriptors import Flag
from .interfaces import DescriptorLayout

__all__ = ["ActiveRange", "Pass"]


def Pass(config: BuildConfig) -> wiring.Signature:
    """What the host asked for; stable while a pass runs: ``tokens`` in all, in so many ``runs``, and how many have logits that are
    ``wanted``; in builds with a budget of blocks, whether a run ``chooses``."""
    return wiring.Signature({
        "tokens": Out(bits_for(config.chunk)),
        "runs": Out(bits_for(config.chunk)),
        "wanted": Out(bits_for(config.chunk)),
        **({"chooses": Out(1)} if config.kv_budget else {}),
    })


class ActiveRange(wiring.Component):
    """The rules of a pass, for prefetcher and sequencer alike: outputs are those of the descriptor of the cycle before.

    A descriptor is skipped when ``token_start >= tokens``, and when it has MULTI and the pass is at most two rounds
    (``2 * token_count``), and when it has CHOOSE and no run does. With LOGITS ``wanted`` stands in for ``tokens``.

    Members
    -------
    descriptor : In(DescriptorLayout)
    current : In(Pass)
    skip : Out(1)
    first, count : Out
        Active tokens ``first .. first + count - 1``.
    more : Out(1)
        Another round of tokens follows: ``token_start + token_count < tokens``.
    """

    def __init__(self, config: BuildConfig) -> None:
        self.config = config
        super().__init__({
            "descriptor": In(DescriptorLayout()),
            "current": In(Pass(config)),
            "skip": Out(1),
            "first": Out(bits_for(config.chunk)),
            "count": Out(bits_for(config.chunk)),
            "more": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        d = self.descriptor

        def has(flag: Flag) -> Signal:
            return d.flags[flag.value.bit_length() - 1]

        tokens = Signal.like(self.current.tokens)
        m.d.comb += tokens.eq(Mux(has(Flag.LOGITS), self.current.wanted, self.current.tokens))
        skip = (d.token_start >= tokens) | (has(Flag.MULTI) & (tokens <= 2 * d.token_count))
        if self.config.kv_budget:
            skip |= has(Flag.CHOOSE) & ~self.current.chooses
        left, round_size = Signal(len(tokens)), Signal(len(tokens))
        m.d.sync += [
            left.eq(tokens - d.token_start),
            self.first.eq(d.token_start),
            round_size.eq(d.token_count),
            self.skip.eq(skip),
            self.more.eq(d.token_start + d.token_count < tokens),
        ]
        m.d.comb += self.count.eq(Mux(self.more, round_size, left))
        return m
