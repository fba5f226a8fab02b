"""Keys and values of the pass itself, on their way from the KV store to the buffers of the attention unit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amaranth.hdl import Cat, Module, Mux, Signal

from ...config import BuildConfig
from ..interfaces import kv_latency
from .block_walk import BlockWalk
from .item import AttentionSizes, delayed

if TYPE_CHECKING:
    from amaranth.lib.wiring import PureInterface


__all__ = ["Landing", "OwnPart"]


class Landing:
    """What the store answers: a beat of keys, of values, the last of them, its step."""

    def __init__(self, m: Module, own: OwnPart, latency: int) -> None:
        self.keys = delayed(m, own.in_keys, latency, "own_keys")[-1]
        self.values = delayed(m, own.in_values, latency, "own_values")[-1]
        self.last = delayed(m, own.last, latency, "own_last", reset_less=True)[-1]
        self.step = delayed(m, own.step, latency, "own_step", reset_less=True)[-1]


class OwnPart:
    """The part of one block that comes from the store: it loads beside what the ring brings, values first, then keys, so that the
    ring, which brings keys first, seldom wants the same memory in the same cycle."""

    def __init__(self, config: BuildConfig, walk: BlockWalk) -> None:
        self.config = config
        #: Strobe: the block that begins has such a part.
        self.begin = Signal(name="begin_own")
        #: Of that block, until it is ``busy`` no more.
        self.buffer, self.head, self.turn = (
            Signal(len(of), name=f"own_{name}") for of, name in ((walk.buffer, "buffer"), (walk.head, "head"), (walk.turn, "turn"))
        )
        self.before, self.has_past = Signal(config.kv_block, name="own_before"), Signal(name="own_has_past")
        self.busy, self.keys_missing, self.values_missing = (
            Signal(name=f"own_{name}") for name in ("busy", "keys_missing", "values_missing")
        )
        self.in_keys, self.in_values, self.last = (Signal(name=f"own_{name}") for name in ("in_keys", "in_values", "at_end"))
        self.step = Signal(len(walk.step), name="own_step")

    def load(self, m: Module, op: PureInterface, walk: BlockWalk, sizes: AttentionSizes) -> Landing:
        """Asks the store for all values of the part, then for all its keys, a beat a cycle; returns what it answers."""
        landing = Landing(m, self, kv_latency(self.config))
        last_step = Signal(len(self.step), name="own_last_step")
        m.d.sync += last_step.eq((op.descriptor.head_vectors << sizes.part_bits) - 1)
        m.d.comb += self.last.eq(self.step == last_step)
        # In the cycle after, what landed last is written; the part ends there.
        landed = Signal(2, name="own_landed")
        m.d.sync += landed.eq(Cat(landing.keys & landing.last, landing.values & landing.last))
        with m.If(self.begin):
            m.d.sync += [
                self.buffer.eq(walk.buffer), self.head.eq(Mux(walk.next_run, 0, walk.head + walk.next_head)),
                self.turn.eq(walk.turn), self.before.eq(walk.before), self.has_past.eq(walk.has_past), self.step.eq(0),
                self.busy.eq(1), self.keys_missing.eq(1), self.values_missing.eq(1), self.in_values.eq(1),
            ]
        with m.Elif(self.in_values | self.in_keys):
            m.d.sync += self.step.eq(self.step + 1)
            with m.If(self.last):
                m.d.sync += [self.step.eq(0), self.in_values.eq(0), self.in_keys.eq(self.in_values)]
        with m.If(landed[0]):
            m.d.sync += [self.keys_missing.eq(0), self.busy.eq(0)]
        with m.If(landed[1]):
            m.d.sync += self.values_missing.eq(0)
        return landing
