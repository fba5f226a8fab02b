"""What the linear engines share: beats in order, accumulators of a panel, and the port that reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from ...config import BuildConfig
from ..data_register import data_register
from ..interfaces import ACCUMULATOR_LATENCY, AccumulatorRead, ActivationWrite, Operator, RowStream, index_bits
from .accumulators import AccumulatingLane
from .parity import AccumulatorParity

__all__ = ["Beats", "PanelEngine", "ShortSlices", "connect_inputs", "divmod_power"]


@dataclass(frozen=True)
class Beats:
    """The beats of an operator as they are taken."""

    #: A weight beat is taken; a scale beat is.
    issue: Value
    issue_scales: Value
    #: ``issue`` of the last beat of a slice.
    end_of_slice: Value
    #: Beats that are taken, a group each, one cycle later.
    registers: list[Value]
    #: What accompanies a beat through the pipeline: ``track[i]`` belongs to the beat issued i cycles ago.
    track: list[dict[str, Value]]


@dataclass(frozen=True)
class ShortSlices:
    """Slices whose beats hold several row blocks: while ``active``, part p of a ring row of ``groups`` beats has row blocks
    ``groups * p`` and following, one a beat.
    """

    active: Value
    parts: int
    #: The beat that a whole slice would have, from a beat and the number of its part.
    beat: Callable[[Value, Value], Value]


class PanelEngine(wiring.Component):
    """A linear engine: LINEAR computes products of a panel of a matrix with the activations of ``op.count`` tokens.

    Weight beats come slices outermost, row blocks inside. With ``op.gang`` group g takes beat g of a ring row, all groups'
    lane l hold token l, and a ring row is consumed in one cycle. Otherwise every group takes the same beat, lane l of
    group g holds token ``g * lanes + l``, and a ring row takes ``groups`` cycles. There is no back-pressure behind an
    accepted row.

    Activations and accumulators have two halves. While LINEAR uses one half, ``activation`` may write and
    ``accumulator`` read the other, each at one vector a cycle; neither costs LINEAR a cycle. DRAIN takes the read port of
    one lane's accumulators a group; what LINEAR would have read there follows from `AccumulatorParity`. (Alternatives:
    a stalled beat for every vector that is drained makes LINEAR as slow as without any overlap; a second memory that
    takes the sums of the last slice costs as much block memory once more.)

    An engine computes addends of ``acc_bits`` accumulators and adds them ``add`` cycles after the issue of their beat.

    Members
    -------
    op : In(Operator)
        Stable from ``start`` to ``done``. Of the descriptor, ``slices``, ``row_blocks`` (a multiple of ``block_step``) and
        ``buffers`` count, and what the engine names.
    start : In(1)
        Strobe. Activations must have been written at least one cycle earlier.
    done : Out(1)
        Strobe: all accumulators are written. Another ``start`` may follow in the next cycle.
    rows : In(stream)
        ``ready`` only while an operator needs the row.
    activation : In(ActivationWrite)
        Writes; not to the half that LINEAR uses.
    accumulator : In(AccumulatorRead)
        Serves one vector a cycle, `ACCUMULATOR_LATENCY` cycles after the request. What is read of the half that LINEAR uses has no
        meaning.
    busy : Out(1)
        Between ``start`` and ``done``.
    waiting_tables : Out(1)
        A row is offered but the operands of its slice are not complete.
    waiting_row : Out(1)
        They were complete in the cycle before and no row was offered.
    """

    #: Cycles from the cycle in which the last beat is added to ``done``.
    DONE = 2

    def __init__(self, config: BuildConfig, acc_bits: int, add: int) -> None:
        self.config, self.acc_bits, self.add = config, acc_bits, add
        super().__init__({
            "op": In(Operator(config)),
            "start": In(1),
            "done": Out(1),
            "rows": In(RowStream(config)),
            "activation": In(ActivationWrite(config)),
            "accumulator": In(AccumulatorRead(config)),
            "busy": Out(1),
            "waiting_tables": Out(1),
            "waiting_row": Out(1),
        })

    def _issue(
        self, m: Module, ready: Value, carried: Mapping[str, Value], gang: Value, scales: Value | None = None,
        short: ShortSlices | None = None,
    ) -> Beats:
        """Take beats while ``ready`` (the operands of the slice are complete). ``carried`` accompanies every beat.

        While ``scales``, beats are no weights: they are taken one a cycle in either mode, whole ring rows of them. ``gang`` is
        ``op.gang``, and 0 then. In ``short`` slices every ring row is taken once for each of its parts.
        """
        config = self.config
        descriptor = self.op.descriptor
        scaling = Const(0) if scales is None else scales
        running = Signal()
        # Bit k: more than k cycles.
        hold, gap = (Signal(AccumulatingLane.ACCUMULATE_CYCLES - 1, name=n) for n in ("hold", "gap"))
        most_blocks = config.panel_rows // config.rows
        block = Signal(range(max(2, most_blocks)))
        last_block = Signal.like(block)
        slices_left = Signal(16)
        beat = Signal(index_bits(config.groups))
        first = Signal()  # the first slice overwrites

        may_issue, issue, issue_scales, end_of_slice = Signal(), Signal(), Signal(), Signal()
        row_taken: Value = gang | (beat == config.groups - 1)
        row_part: Value = Const(0)
        if short is not None:
            row_part, last_part = self._parts(m, short, issue & row_taken, Mux(issue, block + 1, block) == last_block)
            row_taken = row_taken & last_part
        m.d.comb += [
            may_issue.eq(running & (scaling | (ready & ~hold[0]))),
            issue.eq(may_issue & self.rows.valid & ~scaling),
            issue_scales.eq(may_issue & self.rows.valid & scaling),
            self.rows.ready.eq(may_issue & row_taken),
            end_of_slice.eq(issue & (block == last_block)),
            self.waiting_tables.eq(running & ~ready & ~scaling & self.rows.valid),
        ]
        self._tell_waiting(m, running, scaling, ready, hold[0])
        blocks = Signal(bits_for(most_blocks))
        m.d.comb += blocks.eq(Mux(self.op.gang, descriptor.row_blocks // config.groups, descriptor.row_blocks))
        m.d.sync += hold.eq(hold >> 1)
        with m.If(issue):
            m.d.sync += block.eq(block + 1)
        if config.groups > 1:
            with m.If(issue | issue_scales):
                m.d.sync += beat.eq(Mux(gang, 0, beat + 1))
        with m.If(end_of_slice):
            # A slice of few row blocks must not come back to one before its sum is written.
            m.d.sync += [
                block.eq(0), first.eq(0), hold.eq(gap), slices_left.eq(slices_left - 1), running.eq(slices_left != 1),
            ]
        with m.If(self.start):
            m.d.sync += [
                running.eq(1), self.busy.eq(1), first.eq(1), block.eq(0), beat.eq(0), hold.eq(0),
                slices_left.eq(descriptor.slices), last_block.eq(blocks - 1),
                gap.eq(Cat(blocks < AccumulatingLane.ACCUMULATE_CYCLES - k for k in range(len(gap)))),
            ]

        word, part = divmod_power(block, config.vector_blocks)
        track: list[dict[str, Value]] = [{
            "valid": issue, "last": issue & end_of_slice & (slices_left == 1), "first": first,
            "address": self._address(word, descriptor.buffers[0]), "part": part, "block": block, **carried,
        }]
        for cycle in range(1, self.add + self.DONE + 1):
            stage: dict[str, Value] = {}
            for name, value in track[-1].items():
                stage[name] = Signal(len(value), name=f"{name}_{cycle}")
                m.d.sync += stage[name].eq(value)
            track.append(stage)

        registers: list[Value] = []
        for g in range(config.groups):
            register = Signal(8 * config.beat_bytes, name=f"beat_{g}", reset_less=True)
            word_of_group = self.rows.payload.word_select(Mux(gang, g, beat), len(register))
            with m.If(issue | issue_scales):
                m.d.sync += register.eq(word_of_group)
                if short is not None:
                    with m.If(short.active):
                        m.d.sync += register.eq(short.beat(word_of_group, row_part))
            registers.append(register)
        return Beats(issue, issue_scales, end_of_slice, registers, track)

    def _tell_waiting(self, m: Module, running: Value, scaling: Value, ready: Value, held: Value) -> None:
        """Whether a beat could have been issued in the cycle before and there was no row. Of its own registers, so that nothing is
        added to the way of `rows.ready`, which goes on into the ring."""
        was_running, was_scaling, was_ready, was_held, was_offered = Signal(), Signal(), Signal(), Signal(), Signal()
        m.d.sync += [
            was_running.eq(running), was_scaling.eq(scaling), was_ready.eq(ready), was_held.eq(held),
            was_offered.eq(self.rows.valid),
        ]
        m.d.comb += self.waiting_row.eq(was_running & (was_scaling | (was_ready & ~was_held)) & ~was_offered)

    @staticmethod
    def _parts(m: Module, short: ShortSlices, taken: Value, ends: Value) -> tuple[Value, Value]:
        """Part of a ring row in short slices, and whether it is the last one; ``taken``: a part is, ``ends``: the last row block
        follows. Where a slice has few row blocks there are cycles between slices, so that this is right even for one.
        """
        part, at_end = Signal(index_bits(short.parts), name="row_part"), Signal()
        last = ~short.active | (part == short.parts - 1) | at_end
        m.d.sync += at_end.eq(ends)
        with m.If(taken):
            m.d.sync += part.eq(Mux(last, 0, part + 1))
        return part, last

    def _accumulate(self, m: Module, lanes: Sequence[Sequence[AccumulatingLane]], track: list[dict[str, Value]]) -> None:
        """Wire the accumulators of the lanes, ``lanes[g][l]``, and serve ``accumulator`` from them."""
        config = self.config

        def parts(stage: dict[str, Value], condition: Value) -> Value:
            one_hot = Signal(config.vector_blocks)
            m.d.comb += one_hot.eq(Mux(condition, 1 << stage["part"], 0))
            return one_hot

        read, keep, _, _, write, write_parity = track[self.add - 3 :]
        kept = parts(keep, keep["valid"] & ~keep["first"])
        written, written_parity = parts(write, write["valid"]), parts(write_parity, write_parity["valid"])
        m.d.comb += self.done.eq(write_parity["last"])
        with m.If(self.done):
            m.d.sync += self.busy.eq(0)

        chosen, requested, shown = self._request(m)
        for g, group in enumerate(lanes):
            m.submodules[f"parity_{g}"] = parity = AccumulatorParity(config, self.acc_bits)
            m.d.comb += [
                parity.read.eq(read["address"]),
                parity.keep.eq(kept),
                parity.write.eq(write_parity["address"]),
                parity.write_part.eq(written_parity),
            ]
            for number, lane in enumerate(group):
                token = g * config.lanes + number
                here, repair = chosen[token], Signal(2, name=f"repair_{g}_{number}")
                seen = Signal(name=f"seen_{g}_{number}")
                m.d.sync += [
                    seen.eq(here),
                    repair.eq(Cat(seen, repair)),
                    lane.active.eq(self.op.count > Mux(self.op.gang, number, token)),
                ]
                m.d.comb += [
                    lane.read.eq(Mux(here, requested, read["address"])),
                    lane.repair.eq(repair[-1]),
                    lane.syndrome.eq(parity.syndrome),
                    lane.show.eq(Mux(seen, shown[g], 0)),
                    lane.accumulate.keep.eq(kept),
                    lane.accumulate.write.eq(write["address"]),
                    lane.accumulate.write_part.eq(written),
                    parity.own[number].eq(lane.own),
                    parity.sum[number].eq(lane.sum),
                ]
        self._serve(m, lanes)

    def _here(self, token: Value, group: int, number: int) -> Value:
        """Whether the one-hot ``token`` is that of lane ``number`` of ``group``."""
        return Mux(self.op.gang, token[number], token[group * self.config.lanes + number])

    def _address(self, word: Value, half: Value) -> Value:
        """Address of a word in the accumulator memories; words need fewer bits where they hold several row blocks."""
        bits = index_bits(self.config.panel_vectors)
        return Cat(Cat(word, Const(0, bits))[:bits], half)

    def _request(self, m: Module) -> tuple[list[Value], Value, list[Value]]:
        """Whether the request is for a lane, by token; its address; and, one cycle later, the row blocks of the word that a
        chosen lane of each group shows.

        Row block b of a ganged panel is block b // groups of group b % groups. So the word of vector v is v // groups, and
        for v % groups = t a group's part p is wanted where row block p * groups + g is one of vector t.
        """
        config = self.config
        request = Cat(self.accumulator.half, self.accumulator.gang, self.accumulator.token, self.accumulator.vector)
        for cycle in range(ACCUMULATOR_LATENCY - 3):
            register = Signal(len(request), name=f"request_{cycle}")
            m.d.sync += register.eq(request)
            request = register
        half, gang = request[0], request[1]
        token = request[2 : 2 + len(self.accumulator.token)]
        vector = request[2 + len(token) :]
        word, turn = divmod_power(vector, config.groups)
        chosen: list[Value] = []
        for number in range(config.tokens):
            here = Signal(name=f"chosen_{number}")
            m.d.comb += here.eq(token == Mux(gang, number % config.lanes, number))
            chosen.append(here)
        shown: list[Value] = []
        for g in range(config.groups):
            mask = Signal(config.vector_blocks, name=f"shown_{g}")
            for p in range(config.vector_blocks):
                m.d.sync += mask[p].eq(~gang | (turn == (p * config.groups + g) // config.vector_blocks))
            shown.append(mask)
        return chosen, self._address(Mux(gang, word, vector), half), shown

    def _serve(self, m: Module, lanes: Sequence[Sequence[AccumulatingLane]]) -> None:
        """Merge what the lanes show: everything not wanted is zero."""
        config = self.config
        gang = self.accumulator.gang
        for cycle in range(1, ACCUMULATOR_LATENCY):
            register = Signal(name=f"gang_{cycle}")
            m.d.sync += register.eq(gang)
            gang = register
        size = config.rows * self.acc_bits
        served = data_register(m, self.accumulator.data)
        blocks: list[list[Value]] = []
        for g, group in enumerate(lanes):
            blocks.append([])
            for p in range(config.vector_blocks):
                merged = Signal(size, name=f"block_{g}_{p}")
                m.d.comb += merged.eq(reduce(or_, [lane.blocks[p] for lane in group]))
                blocks[g].append(merged)
        for j in range(config.vector_blocks):
            alone = [(g, j) for g in range(config.groups)]
            row_blocks = range(j, config.groups * config.vector_blocks, config.vector_blocks)
            ganged = [(b % config.groups, b // config.groups) for b in row_blocks]
            data = reduce(or_, [blocks[g][p] for g, p in alone])
            if ganged != alone:
                data = Mux(gang, reduce(or_, [blocks[g][p] for g, p in ganged]), data)
            for row in range(config.rows):
                value = data.word_select(row, self.acc_bits).as_signed()
                m.d.sync += served.word_select(j * config.rows + row, config.acc_bits).eq(value)


def divmod_power(value: Value, divisor: int) -> tuple[Value, Value]:
    """Quotient and remainder (at least one bit each) for a ``divisor`` that is a power of two."""
    bits = divisor.bit_length() - 1
    return Cat(value[bits:], 0)[: max(1, len(value) - bits)], Cat(value[:bits], 0)[: max(1, bits)]


def connect_inputs(m: Module, target: wiring.PureInterface, source: wiring.PureInterface) -> None:
    """Drive every member of ``target`` from the same member of ``source`` (one source drives many lanes)."""
    for name in source.signature.members:
        m.d.comb += getattr(target, name).eq(getattr(source, name))
