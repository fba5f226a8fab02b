"""The INT4 x FP8 linear engine: 4-bit weights in scaled groups against e4m3 activations."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal, Value

from ...config import BuildConfig
from .int4_lane import Int4Lane
from .int4_loader import LONGEST_CHAIN, Int4Loader, Int4Shape, delayed, log2
from .int4_scales import ScaleMemory
from .int4_weights import Int4Decoder
from .panel import Beats, PanelEngine, connect_inputs

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
        m.submodules.scales = scales = ScaleMemory(config)

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
        self._scales(m, beats, scaling, gang, scales)

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

    def _scales(self, m: Module, beats: Beats, scaling: Signal, gang: Signal, scales: ScaleMemory) -> None:
        """Scale beats before every group of slices; they go to their memory in the cycle in which weight beats read it. ``gang``:
        weight beats come, and ganged."""
        config = self.config
        descriptor = self.op.descriptor
        slices_left = Signal(16)  # of those that share scales
        word = Signal.like(scales.word)
        last_word = Signal.like(word)
        with m.If(beats.end_of_slice):
            m.d.sync += slices_left.eq(slices_left - 1)
            with m.If(slices_left == 1):
                m.d.sync += [scaling.eq(1), gang.eq(0), slices_left.eq(descriptor.vectors)]
        with m.If(beats.issue_scales):
            m.d.sync += word.eq(word + 1)
            with m.If(word == last_word):
                m.d.sync += [scaling.eq(0), gang.eq(self.op.gang), word.eq(0)]
        with m.If(self.start):
            words = ceil_shift(descriptor.row_blocks, log2(scales.beat_blocks))
            rows = ceil_shift(words, log2(config.groups))
            m.d.sync += [
                scaling.eq(1), gang.eq(0), word.eq(0), slices_left.eq(descriptor.vectors),
                last_word.eq((rows << log2(config.groups)) - 1),
            ]
        m.d.comb += [
            scales.write.eq(delayed(m, beats.issue_scales, 1, "write_scales")[-1]),
            scales.word.eq(delayed(m, word, 1, "word")[-1]),
            scales.beat.eq(beats.registers[0]),
            scales.block.eq(beats.track[1]["block"]),
            scales.gang.eq(self.op.gang),
        ]


def ceil_shift(value: Value, shift: int) -> Value:
    """``value / 2^shift``, rounded up."""
    return (value + ((1 << shift) - 1)) >> shift
