"""What DRAIN writes of the rows of a vocabulary, seen on its way: scores go to short lists, logits to candidates and to memory."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib.wiring import connect

from ..config import BuildConfig
from ..descriptors import Fetch, Flag, Opcode
from ..operators import Unit
from .attention.ranking import Ranking
from .attention.shortlist import ShortList

__all__ = ["connect_ranking", "connect_shortlist"]


def connect_ranking(m: Module, config: BuildConfig) -> None:
    """Adds the candidates of all wanted tokens."""
    sequencer, registers, vector = m.submodules.sequencer, m.submodules.registers, m.submodules.vector
    m.submodules.ranking = ranking = Ranking(config)
    op = sequencer.ops[Unit.VECTOR]
    descriptor = op.descriptor
    passing = Signal()
    m.d.comb += [
        passing.eq((descriptor.opcode == Opcode.DRAIN) & (descriptor.flags & Flag.CANDIDATES).any()),
        ranking.start.eq(sequencer.starts[Unit.VECTOR] & passing),
        ranking.first_row.eq(descriptor.stride),
        ranking.rows.eq(descriptor.head_stride),
        ranking.vectors.eq(descriptor.vectors),
        ranking.tokens.eq(op.count),
        ranking.list.eq(op.first),
        ranking.write.eq(op.write_logits),
        ranking.base.eq(op.logits),
        ranking.offset.eq(descriptor.stream_address),
        ranking.stride.eq(descriptor.stream_beats),
        ranking.begin.eq(vector.begin),
        ranking.valid.eq(vector.scratch_write.valid & passing),
        ranking.logits.eq(vector.scratch_write.data),
        vector.room.eq(ranking.room),
        vector.lists_busy.eq(ranking.busy),
        ranking.candidate.eq(registers.candidate),
        registers.candidate_word.eq(ranking.candidate_word),
    ]


def connect_shortlist(m: Module, config: BuildConfig) -> None:
    """Adds the short lists, the head that reads their blocks, and its logits to the candidates."""
    mem, sequencer, vector = m.submodules.memory, m.submodules.sequencer, m.submodules.vector
    attention, ranking = m.submodules.attention, m.submodules.ranking
    m.submodules.shortlist = shortlist = ShortList(config)
    drain, head = sequencer.ops[Unit.VECTOR], sequencer.ops[Unit.ATTENTION]
    of_vector, of_attention = drain.descriptor, head.descriptor
    scoring = Signal()
    connect(m, attention.listed, ranking.listed)
    m.d.comb += [
        scoring.eq((of_vector.opcode == Opcode.DRAIN) & (of_vector.flags & Flag.SHORTLIST).any()),
        shortlist.start.eq(sequencer.starts[Unit.VECTOR] & scoring),
        shortlist.first_row.eq(of_vector.stride),
        shortlist.rows.eq(of_vector.head_stride),
        shortlist.vectors.eq(of_vector.vectors),
        shortlist.tokens.eq(drain.count),
        shortlist.list.eq(drain.first),
        vector.lists_busy.eq(ranking.busy | shortlist.busy),
        shortlist.valid.eq(vector.scratch_write.valid & scoring),
        shortlist.scores.eq(vector.scratch_write.data),
        shortlist.read.eq(mem.shortlist_read),
        shortlist.number[0].eq(mem.shortlist_number),
        shortlist.index[0].eq(mem.shortlist.index),
        mem.shortlist.number.eq(shortlist.block[0]),
        mem.shortlist_complete.eq(
            sequencer.running[Unit.ATTENTION] & (of_attention.fetch == Fetch.SHORTLIST) & shortlist.complete
        ),
        shortlist.number[1].eq(head.first),
        shortlist.index[1].eq(attention.list_index),
        attention.list_block.eq(shortlist.block[1]),
    ]
