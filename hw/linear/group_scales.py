"""Scales of a group of inputs for all rows of a panel: how they come in front of its weights, and where they are kept."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from ...config import BuildConfig
from ...layout import pad_beats
from ...rounding import ceil_div
from ..interfaces import index_bits
from .int4_loader import delayed, log2
from .panel import Beats, PanelEngine, divmod_power

__all__ = ["ScaleMemory", "take_scales"]

#: Words up to which the memory is made of look-up tables: block memory is hardly deeper than wide there.
DISTRIBUTED_WORDS = 64


class ScaleMemory(wiring.Component):
    """Keeps the scale beats of one group of inputs, ``row_bytes`` bytes a row (a power of two); a row block of ``rows`` rows takes
    a part of a beat.

    Where a ring row of blocks needs more than one beat of scales, several beats lie side by side in ``banks``.

    There is one copy: beats write and read it in the order in which they are taken.

    Members
    -------
    write : In(1), beat, word : In
        Strobe: ``beat`` is word ``word``. It counts for reads of later cycles only.
    block : In, gang : In(1)
        A row block: of all groups, or with ``gang`` the ``block``-th of every group.
    codes : Out per group
        Bytes of the rows of the group's block, `LATENCY` cycles later.
    """

    #: Cycles from ``block`` to ``codes``.
    LATENCY = 3

    def __init__(self, config: BuildConfig, row_bytes: int) -> None:
        self.config = config
        self.blocks = config.panel_rows // config.rows
        #: Row blocks in a beat of scales, and beats side by side.
        self.beat_blocks = config.beat_bytes // (row_bytes * config.rows)
        self.banks = max(1, config.groups // self.beat_blocks)
        self.words = pad_beats(config, ceil_div(self.blocks, self.beat_blocks))
        super().__init__({
            "write": In(1),
            "word": In(index_bits(self.words)),
            "beat": In(8 * config.beat_bytes),
            "gang": In(1),
            "block": In(index_bits(self.blocks)),
            "codes": Out(8 * row_bytes * config.rows).array(config.groups),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        first = Signal(len(self.block) + log2(config.groups))
        m.d.comb += first.eq(Mux(self.gang, self.block << log2(config.groups), self.block))
        address, part = divmod_power(first, self.beat_blocks * self.banks)
        word, bank = divmod_power(self.word, self.banks)
        depth = ceil_div(self.words, self.banks)
        data: list[Value] = []
        for number in range(self.banks):
            m.submodules[f"bank_{number}"] = memory = Memory(
                shape=8 * config.beat_bytes, depth=depth, init=[],
                attrs={"ram_style": "distributed" if depth <= DISTRIBUTED_WORDS else "block"},
            )
            write, read = memory.write_port(), memory.read_port()
            m.d.comb += [
                write.en.eq(self.write & (bank == number)), write.addr.eq(word), write.data.eq(self.beat), read.addr.eq(address),
            ]
            fetched = Signal(8 * config.beat_bytes, name=f"fetched_{number}", reset_less=True)
            m.d.sync += fetched.eq(read.data)
            data.append(fetched)
        part = delayed(m, part, 2, "part", reset_less=True)[-1]
        gang = delayed(m, self.gang, 2, "gang", reset_less=True)[-1]
        # One multiplexer for each place in a ring row of blocks, of which all groups take the same, or each its own with ``gang``.
        size = len(self.codes[0])
        rows = self.beat_blocks * self.banks // config.groups
        row, place = divmod_power(part, config.groups)
        blocks: list[Value] = []
        for g in range(config.groups):
            block = Signal(size, name=f"place_{g}")
            here = [Cat(data).word_select(r * config.groups + g, size) for r in range(rows)]
            m.d.comb += block.eq(Cat(here).word_select(row, size) if rows > 1 else here[0])
            blocks.append(block)
        chosen = Cat(blocks).word_select(place, size) if config.groups > 1 else blocks[0]
        m.d.sync += [self.codes[g].eq(Mux(gang, blocks[g], chosen)) for g in range(config.groups)]
        return m


def take_scales(
    m: Module, engine: PanelEngine, beats: Beats, scales: ScaleMemory, scaling: Signal, gang: Signal, slices: Value, scaled: Value
) -> Value:
    """Take scale beats before every group of ``slices`` slices of ``engine``, if the operator is ``scaled``; they go to their
    memory in the cycle in which weight beats read it. ``scaling``: scale beats come; ``gang``: weight beats come, and ganged.
    Returns whether the slice is the last of its group, from a register: ready of the ring goes through what is made of it.
    """
    config, op = engine.config, engine.op
    slices_left, last_slice = Signal(16), Signal()
    word = Signal.like(scales.word)
    last_word = Signal.like(word)
    with m.If(beats.end_of_slice):
        m.d.sync += [slices_left.eq(slices_left - 1), last_slice.eq(slices_left == 2)]
        with m.If(last_slice):
            m.d.sync += [
                scaling.eq(scaled), gang.eq(op.gang & ~scaled), slices_left.eq(slices), last_slice.eq(slices == 1),
            ]
    with m.If(beats.issue_scales):
        m.d.sync += word.eq(word + 1)
        with m.If(word == last_word):
            m.d.sync += [scaling.eq(0), gang.eq(op.gang), word.eq(0)]
    with m.If(engine.start):
        words = ceil_shift(op.descriptor.row_blocks, log2(scales.beat_blocks))
        rows = ceil_shift(words, log2(config.groups))
        m.d.sync += [
            scaling.eq(scaled), gang.eq(op.gang & ~scaled), word.eq(0), slices_left.eq(slices), last_slice.eq(slices == 1),
            last_word.eq((rows << log2(config.groups)) - 1),
        ]
    m.d.comb += [
        scales.write.eq(delayed(m, beats.issue_scales, 1, "write_scales")[-1]),
        scales.word.eq(delayed(m, word, 1, "word")[-1]),
        scales.beat.eq(beats.registers[0]),
        scales.block.eq(beats.track[1]["block"]),
        scales.gang.eq(op.gang),
    ]
    return last_slice


def ceil_shift(value: Value, shift: int) -> Value:
    """``value / 2^shift``, rounded up."""
    return (value + ((1 << shift) - 1)) >> shift
