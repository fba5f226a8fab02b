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
    """What the host asked for; stable while a pass runs.

    ``tokens`` of the pass, the ``runs`` they belong to, and how many of them are ``wanted``: the LOGITS operators work on those.
    """
    return wiring.Signature({
        "tokens": Out(bits_for(config.chunk)),
        "runs": Out(bits_for(config.chunk)),
        "wanted": Out(bits_for(config.chunk)),
    })


class ActiveRange(wiring.Component):
    """The rules of a pass, for prefetcher and sequencer alike: outputs are those of the descriptor of the cycle before.

    A descriptor counts the tokens of the pass, with LOGITS the wanted ones. It is skipped when ``token_start`` is not below their
    number, and when it has MULTI and they are at most two rounds (``2 * token_count``).

    Members
    -------
    descriptor : In(DescriptorLayout)
    current : In(Pass)
    skip : Out(1)
    first, count : Out
        Active tokens ``first .. first + count - 1``.
    more : Out(1)
        Another round of tokens follows: there are some behind ``token_start + token_count``.
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
        d, current = self.descriptor, self.current

        def has(flag: Flag) -> Signal:
            return d.flags[flag.value.bit_length() - 1]

        bits = len(current.tokens)
        left, start, round_size, tokens = Signal(bits), Signal(bits), Signal(bits), Signal(bits)
        m.d.comb += tokens.eq(Mux(has(Flag.LOGITS), current.wanted, current.tokens))
        m.d.sync += [
            left.eq(tokens - d.token_start),
            start.eq(d.token_start),
            round_size.eq(d.token_count),
            self.skip.eq((d.token_start >= tokens) | (has(Flag.MULTI) & (tokens <= 2 * d.token_count))),
            self.more.eq(d.token_start + d.token_count < tokens),
        ]
        m.d.comb += [self.first.eq(start), self.count.eq(Mux(self.more, round_size, left))]
        return m
