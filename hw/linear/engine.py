"""The ternary linear engine: weight beats against the activations of up to ``tokens`` tokens."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from ...config import BuildConfig
from ..interfaces import ACCUMULATOR_LATENCY, AccumulatorRead, ActivationWrite, Operator, RowStream, index_bits
from .lane import TernaryLane
from .schedule import TableSchedule
from .trits import TritDecoder

__all__ = ["LinearEngine"]


class LinearEngine(wiring.Component):
    """LINEAR: products of a packed ternary matrix with the int8 activations of ``op.count`` tokens.

    Beats come slices outermost, row blocks inside. With ``op.gang`` group g takes beat g of a ring row, all groups'
    lane l hold token l, and a ring row is consumed in one cycle. Otherwise every group takes the same beat, lane l of
    group g holds token ``g * lanes + l``, and a ring row takes ``groups`` cycles. There is no back-pressure behind an
    accepted row.

    Members:

    * ``op``: In, stable from ``start`` to ``done``. Of the descriptor, ``slices`` and ``row_blocks`` (a multiple of
      ``vector_blocks``) count.
    * ``start``: In, strobe. Activations must have been written at least one cycle earlier; those beyond the inputs of
      the matrix meet zero weights and may have any value.
    * ``done``: Out, strobe: all accumulators are written. Another ``start`` may follow in the next cycle.
    * ``rows``: In. ``ready`` only while an operator needs the row.
    * ``activation``: In, writes; not while busy.
    * ``accumulator``: In, serves one vector a cycle, `ACCUMULATOR_LATENCY` cycles after the request; not while busy.
    * ``busy``: Out, between ``start`` and ``done``.
    * ``waiting_tables``: Out, a row is offered but the tables of its slice are not complete.

    ::

        cycle   0      1 .. 4   5         6 .. levels + 5    levels + 6    levels + 7
                issue  decode   look up   adder tree         accumulate    write
    """

    #: Cycles from the issue of a beat to its look-ups.
    LOOK_UP = 1 + TritDecoder.INDEX_LATENCY

    def __init__(self, config: BuildConfig) -> None:
        self.config = config
        super().__init__({
            "op": In(Operator(config)),
            "start": In(1),
            "done": Out(1),
            "rows": In(RowStream(config)),
            "activation": In(ActivationWrite(config)),
            "accumulator": In(AccumulatorRead(config)),
            "busy": Out(1),
            "waiting_tables": Out(1),
        })  # fmt: skip

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        lanes = [[TernaryLane(config) for _ in range(config.lanes)] for _ in range(config.groups)]
        decoders = [TritDecoder(config) for _ in range(config.groups)]
        m.submodules.schedule = schedule = TableSchedule(config)
        for g in range(config.groups):
            m.submodules[f"decoder_{g}"] = decoders[g]
            for number, lane in enumerate(lanes[g]):
                m.submodules[f"lane_{g}_{number}"] = lane
        levels = decoders[0].levels

        # Issue -----------------------------------------------------------------------------------------------------
        # A beat's tables are complete when it looks them up, and still those when the copy has been released.
        if not TableSchedule.WRITE_LATENCY <= self.LOOK_UP < 1 + TableSchedule.RELEASE_LATENCY:
            raise AssertionError("tables change while they are used")
        running = Signal()
        built = Signal(2)  # slices whose tables are complete and not used up
        hold = Signal(range(TernaryLane.ACCUMULATE_CYCLES))
        gap = Signal.like(hold)
        block = Signal(range(config.max_rows // config.rows))
        last_block = Signal.like(block)
        slices_left = Signal(16)
        buffer = Signal()
        beat = Signal(index_bits(config.groups))
        first = Signal()  # the first slice overwrites

        may_issue = Signal()
        issue = Signal()
        end_of_slice = Signal()
        released = Signal()
        m.d.comb += [
            may_issue.eq(running & (built != 0) & (hold == 0)),
            issue.eq(may_issue & self.rows.valid),
            self.rows.ready.eq(may_issue & (self.op.gang | (beat == config.groups - 1))),
            end_of_slice.eq(issue & (block == last_block)),
            self.waiting_tables.eq(running & (built == 0) & self.rows.valid),
            schedule.start.eq(self.start),
            schedule.slices.eq(self.op.descriptor.slices),
            schedule.release.eq(released),
        ]
        m.d.sync += released.eq(end_of_slice)
        blocks = Signal(bits_for(config.max_rows // config.rows))
        row_blocks = self.op.descriptor.row_blocks
        m.d.comb += blocks.eq(Mux(self.op.gang, row_blocks // config.groups, row_blocks))
        m.d.sync += built.eq(built + schedule.built - end_of_slice)
        with m.If(hold != 0):
            m.d.sync += hold.eq(hold - 1)
        with m.If(issue):
            m.d.sync += block.eq(block + 1)
            if config.groups > 1:
                m.d.sync += beat.eq(Mux(self.op.gang, 0, beat + 1))
        with m.If(end_of_slice):
            # A slice of few row blocks must not come back to one before its sum is written.
            m.d.sync += [
                block.eq(0), first.eq(0), buffer.eq(~buffer), hold.eq(gap),
                slices_left.eq(slices_left - 1), running.eq(slices_left != 1),
            ]  # fmt: skip
        with m.If(self.start):
            m.d.sync += [
                running.eq(1), self.busy.eq(1), first.eq(1), block.eq(0), buffer.eq(0), beat.eq(0), hold.eq(0),
                slices_left.eq(self.op.descriptor.slices), last_block.eq(blocks - 1),
                gap.eq(Mux(blocks < TernaryLane.ACCUMULATE_CYCLES, TernaryLane.ACCUMULATE_CYCLES - blocks, 0)),
            ]  # fmt: skip

        # What accompanies a beat through the pipeline: track[i] belongs to the beat issued i cycles ago ---------------
        word, part = divmod_power(block, config.vector_blocks)
        track = [{"valid": issue, "last": issue & end_of_slice & (slices_left == 1), "first": first, "buffer": buffer,
                  "word": word, "part": part}]  # fmt: skip
        for cycle in range(1, self.LOOK_UP + levels + 4):
            stage: dict[str, Value] = {}
            for name, value in track[-1].items():
                stage[name] = Signal(len(value), name=f"{name}_{cycle}")
                m.d.sync += stage[name].eq(value)
            track.append(stage)
        read, keep, write = (track[self.LOOK_UP + levels + i] for i in (-1, 0, 2))
        m.d.comb += self.done.eq(track[self.LOOK_UP + levels + 3]["last"])
        with m.If(self.done):
            m.d.sync += self.busy.eq(0)

        # Lanes -----------------------------------------------------------------------------------------------------
        activation = Signal.like(Cat(self.activation.addr, self.activation.data))
        m.d.sync += activation.eq(Cat(self.activation.addr, self.activation.data))
        address, group_part = self._request(m)
        kept = Signal(config.vector_blocks)
        m.d.comb += kept.eq(Mux(keep["valid"] & ~keep["first"], 1 << keep["part"], 0))
        for g, decoder in enumerate(decoders):
            beat_register = Signal(8 * config.beat_bytes, name=f"beat_{g}", reset_less=True)
            used = Signal(name=f"used_{g}")
            with m.If(issue):
                choice = self.rows.payload.word_select(Mux(self.op.gang, g, beat), len(beat_register))
                m.d.sync += beat_register.eq(choice)
            m.d.sync += used.eq(self.op.gang | (self.op.count > g * config.lanes))
            m.d.comb += [decoder.beat.eq(beat_register), decoder.valid.eq(track[1]["valid"] & used)]
            for number, lane in enumerate(lanes[g]):
                chosen = Signal(name=f"chosen_{g}_{number}")
                here = (self.accumulator.lane == number) & (self.accumulator.gang | (self.accumulator.group == g))
                written = Signal(name=f"written_{g}_{number}")
                to_this = (self.activation.lane == number) & self.activation.groups[g]
                m.d.sync += [
                    chosen.eq(here),
                    written.eq(self.activation.valid & to_this),
                    lane.active.eq(self.op.count > Mux(self.op.gang, number, g * config.lanes + number)),
                ]
                m.d.comb += [
                    lane.activation.valid.eq(written),
                    Cat(lane.activation.addr, lane.activation.data).eq(activation),
                    lane.look_up.eq(track[self.LOOK_UP]["valid"]),
                    lane.buffer.eq(track[self.LOOK_UP]["buffer"]),
                    lane.accumulate.read.eq(Mux(read["valid"], read["word"], address)),
                    lane.accumulate.write.eq(write["word"]),
                    lane.accumulate.write_part.eq(1 << write["part"]),
                    lane.keep.eq(Mux(self.busy, kept, Mux(chosen, group_part, 0))),
                ]
                m.d.comb += [a.eq(b) for a, b in zip(lane.index, decoder.index, strict=True)]
                m.d.comb += [a.eq(b) for a, b in zip(lane.negate, decoder.negate, strict=True)]
                connect_inputs(m, lane.load, schedule.load)
                connect_inputs(m, lane.build, schedule.build)
        self._serve(m, lanes)
        return m

    def _request(self, m: Module) -> tuple[Value, Value]:
        """Word of a requested vector, and one cycle later the row blocks of it that every chosen lane keeps.

        A ganged vector has every ``groups``-th row block in the same group: its word holds ``groups`` vectors' share.
        """
        config = self.config
        share = config.vector_blocks // config.groups
        word, turn = divmod_power(self.accumulator.vector, config.groups)
        address = Mux(self.accumulator.gang, word, self.accumulator.vector)
        mask = Signal(config.vector_blocks)
        everything = (1 << config.vector_blocks) - 1
        m.d.sync += mask.eq(Mux(self.accumulator.gang, ((1 << share) - 1) << (turn * share), everything))
        return address, mask

    def _serve(self, m: Module, lanes: list[list[TernaryLane]]) -> None:
        """Merge what the lanes kept: everything not wanted is zero."""
        config = self.config
        share = config.vector_blocks // config.groups
        gang = [self.accumulator.gang]
        for cycle in range(1, ACCUMULATOR_LATENCY):
            register = Signal(name=f"gang_{cycle}")
            m.d.sync += register.eq(gang[-1])
            gang.append(register)
        group_blocks = []
        for g, group in enumerate(lanes):
            merged = []
            for p in range(config.vector_blocks):
                block = Signal(config.rows * config.acc_bits, name=f"block_{g}_{p}")
                m.d.comb += block.eq(merge([lane.blocks[p] for lane in group]))
                merged.append(block)
            group_blocks.append(merged)
        for p in range(config.vector_blocks):
            alone = merge([blocks[p] for blocks in group_blocks])
            group = group_blocks[p % config.groups]
            ganged = merge([group[turn * share + p // config.groups] for turn in range(config.groups)])
            target = self.accumulator.data.word_select(p, config.rows * config.acc_bits)
            m.d.sync += target.eq(Mux(gang[-1], ganged, alone))


def merge(values: list[Value]) -> Value:
    result = values[0]
    for value in values[1:]:
        result = result | value
    return result


def divmod_power(value: Value, divisor: int) -> tuple[Value, Value]:
    """Quotient and remainder (at least one bit each) for a ``divisor`` that is a power of two."""
    bits = divisor.bit_length() - 1
    return Cat(value[bits:], 0)[: max(1, len(value) - bits)], Cat(value[:bits], 0)[: max(1, bits)]


def connect_inputs(m: Module, target: wiring.PureInterface, source: wiring.PureInterface) -> None:
    """Drive every member of ``target`` from the same member of ``source`` (one source drives many lanes)."""
    for name in source.signature.members:
        m.d.comb += getattr(target, name).eq(getattr(source, name))
