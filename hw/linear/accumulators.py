"""The accumulators of one token lane: block memories that LINEAR adds to and DRAIN reads."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from operator import or_

from amaranth.hdl import Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Flow, In, Out, Signature

from ...config import BuildConfig
from ..data_register import data_register
from ..interfaces import index_bits
from .parity import accumulator_words

__all__ = ["AccumulateBus", "AccumulatingLane"]


def AccumulateBus(config: BuildConfig) -> Signature:
    """What the accumulators do, counted from the cycle in which a beat is added:

    * ``keep`` two cycles before: part (one-hot) of the word read one cycle before that the beat adds to; none in the
      first slice.
    * ``write`` and ``write_part`` one cycle later: address and part (one-hot; none without a beat) of its sum.
    """
    return Signature({
        "keep": Out(config.vector_blocks),
        "write": Out(index_bits(accumulator_words(config))),
        "write_part": Out(config.vector_blocks),
    })


class AccumulatingLane(wiring.Component):
    """A lane with ``rows`` accumulators of ``acc_bits`` a row block; `_kept` makes them, and the lane adds.

    ::

        cycle   0       1       2       3               4
                read    keep    own     row + kept      write
                                        (syndrome)

    A row block may be used again `ACCUMULATE_CYCLES` cycles later.

    Members
    -------
    (those of the lane)
    active : In(1)
        The lane has a token; without it nothing is accumulated.
    accumulate : In(AccumulateBus)
        From the engine.
    read : In
        Address in the accumulators: the beat's in cycle 0, or the one that DRAIN reads.
    own : Out
        Two cycles after ``read``, the kept row block; zero without a token.
    syndrome : In, repair : In(1)
        Three cycles after ``read``. ``repair``: DRAIN had the port, the beat's row block is ``own ^ syndrome``.
    sum : Out
        The sums in the cycle in which they are written; zero without a token.
    show : In
        One cycle after ``read``: parts of the word to put into ``blocks``; the others become zero.
    blocks : Out per part
        The shown row blocks (``rows`` accumulators each), two cycles after ``read``.
    """

    #: Cycles from one beat of a row block to the next that finds its sum, also in the parity.
    ACCUMULATE_CYCLES = 6

    def __init__(self, config: BuildConfig, acc_bits: int, members: Mapping[str, Flow]) -> None:
        self.config, self.acc_bits = config, acc_bits
        block = config.rows * acc_bits
        super().__init__({
            "active": In(1),
            **members,
            "accumulate": In(AccumulateBus(config)),
            "read": In(index_bits(accumulator_words(config))),
            "own": Out(block),
            "repair": In(1),
            "syndrome": In(block),
            "sum": Out(block),
            "show": In(config.vector_blocks),
            "blocks": Out(block).array(config.vector_blocks),
        })

    def _kept(self, m: Module) -> list[Value]:
        """What the rows of a beat are added to, signed, in cycle 3. The lane drives ``sum`` one cycle later."""
        config, acc_bits = self.config, self.acc_bits
        kept: list[Value] = []
        for part in range(config.vector_blocks):
            m.submodules[f"accumulators_{part}"] = memory = Memory(
                shape=len(self.sum), depth=accumulator_words(config), init=[], attrs={"ram_style": "block"}
            )
            read, write = memory.read_port(), memory.write_port()
            m.d.comb += [
                read.addr.eq(self.read),
                write.addr.eq(self.accumulate.write),
                write.en.eq(self.accumulate.write_part[part] & self.active),
                write.data.eq(self.sum),
            ]
            kept_part = Signal(len(self.sum), name=f"kept_{part}", reset_less=True)
            with m.If(self.accumulate.keep[part] & self.active):
                m.d.sync += kept_part.eq(read.data)
            with m.Else():
                m.d.sync += kept_part.eq(0)
            kept.append(kept_part)
            shown = data_register(m, self.blocks[part])
            with m.If(self.show[part]):
                m.d.sync += shown.eq(read.data)
            with m.Else():
                m.d.sync += shown.eq(0)
        # Parts that are not kept are zero: to select is to merge.
        own = Signal(len(self.sum), reset_less=True)
        m.d.comb += self.own.eq(reduce(or_, kept))
        m.d.sync += own.eq(self.own)
        repaired = own ^ (self.syndrome & self.repair.replicate(len(own)))
        return [repaired.word_select(row, acc_bits).as_signed() for row in range(config.rows)]
