"""The INT4 x FP8 linear engine: 4-bit weights in scaled groups against e4m3 activations."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Signal

from ...config import BuildConfig
from .group_scales import ScaleMemory, take_scales
from .int4_lane import Int4Lane
from .int4_loader import LONGEST_CHAIN, Int4Loader, Int4Shape, delayed
from .int4_weights import Int4Decoder
from .panel import PanelEngine, connect_inputs

__all__ = ["Int4Engine"]


class Int4Engine(PanelEngine):
    """LINEAR of INT4 weights (`Int4Layout`) and e4m3 activations (codes), exact (``docs/numerics-int4.md``).

    Members: those of `PanelEngine`. Of the descriptor, ``vectors`` counts as well: slices that share scales, at least 1.
    Activations must have been written up to whole slices, zeros beyond the inputs of the matrix: midpoints make a weight of
    every input that there is. ``waiting_tables``: the activations of the slice have not arrived.

    Scale beats come before the weights of their group of slices, whole ring rows, and take a cycle each in either mode.

    ::

        cycle   0      1          2 .. dot_cycle - 1       dot_cycle    dot_cycle + 1    dot_cycle + 2    + 3      + 4
                issue  beat,      products (`Int4Dot`),    D, M         + 8 M X          accumulate       write    write
                       scales     sums of a row                                                                    parity

    A slice takes the longer of its beats and of loading its activations: tokens times words of a slice, and some 25 cycles.

    ``packed=False`` builds plain products in place of those packed into DSP slices, with the same timing; ``longest_chain``: DSP
    slices in a row at most (4, 8 or 16).
    """

    def __init__(self, config: BuildConfig, *, packed: bool = True, longest_chain: int = LONGEST_CHAIN) -> None:
        if longest_chain not in (4, 8, 16):
            raise ValueError(f"longest_chain must be 4, 8 or 16, not {longest_chain!r}")
        shape = Int4Shape(config, longest_chain)
        self.shape, self.packed = shape, packed
        super().__init__(config, config.int4_acc_bits, shape.dot_cycle + Int4Lane.ADD)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, shape = self.config, self.shape
        descriptor = self.op.descriptor
        m.submodules.loader = loader = Int4Loader(config, shape)
        m.submodules.scales = scales = ScaleMemory(config, row_bytes=2)

        # Slices: one in use, the next on its way -----------------------------------------------------------------------
        ready, taken, scaling, gang = Signal(), Signal(), Signal(), Signal()
        beats = self._issue(m, ready, {}, gang, scaling)
        m.d.comb += taken.eq(loader.loaded & (~ready | beats.end_of_slice))
        m.d.sync += ready.eq(taken | (ready & ~beats.end_of_slice))
        with m.If(self.start):
            m.d.sync += ready.eq(0)
        m.d.comb += [
            loader.start.eq(self.start),
            loader.half.eq(descriptor.buffers[1]),
            loader.count.eq(self.op.count),
            loader.slices.eq(descriptor.slices),
            loader.taken.eq(taken),
        ]
        connect_inputs(m, loader.write, self.activation)
        take = delayed(m, taken, 1, "take")[-1]
        take_scales(m, self, beats, scales, scaling, gang, descriptor.vectors, Const(1))

        lanes = [[Int4Lane(config, shape, packed=self.packed) for _ in range(config.lanes)] for _ in range(config.groups)]
        for g, group in enumerate(lanes):
            m.submodules[f"decoder_{g}"] = decoder = Int4Decoder(config, shape)
            m.d.comb += decoder.beat.eq(beats.registers[g])
            codes = delayed(m, scales.codes[g], shape.dot_cycle - 2 - 1 - ScaleMemory.LATENCY, f"scales_{g}", reset_less=True)[-1]
            for number, lane in enumerate(group):
                m.submodules[f"lane_{g}_{number}"] = lane
                tokens = (loader.value_token, loader.center_token, loader.total_token)
                m.d.comb += [
                    lane.here.eq(Cat(self._here(token, g, number) for token in tokens)), lane.take.eq(take), lane.scales.eq(codes),
                ]
                connect_inputs(m, lane.load, loader.load)
                for name in ("skewed", "codes", "pairs"):
                    m.d.comb += [a.eq(b) for a, b in zip(getattr(lane, name), getattr(decoder, name), strict=True)]
        self._accumulate(m, lanes, beats.track)
        return m
