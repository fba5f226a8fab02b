"""A weight beat of the INT4 engine on its way to the lanes."""

from __future__ import annotations

from amaranth.hdl import Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ...config import BuildConfig
from .int4_loader import Int4Shape

__all__ = ["CODE_BITS", "Int4Decoder"]

CODE_BITS = 4


class Int4Decoder(wiring.Component):
    """Codes of a beat, once for all lanes of a group: each in the cycle of its DSP, and sums of two neighbours.

    Input p of row r is nibble ``r * inputs + p`` of the beat. Cycles count from ``beat``.

    Members
    -------
    beat : In
        A beat at any time.
    skewed : Out per position p
        ``p % chain`` cycles later, the codes of the position, row 0 lowest.
    codes : Out per row
        One cycle later, those of the row as they are.
    pairs : Out per row
        With ``codes``, 5 bits for each pair of neighbours: their sum; the codes of even rows count as 0..15 (code + 8) in it, those
        of odd rows as -8..7.
    """

    def __init__(self, config: BuildConfig, shape: Int4Shape) -> None:
        self.config, self.shape = config, shape
        super().__init__({
            "beat": In(8 * config.beat_bytes),
            "skewed": Out(CODE_BITS * config.rows).array(shape.inputs),
            "codes": Out(CODE_BITS * shape.inputs).array(config.rows),
            "pairs": Out((CODE_BITS + 1) * (shape.inputs // 2)).array(config.rows),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        rows, inputs = self.config.rows, self.shape.inputs
        for p in range(inputs):
            value = Signal(CODE_BITS * rows, name=f"column_{p}")
            m.d.comb += [value.word_select(r, CODE_BITS).eq(self.beat.word_select(r * inputs + p, CODE_BITS)) for r in range(rows)]
            for cycle in range(p % self.shape.chain):
                later = Signal(len(value), name=f"skewed_{p}_{cycle}", reset_less=True)
                m.d.sync += later.eq(value)
                value = later
            m.d.comb += self.skewed[p].eq(value)
        for r in range(rows):
            row = self.beat.word_select(r, CODE_BITS * inputs)
            m.d.sync += self.codes[r].eq(row)
            for k in range(inputs // 2):
                left, right = (factor(row.word_select(2 * k + i, CODE_BITS), r) for i in range(2))
                m.d.sync += self.pairs[r].word_select(k, CODE_BITS + 1).eq(left + right)
        return m


def factor(code: Value, row: int) -> Value:
    """What a code counts as: 0..15 in the lower (even) row of a DSP, -8..7 in the upper."""
    return code.as_signed() if row % 2 else (code ^ (1 << CODE_BITS - 1))
