"""The activations of a slice on their way to the lanes of the INT4 engine: integers, and sums of them."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, Signature
from amaranth.utils import bits_for

from ...config import BuildConfig
from ..float.e4m3 import E4M3_BITS, E4m3Integers
from ..interfaces import ActivationWrite
from .activations import ActivationMemory, load_parts
from .panel import connect_inputs

__all__ = ["Int4LoadBus", "Int4Loader", "Int4Shape"]

#: Products that one DSP chain adds at most: 16 of them keep the upper of its two rows within 48 bits.
LONGEST_CHAIN = 16


class Int4Shape:
    """Sizes of the INT4 engine that follow from a build configuration."""

    def __init__(self, config: BuildConfig, longest_chain: int = LONGEST_CHAIN) -> None:
        #: Inputs of a slice, those of one word of the load bus, and such words in a slice.
        self.inputs = config.int4_slice_inputs
        parts, self.words = load_parts(config, self.inputs)
        self.word = config.width // parts
        #: DSPs of a chain, and chains of a slice.
        self.chain = min(longest_chain, self.inputs)
        self.chains = self.inputs // self.chain
        #: Chains that one word of the bus completes, and words that a chain takes.
        self.pieces, self.chain_words = max(1, self.word // self.chain), max(1, self.chain // self.word)
        #: Levels that add the chains of a slice, and cycles from the issue of a beat to its sums of w E.
        self.chain_levels = max(1, log2(self.chains))
        self.dot_cycle = 4 + self.chain + self.chain_levels
        #: Bits of a centre (see `Int4Dot`), of a sum of w E over a slice and of a sum of E (both signed).
        self.center_bits = 19 + log2(self.chain)
        self.dot_bits = 22 + log2(self.inputs)
        self.total_bits = E4M3_BITS + log2(self.inputs)

    @property
    def center_zero(self) -> int:
        """The centre of a chain whose activations are all zero."""
        return self.chain << 18


def log2(value: int) -> int:
    """Exponent of a power of two."""
    if value < 1 or value & (value - 1):
        raise ValueError(f"value must be a power of two, not {value!r}")
    return value.bit_length() - 1


def Int4LoadBus(shape: Int4Shape) -> Signature:
    """``values`` are word w of the slice for the w whose bit of ``words`` is set. ``centers[i]`` is ``center_zero`` minus the
    sum of E, for chain c whose bit of ``chains`` is set and i = c % ``pieces``. ``total`` is the sum of E over the slice if
    ``complete``."""
    return Signature({
        "values": Out(E4M3_BITS * shape.word),
        "words": Out(shape.words),
        "centers": Out(shape.center_bits * shape.pieces),
        "chains": Out(shape.chains),
        "total": Out(signed(shape.total_bits)),
        "complete": Out(1),
    })


class Int4Loader(wiring.Component):
    """`ActivationMemory` with e4m3 codes, its load bus converted to integers once for all lanes and rows.

    ::

        cycle   0 .. 2      3 .. 5     6          7 .. levels + 6    levels + 7
                memory      convert    values     tree of a word     sums over words

    Members
    -------
    (those of `ActivationMemory`, but)
    load : Out(Int4LoadBus)
    value_token, center_token, total_token : Out
        One-hot, whose ``values``, ``centers`` and ``total`` are on ``load``.
    taken : In(1)
        Strobe: position p of a slice is taken over from the word registers of the lanes ``2 + p % chain`` cycles later, the total
        ``dot_cycle - 1`` cycles later. The loader holds the next slice back until then.
    """

    def __init__(self, config: BuildConfig, shape: Int4Shape) -> None:
        self.config, self.shape = config, shape
        super().__init__({
            "write": In(ActivationWrite(config)),
            "start": In(1),
            "half": In(1),
            "count": In(bits_for(config.chunk)),
            "slices": In(16),
            "load": Out(Int4LoadBus(shape)),
            "value_token": Out(config.tokens),
            "center_token": Out(config.tokens),
            "total_token": Out(config.tokens),
            "loaded": Out(1),
            "taken": In(1),
        })

    @property
    def hold_cycles(self) -> int:
        """Cycles that ``taken`` is held back from the memory, so that nothing arrives before its place is free."""
        shape, levels = self.shape, log2(self.shape.word)
        arrival = 1 + ActivationMemory.LATENCY - 1 + E4m3Integers.LATENCY  # of the first word, counted from the memory's ``taken``
        last_word = shape.chain_words - 1  # of a chain: its positions are taken over last
        values = 2 + shape.chain - 1 - (arrival + last_word)
        total = shape.dot_cycle - 1 - (arrival + shape.words - 1 + levels + 1)
        return max(0, values, total)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, shape = self.config, self.shape
        m.submodules.memory = memory = ActivationMemory(config, shape.inputs)
        m.submodules.integers = integers = E4m3Integers(shape.word)
        connect_inputs(m, memory.write, self.write)
        m.d.comb += [
            memory.start.eq(self.start),
            memory.half.eq(self.half),
            memory.count.eq(self.count),
            memory.slices.eq(self.slices),
            memory.taken.eq(delayed(m, self.taken, self.hold_cycles, "taken")[-1]),
            integers.codes.eq(memory.load.data[: 8 * shape.word]),
        ]
        levels, piece_levels = log2(shape.word), log2(min(shape.word, shape.chain))
        first = E4m3Integers.LATENCY
        words = delayed(m, memory.load.chunks, first + levels + 1, "words")
        token = delayed(m, memory.token, first + levels + 1, "token")
        m.d.comb += [self.load.values.eq(integers.integers), self.load.words.eq(words[first]), self.value_token.eq(token[first])]

        # The sum of a word; those of its pieces on the way.
        sums: list[list[Value]] = [[integers.integers.word_select(i, E4M3_BITS).as_signed() for i in range(shape.word)]]
        for level in range(levels):
            following: list[Value] = []
            for i in range(0, len(sums[-1]), 2):
                total = Signal(signed(E4M3_BITS + level + 1), name=f"sum_{level}_{i // 2}", reset_less=True)
                m.d.sync += total.eq(sums[-1][i] + sums[-1][i + 1])
                following.append(total)
            sums.append(following)

        at = first + piece_levels
        begins = Signal()
        m.d.comb += begins.eq(Cat(words[at][w] for w in range(0, shape.words, shape.chain_words)).any())
        for i, piece in enumerate(sums[piece_levels]):
            center = self.load.centers.word_select(i, shape.center_bits)
            m.d.sync += center.eq(Mux(begins, Const(shape.center_zero, shape.center_bits), center) - piece)
        for c in range(shape.chains):
            last = (c + 1) * shape.chain_words - 1 if shape.pieces == 1 else c // shape.pieces
            m.d.comb += self.load.chains[c].eq(words[at + 1][last])
        m.d.comb += self.center_token.eq(token[at + 1])

        at = first + levels
        m.d.sync += self.load.total.eq(Mux(words[at][0], 0, self.load.total) + sums[-1][0])
        m.d.comb += [self.load.complete.eq(words[at + 1][shape.words - 1]), self.total_token.eq(token[at + 1])]

        # A slice is loaded when its last total has arrived.
        before = Signal()
        m.d.sync += before.eq(memory.loaded)
        arrived = delayed(m, memory.loaded & ~before, first + levels, "arrived")[-1]
        with m.If(arrived):
            m.d.sync += self.loaded.eq(1)
        with m.If(self.taken | self.start):
            m.d.sync += self.loaded.eq(0)
        return m


def delayed(m: Module, value: Value, cycles: int, name: str, *, reset_less: bool = False) -> list[Value]:
    """``value`` and its registers after 1 .. ``cycles`` cycles; without a reset, a synthesiser makes shift registers of them."""
    stages = [value]
    for cycle in range(1, cycles + 1):
        stage = Signal(len(value), name=f"{name}_{cycle}", reset_less=reset_less)
        m.d.sync += stage.eq(stages[-1])
        stages.append(stage)
    return stages
