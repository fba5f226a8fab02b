"""The attention unit: ATTENTION, and HEAD of the short list."""

from __future__ import annotations

from amaranth.hdl import Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ...config import BuildConfig
from ...descriptors import Flag, Opcode
from ..choice import choice_entries
from ..interfaces import (
    BeatStream,
    KvRead,
    MemoryWrite,
    Operator,
    QueryScaleWrite,
    QueryWrite,
    RunRead,
    TableRead,
    index_bits,
)
from .blocks import BlockBuffer
from .candidates import INDEX_BITS
from .choice import BlockChoice
from .ranking import ListedLogits
from .scaling import ScoreScaler
from .scores import ScoreStage
from .shortlist import READ_CYCLES
from .slots import SlotTable
from .softmax import OnlineSoftmax
from .value_stage import ValueStage

__all__ = ["AttentionUnit"]


class AttentionUnit(wiring.Component):
    """Online-softmax attention of every run's queries over its past keys (``beats``) and its own (KV store), in blocks by ascending
    position; and int8 rows of the short list. Bit for bit the operators of ``docs/numerics.md``.

    ::

        beats, store -> BlockBuffer -> ScoreStage -> ScoreScaler -> OnlineSoftmax -> ValueStage -> scratch_write
                          keys, values     q . k        scores        P, W, c, 1/l      o
                                                          +-> logits (HEAD)

    The stages work on different items (one round of ``query_lanes`` query slots against one block of keys), and run ahead
    across blocks, key/value heads and runs as far as their buffers reach. A round with slots of two runs is worked on for each of
    them, and of the other's slots nothing is written.

    ATTENTION: all tokens of the pass; ``heads``, ``kv_heads``, ``head_vectors``; output of token t, head n at
    ``dst + t * dst_stride + n * head_vectors``. Consumes, for each run and each key/value head, ``ceil(position / kv_block)``
    blocks of ``beats`` in the order of :class:`hwgen.layout.KvBlockLayout`; the slots of this run's tokens in them are not used.
    With ``Format.FP8_QUERY`` queries are e4m3, with ``Format.INT4_KEYS`` and ``INT4_VALUES`` those have 4 bits (builds that
    have them).
    A run with a budget attends to the blocks that it has chosen, and ``beats`` has these. ATTENTION with CHOOSE makes the choice,
    of pages of summaries: keys alone (see :class:`BlockChoice`).
    HEAD of wanted token ``first``, in builds with a ternary engine: ``vectors`` of the query at slot 0, ``row_blocks`` blocks as
    :func:`hwgen.layout.pack_head` makes them, those of the token's short list in its order; of ``stride`` rows of the vocabulary.

    Members
    -------
    op : In(Operator), start : In(1), done : Out(1)
    runs : Out(RunRead) of the blocks and of the query slots, and in builds with a budget of the choice
    beats : In(BeatStream)
        Never ready while idle.
    query : In(QueryWrite), query_scale : In(QueryScaleWrite)
    store : Out(KvRead)
    scratch_write : Out(MemoryWrite)
    chosen : In(TableRead), choice_done : Out(1)
        In builds with a budget: blocks by entry, as of :class:`BlockChoice`, and a strobe with ``done`` of a choice.
    list_index : Out, list_block : In
        Entry of the short list of token ``op.first``, and its block `READ_CYCLES` later at most. With the next one in builds with a
        ternary engine alone.
    listed : Out(ListedLogits)
    scoring, weighting, summing : Out(1)
        With ``config.probe`` only: in this cycle a beat of keys is multiplied, a key is at the softmax (its first or its second
        half), a beat of values is multiplied, each of another item.
    """

    def __init__(self, config: BuildConfig) -> None:
        self.config = config
        super().__init__({
            "op": In(Operator(config)),
            "start": In(1),
            "done": Out(1),
            "runs": Out(RunRead(config)).array(3 if config.kv_budget else 2),
            "beats": In(BeatStream(config)),
            "query": In(QueryWrite(config)),
            "query_scale": In(QueryScaleWrite(config)),
            "store": Out(KvRead(config)),
            "scratch_write": Out(MemoryWrite(config.scratch_vectors, 32 * config.width)),
            **({"chosen": In(TableRead(choice_entries(config))), "choice_done": Out(1)} if config.kv_budget else {}),
            **({
                "list_index": Out(index_bits(config.shortlist)),
                "list_block": In(INDEX_BITS),
                "listed": Out(ListedLogits(config)),
            } if config.has_ternary else {}),
            **({name: Out(1) for name in ("scoring", "weighting", "summing")} if config.probe else {}),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        m.submodules.slots = slots = SlotTable(config)
        m.submodules.blocks = blocks = BlockBuffer(config)
        m.submodules.score_stage = scores = ScoreStage(config)
        m.submodules.scaler = scaler = ScoreScaler(config)
        m.submodules.softmax = softmax = OnlineSoftmax(config)
        m.submodules.value_stage = values = ValueStage(config)

        direct: Value = Signal(name="direct") if config.has_ternary else Const(0)
        start = Signal()
        m.d.sync += start.eq(self.start)
        choosing: Value = Signal(name="choosing") if config.kv_budget else Const(0)
        attends = ~direct & ~choosing if config.kv_budget else ~direct
        if config.has_ternary:
            m.d.sync += direct.eq(self.op.descriptor.opcode == Opcode.HEAD)
        for unit in (slots, blocks, scores, values):
            wiring.connect(m, wiring.flipped(self.op), unit.op)
        for runs, reader in zip(self.runs[:2], (blocks.runs, slots.runs), strict=True):
            wiring.connect(m, wiring.flipped(runs), reader)
        wiring.connect(m, wiring.flipped(self.beats), blocks.beats)
        wiring.connect(m, wiring.flipped(self.store), blocks.store)
        wiring.connect(m, wiring.flipped(self.query), scores.write)
        wiring.connect(m, wiring.flipped(self.query_scale), scores.write_scale)
        wiring.connect(m, wiring.flipped(self.scratch_write), values.scratch_write)
        wiring.connect(m, softmax.reciprocal, values.reciprocal)

        m.d.comb += [
            slots.start.eq(start & ~direct),
            blocks.start.eq(start),
            blocks.direct.eq(direct),
            scores.start.eq(start),
            scores.direct.eq(direct),
            scores.run.eq(slots.run),
            softmax.begin.eq(scaler.begin & attends),
            softmax.valid.eq(scaler.valid & attends),
            softmax.done.eq(scaler.done & attends),
            blocks.free.eq(values.free),
            blocks.free_rows.eq(scaler.read_last & ~attends),
            values.group_vectors.eq(slots.group_vectors),
        ]
        # An item that begins takes more than a cycle, so that the next one sees what this one took.
        m.d.sync += scaler.room.eq(Mux(direct, self.listed.room, softmax.room) if config.has_ternary else softmax.room)
        if config.probe:
            m.d.comb += [
                self.scoring.eq(scores.working & ~direct),
                self.weighting.eq((scaler.working & ~direct) | softmax.working),
                self.summing.eq(values.working),
            ]
        self._connect_stages(m)
        chosen = self._connect_choice(m, start, choosing) if config.kv_budget else Const(0)

        if config.has_ternary:
            self._connect_head(m, start, direct, chosen)
        else:
            m.d.sync += self.done.eq(values.done | chosen)
        return m

    def _connect_choice(self, m: Module, start: Signal, choosing: Value) -> Signal:
        """ATTENTION with CHOOSE: scores go to the choice. Returns when it has ended."""
        slots, blocks, scaler = m.submodules.slots, m.submodules.blocks, m.submodules.scaler
        m.submodules.choice = choice = BlockChoice(self.config)
        wiring.connect(m, wiring.flipped(self.runs[2]), choice.runs)
        wiring.connect(m, wiring.flipped(self.chosen), choice.chosen)
        command = self.op.descriptor
        m.d.sync += [
            choosing.eq((command.flags & Flag.CHOOSE).any() & (command.opcode == Opcode.ATTENTION)),
            self.choice_done.eq(choice.done),
        ]
        m.d.comb += [
            slots.choosing.eq(choosing), blocks.choosing.eq(choosing),
            choice.start.eq(start & choosing),
            choice.item.eq(scaler.item), choice.begin.eq(scaler.begin & choosing), choice.valid.eq(scaler.valid & choosing),
            *(mine.eq(theirs) for mine, theirs in zip(choice.score, scaler.score, strict=True)),
            *(mine.eq(theirs) for mine, theirs in zip(choice.active, slots.active, strict=True)),
        ]
        with m.If(choosing):
            m.d.comb += [
                slots.output_round.eq(choice.output_round), slots.output_run.eq(choice.output_run),
                slots.output_read.eq(choice.output_read),
            ]
            m.d.sync += scaler.room.eq(choice.room)
        done: Signal = choice.done
        return done

    def _connect_head(self, m: Module, start: Signal, direct: Value, chosen: Value) -> None:
        """HEAD: rows are numbered block by block from the short list; those beyond the vocabulary are no candidates."""
        scaler, listed = m.submodules.scaler, self.listed
        row = Signal(INDEX_BITS)
        block_bits = (self.config.kv_block - 1).bit_length()
        entry, opened, finished = Signal(len(self.list_index)), Signal(), Signal()
        m.d.comb += [
            listed.open.eq(start & direct),
            listed.token.eq(self.op.first),
            listed.begin.eq(scaler.begin & direct),
            listed.valid.eq(scaler.logit_valid & direct & (row < self.op.descriptor.stride)),
            listed.row.eq(row),
            listed.logit.eq(scaler.logit),
            self.list_index.eq(entry),
        ]
        # The list is complete when the beats that were fetched by it arrive; if they are there already, it has yet to be read.
        opening, end_of_block, arrived, reads = Signal(), Signal(), Signal(), Signal(range(READ_CYCLES + 1))
        m.d.comb += opening.eq(direct & ~opened & arrived & (reads == READ_CYCLES))
        m.d.sync += [arrived.eq((arrived | self.beats.valid) & ~start), reads.eq(Mux(start, 0, reads + (reads != READ_CYCLES)))]
        m.d.comb += end_of_block.eq(row[:block_bits].all())
        with m.If(start):
            m.d.sync += [row.eq(0), entry.eq(0), opened.eq(0)]
        with m.Elif(opening | (scaler.logit_valid & end_of_block)):
            m.d.sync += [opened.eq(1), row.eq(self.list_block << block_bits), entry.eq(entry + 1)]
        with m.Elif(scaler.logit_valid):
            m.d.sync += row.eq(row + 1)
        head_done = Signal()
        m.d.comb += head_done.eq(finished & ~listed.busy & ~listed.valid)
        with m.If(head_done):
            m.d.sync += finished.eq(0)
        with m.Elif(scaler.done & direct & scaler.present.final):
            m.d.sync += finished.eq(1)
        m.d.sync += self.done.eq(head_done | m.submodules.value_stage.done | chosen)

    def _connect_stages(self, m: Module) -> None:
        """What one stage asks of another, and what it answers, under the same name on both sides."""
        slots, blocks, scores, scaler = (m.submodules[name] for name in ("slots", "blocks", "score_stage", "scaler"))
        softmax, values, config = m.submodules.softmax, m.submodules.value_stage, self.config
        m.d.comb += [
            getattr(sink, name).eq(getattr(source, name))
            for source, sink, names in (
                (scores, slots, ("run_index",)),
                (slots, scores, ("known",)),
                (scores, blocks, ("key_buffer", "key_dim", "key_free", "take")),
                (blocks, scores, ("key", "key_ready", "key_limit", "offer")),
                (scores, scaler, ("load", "item", *(f"scores_{lane}" for lane in range(config.query_lanes)))),
                (scaler, scores, ("release", "scale_addr", "scale_read")),
                (scaler, blocks, ("scale_buffer", "scale_key")),
                (blocks, scaler, ("scales_ready", "key_scale", "value_scale")),
                (scaler, slots, ("reach_round", "reach_read")),
                (scaler, softmax, ("usable", "key_value_scale", "present")),
                (softmax, values, ("ready", "item")),
                (values, softmax, ("take", "willing")),
                (values, blocks, ("value_buffer", "value_dim")),
                (blocks, values, ("value", "value_ready", "next_value_ready")),
                (values, slots, ("output_round", "output_run", "output_read")),
            )
            for name in names
        ]
        m.d.comb += [
            getattr(sink, name)[lane].eq(getattr(source, name)[lane])
            for source, sink, names in (
                (scores, scaler, ("scale",)),
                (slots, scaler, ("reach",)),
                (scaler, softmax, ("score", "maximum", "exponent")),
                (softmax, values, ("weights", "power", "correction")),
                (slots, values, ("output", "active")),
            )
            for name in names
            for lane in range(config.query_lanes)
        ]
