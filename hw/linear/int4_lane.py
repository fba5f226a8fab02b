"""One token lane of the INT4 engine: products of a slice, their scales, and the accumulators of its rows."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Signal, signed
from amaranth.lib.wiring import In

from ...config import BuildConfig
from ...int4 import WEIGHT_MAX
from ...numerics import E4M3_LARGEST
from ..data_register import data_register
from ..multiply_add import MultiplyAdd
from .accumulators import AccumulatingLane
from .int4_dot import Int4Dot
from .int4_loader import Int4LoadBus, Int4Shape
from .int4_weights import CODE_BITS
from .panel import connect_inputs
from .tables import add_inverted

__all__ = ["Int4Lane"]

#: Most that one input adds to an accumulator.
LARGEST = WEIGHT_MAX * E4M3_LARGEST


class Int4Lane(AccumulatingLane):
    """``acc += D * dot + 8 * M * X`` for ``rows`` rows of one token, one beat a cycle; X is the sum of E over the slice.

    ::

        cycle   dot - 1    dot          dot + 1     dot + 2       dot + 3        (``dot_cycle`` of `Int4Dot`)
                M, X       8 M X        + D dot     row + sum     write
                           D, dot

    Members
    -------
    (those of `AccumulatingLane`, whose cycle 3 is cycle ``dot_cycle + 2`` here)
    load, here : In
        From the loader; bits of ``here``: values, centres, total are for this token.
    take : In
        Strobe, two cycles before the operands of the first beat of the slice that has arrived.
    skewed, codes, pairs : In
        From `Int4Decoder`.
    scales : In
        D and M of the rows, in cycle ``dot_cycle - 2``.
    """

    #: Cycles from the sums over a slice to the cycle in which they are added.
    ADD = 2

    def __init__(self, config: BuildConfig, shape: Int4Shape, *, packed: bool = True) -> None:
        self.shape, self.packed = shape, packed
        super().__init__(config, config.int4_acc_bits, {
            "load": In(Int4LoadBus(shape)),
            "here": In(3),
            "take": In(1),
            "skewed": In(CODE_BITS * config.rows).array(shape.inputs),
            "codes": In(CODE_BITS * shape.inputs).array(config.rows),
            "pairs": In((CODE_BITS + 1) * (shape.inputs // 2)).array(config.rows),
            "scales": In(16 * config.rows),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, shape = self.config, self.shape
        m.submodules.dot = dot = Int4Dot(config, shape, packed=self.packed)
        # take[i] is i + 1 cycles behind ``take``: it takes over operands of cycle i + 2 after an issue.
        take = Signal(shape.dot_cycle - 2)
        m.d.sync += take.eq(Cat(self.take, take))
        m.d.comb += [dot.here.eq(self.here[:2]), dot.take.eq(take[: len(dot.take)])]
        connect_inputs(m, dot.load, self.load)
        for name in ("skewed", "codes", "pairs"):
            m.d.comb += [a.eq(b) for a, b in zip(getattr(dot, name), getattr(self, name), strict=True)]

        place, total = (Signal(signed(shape.total_bits), name=name, reset_less=True) for name in ("place", "total"))
        with m.If(self.load.complete & self.here[2]):
            m.d.sync += place.eq(self.load.total)
        with m.If(take[-1]):
            m.d.sync += total.eq(place)
        kept, sums = self._kept(m), data_register(m, self.sum)
        bits = (LARGEST * shape.inputs).bit_length() + 1
        for r in range(config.rows):
            early, scale = (Signal(8, name=f"{name}_{r}", reset_less=True) for name in ("early", "scale"))
            midpoint = Signal(signed(8), name=f"midpoint_{r}", reset_less=True)
            m.d.sync += [Cat(early, midpoint).eq(self.scales.word_select(r, 16)), scale.eq(early)]
            offset, scaling = MultiplyAdd(operand_registers=False), MultiplyAdd(operand_registers=False)
            m.submodules[f"multiply_add_offset_{r}"], m.submodules[f"multiply_add_scale_{r}"] = offset, scaling
            m.d.comb += [
                offset.a.eq(total),
                offset.b.eq(Cat(Const(0, 3), midpoint).as_signed()),
                scaling.a.eq(dot.dot[r]),
                scaling.b.eq(scale),
                scaling.addend.eq(offset.result),
            ]
            total_of_row = sums.word_select(r, self.acc_bits)
            with m.If(self.active):
                m.d.sync += total_of_row.eq(add_inverted(scaling.result[:bits].as_signed(), kept[r], Const(0, 1), self.acc_bits))
            with m.Else():
                m.d.sync += total_of_row.eq(0)
        return m
