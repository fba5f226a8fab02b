"""Parity of the accumulators of a group: what gives every lane a second read port."""

from __future__ import annotations

from functools import reduce
from operator import or_, xor

from amaranth.hdl import Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from ...config import BuildConfig
from ..data_register import data_register
from ..interfaces import index_bits

__all__ = ["AccumulatorParity", "accumulator_words"]


def accumulator_words(config: BuildConfig) -> int:
    """Words of an accumulator memory: the vectors of a panel, twice; the half is the highest bit of the address."""
    return 2 << index_bits(config.panel_vectors)


class AccumulatorParity(wiring.Component):
    """Exclusive or of the accumulators that the lanes of a group have at the same address.

    LINEAR reads and writes the same address in all lanes, so block memory with one read port is busy with it all the
    time. When DRAIN takes the port of one lane (a token is read from one lane of a group at a time), the other lanes and
    the parity still tell what that lane holds::

        syndrome = parity ^ own_0 ^ own_1 ^ ...

    is zero when every lane has read LINEAR's address. Where one lane has read something else, ``own ^ syndrome`` is
    what it would have read. One more memory a group serves DRAIN at full rate beside LINEAR.

    ::

        cycle   0       1       2           3           4       5
                read    keep    own ->      syndrome    sum     write

    Members
    -------
    read : In, keep : In
        LINEAR's address; one cycle later, the part of the word (one-hot; none for a beat of the first slice, whose syndrome is
        zero).
    own : In per lane
        Two cycles after ``read``; zero in lanes without a token.
    syndrome : Out
        Three cycles after ``read``.
    sum : In per lane
        The new sums, four cycles after ``read``; zero in lanes without a token.
    write, write_part : In
        Address and part (one-hot; none without a beat), five cycles after ``read``.
    """

    def __init__(self, config: BuildConfig, acc_bits: int) -> None:
        self.config = config
        #: Bits of the accumulators of a row block.
        self.block = config.rows * acc_bits
        address, block = index_bits(accumulator_words(config)), self.block
        super().__init__({
            "read": In(address),
            "keep": In(config.vector_blocks),
            "own": In(block).array(config.lanes),
            "syndrome": Out(block),
            "sum": In(block).array(config.lanes),
            "write": In(address),
            "write_part": In(config.vector_blocks),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        block = self.block
        new = Signal(block, reset_less=True)
        m.d.sync += new.eq(reduce(xor, self.sum))
        kept: list[Value] = []
        for part in range(config.vector_blocks):
            m.submodules[f"parity_{part}"] = memory = Memory(
                shape=block, depth=accumulator_words(config), init=[], attrs={"ram_style": "block"}
            )
            read, write = memory.read_port(), memory.write_port()
            m.d.comb += [
                read.addr.eq(self.read),
                write.addr.eq(self.write),
                write.en.eq(self.write_part[part]),
                write.data.eq(new),
            ]
            kept_part = Signal(block, name=f"kept_{part}", reset_less=True)
            with m.If(self.keep[part]):
                m.d.sync += kept_part.eq(read.data)
            with m.Else():
                m.d.sync += kept_part.eq(0)
            kept.append(kept_part)
        m.d.sync += data_register(m, self.syndrome).eq(reduce(xor, self.own) ^ reduce(or_, kept))
        return m
