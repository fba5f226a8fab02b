"""The attention unit: ATTENTION and HEAD."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ...config import BuildConfig
from ...descriptors import Fetch, Opcode
from ..interfaces import (
    BeatStream,
    KvRead,
    MemoryWrite,
    Operator,
    QueryScaleWrite,
    QueryWrite,
    RunRead,
    Segment,
    WriteBeat,
    index_bits,
)
from .blocks import BlockBuffer
from .candidates import CandidateList
from .logits import LogitWriter
from .scaling import ScoreScaler
from .scores import ScoreStage
from .slots import SlotTable
from .softmax import OnlineSoftmax
from .topk import INDEX_BITS
from .value_stage import ValueStage

__all__ = ["AttentionUnit"]


class AttentionUnit(wiring.Component):
    """Online-softmax attention of every run's queries over its past keys (``beats``) and its own (KV store), in blocks by ascending
    position; and the int8 LM head with its best candidates. Bit for bit the operators of ``docs/numerics.md``.

    ::

        beats, store -> BlockBuffer -> ScoreStage -> ScoreScaler -> OnlineSoftmax -> ValueStage -> scratch_write
                          keys, values     q . k        scores        P, W, c, 1/l      o
                                                          | logits (HEAD)
                                                          +-> CandidateList, LogitWriter

    The stages work on different items (one round of ``query_lanes`` query slots against one block of keys), and run ahead
    across blocks, key/value heads and runs as far as their buffers reach. A round with slots of two runs is worked on for each of
    them, and of the other's slots nothing is written.

    ATTENTION: all tokens of the pass; ``heads``, ``kv_heads``, ``head_vectors``; output of token t, head n at
    ``dst + t * dst_stride + n * head_vectors``. Consumes, for each run and each key/value head, ``ceil(position / kv_block)``
    blocks of ``beats`` in the order of :class:`hwgen.layout.KvBlockLayout`; the slots of this run's tokens in them are not used.
    With ``Format.FP8_QUERY`` queries are e4m3, with ``Format.INT4_KV`` keys and values have 4 bits (builds that have them).
    HEAD of wanted token ``first``: ``vectors`` of the query at slot 0, ``row_blocks`` blocks as :func:`hwgen.layout.pack_head`
    makes them, ``stride`` rows in all; with ``op.write_logits`` a segment of float32 logits at ``op.logits`` + ``head_stride``.
    With fetch SHORTLIST the blocks are those of the token's short list, in its order, and no logits are written.

    Members
    -------
    op : In(Operator), start : In(1), done : Out(1)
    runs : Out(RunRead) of the blocks and of the query slots
    beats : In(BeatStream)
        Never ready while idle.
    query : In(QueryWrite), query_scale : In(QueryScaleWrite)
    store : Out(KvRead)
    scratch_write : Out(MemoryWrite)
    logits_segment : Out(Segment), logits : Out(WriteBeat)
    list_index : Out, list_block : In
        Entry of the short list, and its block one cycle later.
    candidate : In, candidate_word : Out(32)
        While no HEAD runs, of the candidates of all wanted tokens word ``candidate`` of the cycle before: token id, then logit of
        each, best first.
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
            "runs": Out(RunRead(config)).array(2),
            "beats": In(BeatStream(config)),
            "query": In(QueryWrite(config)),
            "query_scale": In(QueryScaleWrite(config)),
            "store": Out(KvRead(config)),
            "scratch_write": Out(MemoryWrite(config.scratch_vectors, 32 * config.width)),
            "logits_segment": Out(Segment()),
            "logits": Out(WriteBeat(config)),
            "list_index": Out(index_bits(config.shortlist)),
            "list_block": In(INDEX_BITS),
            "candidate": In(index_bits(2 * config.chunk * config.topk)),
            "candidate_word": Out(32),
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
        m.submodules.topk = topk = CandidateList(config.topk, lists=config.chunk, burst=config.kv_block)
        m.submodules.logit_writer = writer = LogitWriter(config)

        direct = Signal()
        start = Signal()
        m.d.sync += [start.eq(self.start), direct.eq(self.op.descriptor.opcode == Opcode.HEAD)]
        for unit in (slots, blocks, scores, values):
            wiring.connect(m, wiring.flipped(self.op), unit.op)
        for runs, reader in zip(self.runs, (blocks.runs, slots.runs), strict=True):
            wiring.connect(m, wiring.flipped(runs), reader)
        wiring.connect(m, wiring.flipped(self.beats), blocks.beats)
        wiring.connect(m, wiring.flipped(self.store), blocks.store)
        wiring.connect(m, wiring.flipped(self.query), scores.write)
        wiring.connect(m, wiring.flipped(self.query_scale), scores.write_scale)
        wiring.connect(m, wiring.flipped(self.scratch_write), values.scratch_write)
        wiring.connect(m, wiring.flipped(self.logits_segment), writer.segment)
        wiring.connect(m, wiring.flipped(self.logits), writer.beats)
        wiring.connect(m, softmax.reciprocal, values.reciprocal)

        m.d.comb += [
            slots.start.eq(start & ~direct),
            blocks.start.eq(start),
            blocks.direct.eq(direct),
            scores.start.eq(start),
            scores.direct.eq(direct),
            scores.run.eq(slots.run),
            softmax.begin.eq(scaler.begin & ~direct),
            softmax.valid.eq(scaler.valid & ~direct),
            softmax.done.eq(scaler.done & ~direct),
            blocks.free.eq(values.free),
            blocks.free_rows.eq(scaler.read_last & direct),
            values.group_vectors.eq(slots.group_vectors),
        ]
        # An item that begins takes more than a cycle, so that the next one sees what this one took.
        m.d.sync += scaler.room.eq(Mux(direct, writer.room & topk.room, softmax.room))
        if config.probe:
            m.d.comb += [
                self.scoring.eq(scores.working & ~direct),
                self.weighting.eq((scaler.working & ~direct) | softmax.working),
                self.summing.eq(values.working),
            ]
        self._connect_stages(m)

        self._connect_head(m, start, direct)
        return m

    def _connect_head(self, m: Module, start: Signal, direct: Signal) -> None:
        """HEAD: rows are numbered as they come, or block by block from the short list; those beyond the vocabulary are no
        candidates."""
        config, scaler, topk, writer = self.config, m.submodules.scaler, m.submodules.topk, m.submodules.logit_writer
        row = Signal(INDEX_BITS)
        block_bits = (config.kv_block - 1).bit_length()
        listed, entry, opened = Signal(), Signal(len(self.list_index)), Signal()
        known = Signal()
        finished = Signal()
        m.d.comb += [
            known.eq(row < self.op.descriptor.stride),
            topk.clear.eq(start & direct),
            topk.list.eq(self.op.first),
            topk.index.eq(row),
            topk.valid.eq(scaler.logit_valid & direct & known),
            topk.begin.eq(scaler.begin & direct),
            topk.logit.eq(scaler.logit),
            writer.start.eq(start & direct & ~listed & self.op.write_logits),
            writer.rows.eq(self.op.descriptor.stride),
            writer.begin.eq(scaler.begin & direct),
            writer.valid.eq(scaler.logit_valid & direct),
            writer.logit.eq(Mux(known, scaler.logit, 0)),
            writer.finish.eq(finished),
        ]
        m.d.comb += self.list_index.eq(entry)
        m.d.sync += writer.address.eq(self.op.logits + self.op.descriptor.head_stride)  # of the operator
        m.d.sync += listed.eq(self.op.descriptor.fetch == Fetch.SHORTLIST)
        # The list is complete when the beats that were fetched by it arrive.
        opening, end_of_block = Signal(), Signal()
        m.d.comb += opening.eq(listed & direct & ~opened & self.beats.valid)
        m.d.comb += end_of_block.eq(row[:block_bits].all() & listed)
        with m.If(start):
            m.d.sync += [row.eq(0), entry.eq(0), opened.eq(0)]
        with m.Elif(opening | (scaler.logit_valid & end_of_block)):
            m.d.sync += [opened.eq(1), row.eq(self.list_block << block_bits), entry.eq(entry + 1)]
        with m.Elif(scaler.logit_valid):
            m.d.sync += row.eq(row + 1)
        head_done = Signal()
        m.d.comb += head_done.eq(finished & writer.idle & ~topk.busy & ~topk.valid)
        with m.If(head_done):
            m.d.sync += finished.eq(0)
        with m.Elif(scaler.done & direct & scaler.present.final):
            m.d.sync += finished.eq(1)
        m.d.sync += self.done.eq(head_done | m.submodules.value_stage.done)
        of_logit = Signal()
        m.d.sync += of_logit.eq(self.candidate[0])
        m.d.comb += [
            topk.entry.eq(self.candidate[1:]),
            self.candidate_word.eq(Mux(of_logit, topk.logit_of_entry, topk.index_of_entry)),
        ]

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
