"""The ternary linear engine: weight beats against the activations of up to ``tokens`` tokens."""

from __future__ import annotations

from amaranth.hdl import Module, Signal

from ...config import BuildConfig
from .activations import ActivationMemory
from .lane import TernaryLane
from .panel import PanelEngine, connect_inputs
from .schedule import TableSchedule
from .trits import TritDecoder

__all__ = ["LinearEngine"]


class LinearEngine(PanelEngine):
    """LINEAR of packed ternary weights and int8 activations, by table look-up.

    Members: those of `PanelEngine`. Activations beyond the inputs of the matrix meet zero weights and may have any value.
    ``waiting_tables``: the tables of the slice are not complete.

    ::

        cycle   0      1 .. 4   5         6 .. levels + 5    levels + 6    levels + 7    levels + 8    levels + 9
                issue  decode   look up   adder tree         sign          accumulate    write         write parity

    A slice takes the longest of its beats, of building its tables (`TableSchedule`) and of loading its activations
    (`ActivationMemory`).
    """

    #: Cycles from the issue of a beat to its look-ups.
    LOOK_UP = 1 + TritDecoder.INDEX_LATENCY

    def __init__(self, config: BuildConfig) -> None:
        super().__init__(config, config.ternary_acc_bits, self.LOOK_UP + TernaryLane.ADD + (config.tables - 1).bit_length())

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        lanes = [[TernaryLane(config) for _ in range(config.lanes)] for _ in range(config.groups)]
        m.submodules.schedule = schedule = TableSchedule(config)
        m.submodules.activations = activations = ActivationMemory(config, config.slice_inputs)

        # A beat's tables are complete when it looks them up, and still those when the copy has been released.
        if not TableSchedule.WRITE_LATENCY <= self.LOOK_UP < 1 + TableSchedule.RELEASE_LATENCY:
            raise AssertionError("tables change while they are used")
        built = Signal(2)  # slices whose tables are complete and not used up
        buffer = Signal()
        released = Signal()
        beats = self._issue(m, built != 0, {"buffer": buffer}, self.op.gang)
        m.d.sync += [released.eq(beats.end_of_slice), built.eq(built + schedule.built - beats.end_of_slice)]
        with m.If(beats.end_of_slice):
            m.d.sync += buffer.eq(~buffer)
        with m.If(self.start):
            m.d.sync += buffer.eq(0)
        m.d.comb += [
            schedule.start.eq(self.start),
            schedule.release.eq(released),
            schedule.loaded.eq(activations.loaded),
            activations.start.eq(self.start),
            activations.half.eq(self.op.descriptor.buffers[1]),
            activations.count.eq(self.op.count),
            activations.slices.eq(self.op.descriptor.slices),
            activations.taken.eq(schedule.taken),
        ]
        connect_inputs(m, activations.write, self.activation)
        look_up = beats.track[self.LOOK_UP]
        for g, group in enumerate(lanes):
            m.submodules[f"decoder_{g}"] = decoder = TritDecoder(config)
            used = Signal(name=f"used_{g}")
            m.d.sync += used.eq(self.op.gang | (self.op.count > g * config.lanes))
            m.d.comb += [decoder.beat.eq(beats.registers[g]), decoder.valid.eq(beats.track[1]["valid"] & used)]
            for number, lane in enumerate(group):
                m.submodules[f"lane_{g}_{number}"] = lane
                m.d.comb += [
                    lane.here.eq(self._here(activations.token, g, number)),
                    lane.take.eq(schedule.take),
                    lane.look_up.eq(look_up["valid"]),
                    lane.buffer.eq(look_up["buffer"]),
                ]
                m.d.comb += [a.eq(b) for a, b in zip(lane.index, decoder.index, strict=True)]
                m.d.comb += [a.eq(b) for a, b in zip(lane.negate, decoder.negate, strict=True)]
                connect_inputs(m, lane.load, activations.load)
                connect_inputs(m, lane.build, schedule.build)
        self._accumulate(m, lanes, beats.track)
        return m
