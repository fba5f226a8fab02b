"""What becomes of logits: candidates of their tokens, and words in memory."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from ...config import BuildConfig
from ..interfaces import ADDRESS_BITS, Segment, WriteBeat, index_bits
from .candidates import INDEX_BITS, CandidateList, ordered, restored
from .logits import LogitWriter

__all__ = ["ListedLogits", "Ranking"]


def ListedLogits(config: BuildConfig) -> wiring.Signature:
    """Logits of the rows of a short list, one a cycle: ``open`` (strobe) begins the candidates of ``token``; ``begin`` reserves the
    place of ``kv_block`` logits, while there is ``room``; ``busy``: not all of them have found their place."""
    return wiring.Signature({
        "open": Out(1),
        "token": Out(index_bits(config.chunk)),
        "room": In(1),
        "begin": Out(1),
        "valid": Out(1),
        "row": Out(INDEX_BITS),
        "logit": Out(32),
        "busy": In(1),
    })


class Ranking(wiring.Component):
    """Sorted candidates of every wanted token, of logits that come in vectors (DRAIN with CANDIDATES), rows ascending, token after
    token; these are also written to memory on request. Or of the logits of a short list (HEAD).

    A vector becomes single logits, one a cycle, while the next one is on its way: they come ``width`` cycles apart at least.

    ::

        IDLE - BEGIN - OPEN - TAKE (vectors of a token) - SETTLE -> OPEN of the next token, or IDLE

    Members
    -------
    start : In(1), first_row, rows, vectors, list, tokens : In
        Strobe: vectors of ``tokens`` tokens follow, the first one's number being ``list``, ``vectors`` of each: rows ``first_row``
        and more of ``rows``. Row 0 begins new candidates. They do not change until the last vector.
    write : In(1), base, offset, stride : In
        Whether logits are written: those of the first token to ``base + offset``, of the next one ``stride`` beats behind it.
        ``vectors`` are whole beats then.
    room : Out(1), begin : In(1)
        Whether another vector may be asked for, and the strobe that reserves its place. ``room`` does not know ``begin`` of the
        latest two cycles.
    valid : In(1), logits : In
        ``width`` float32 logits.
    busy : Out(1)
        Not ready for the next token's vectors; from the cycle after ``start``, and from the cycle after a token's last vector.
    listed : In(ListedLogits)
        While no vectors come. Builds with a ternary engine alone.
    candidate : In, candidate_word : Out(32)
        While not ``busy``, of the candidates of all wanted tokens word ``candidate`` of the cycle before: token id, then logit of
        each, best first.
    segment : Out(Segment), beats : Out(WriteBeat)
    """

    def __init__(self, config: BuildConfig) -> None:
        self.config = config
        super().__init__({
            "start": In(1),
            "first_row": In(INDEX_BITS),
            "rows": In(INDEX_BITS),
            "vectors": In(16),
            "list": In(index_bits(config.chunk)),
            "tokens": In(bits_for(config.chunk)),
            "write": In(1),
            "base": In(ADDRESS_BITS),
            "offset": In(ADDRESS_BITS),
            "stride": In(32),
            "room": Out(1),
            "begin": In(1),
            "valid": In(1),
            "logits": In(32 * config.width),
            "busy": Out(1),
            **({"listed": In(ListedLogits(config))} if config.has_ternary else {}),
            "candidate": In(index_bits(2 * config.chunk * config.topk)),
            "candidate_word": Out(32),
            "segment": Out(Segment()),
            "beats": Out(WriteBeat(config)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        # Rows beyond the vocabulary, up to a beat of them, keep their places in the queue until the list is left.
        depth = 2 * max(config.kv_block, config.beat_bytes // 4)
        m.submodules.best = best = CandidateList(config.topk, config.chunk, depth=depth)
        m.submodules.writer = writer = LogitWriter(config, depth)
        wiring.connect(m, wiring.flipped(self.segment), writer.segment)
        wiring.connect(m, wiring.flipped(self.beats), writer.beats)

        opens, number = Signal(), Signal(len(self.list))
        row, single, passing = self._single(m, opens)
        logit = Signal(32)
        m.d.comb += [
            best.list.eq(number), best.clear.eq(opens & (self.first_row == 0)), best.resume.eq(opens & (self.first_row != 0)),
            best.reserve.eq(Mux(self.begin, config.width, 0)),
            logit.eq(single), best.index.eq(row), best.key.eq(ordered(logit)), best.valid.eq(passing & (row < self.rows)),
            writer.begin.eq(self.begin), writer.valid.eq(passing), writer.logit.eq(logit),
            writer.start.eq(opens & self.write), writer.count.eq(self.vectors >> (config.beat_vectors.bit_length() - 1)),
        ]
        m.d.sync += self.room.eq((best.free >= config.width) & writer.room)
        if config.has_ternary:
            listed = self.listed
            with m.If(listed.open):
                m.d.comb += [best.list.eq(listed.token), best.clear.eq(1)]
            with m.If(listed.valid):
                m.d.comb += [best.index.eq(listed.row), logit.eq(listed.logit), best.valid.eq(1)]
            with m.If(listed.begin):
                m.d.comb += best.reserve.eq(config.kv_block)
            m.d.comb += [listed.room.eq(best.free >= config.kv_block), listed.busy.eq(best.busy)]
        self._sequence(m, opens, number, ~(passing | best.busy) & writer.idle)
        self._read(m, best)
        return m

    def _single(self, m: Module, opens: Signal) -> tuple[Value, Value, Value]:
        """The logits of a vector one by one: vocabulary row, logit, and whether there is one."""
        config = self.config
        held, place = Signal(32 * config.width, reset_less=True), Signal(range(config.width))
        row, passing = Signal(INDEX_BITS), Signal()
        with m.If(opens):
            m.d.sync += row.eq(self.first_row)
        with m.Elif(passing):
            m.d.sync += row.eq(row + 1)
        with m.If(self.valid):
            m.d.sync += [held.eq(self.logits), place.eq(0), passing.eq(1)]
        with m.Elif(passing):
            m.d.sync += [place.eq(place + 1), passing.eq(place != config.width - 1)]
        return row, held.word_select(place, 32), passing

    def _sequence(self, m: Module, opens: Signal, number: Signal, settled: Value) -> None:
        """Token after token: opens its list and its segment, takes its vectors, waits until they have found their places."""
        writer = m.submodules.writer
        tokens_left, vectors_left = Signal(len(self.tokens)), Signal(len(self.vectors))
        address = Signal(ADDRESS_BITS, reset_less=True)
        beat_bits = self.config.beat_bytes.bit_length() - 1
        begins, start, step = Signal(), Signal(ADDRESS_BITS), Signal(ADDRESS_BITS)
        m.d.comb += [
            writer.address.eq(address),
            # One adder for both.
            start.eq(Mux(begins, self.base, address)), step.eq(Mux(begins, self.offset, self.stride << beat_bits)),
        ]
        m.d.sync += self.busy.eq(1)
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += [self.busy.eq(self.start), number.eq(self.list), tokens_left.eq(self.tokens)]
                with m.If(self.start):
                    m.next = "BEGIN"
            with m.State("BEGIN"):
                m.d.comb += begins.eq(1)
                m.d.sync += address.eq(start + step)
                m.next = "OPEN"
            with m.State("OPEN"):
                m.d.comb += opens.eq(1)
                m.d.sync += [vectors_left.eq(self.vectors), self.busy.eq(0)]
                m.next = "TAKE"
            with m.State("TAKE"):
                m.d.sync += self.busy.eq(0)
                with m.If(self.valid):
                    m.d.sync += vectors_left.eq(vectors_left - 1)
                    with m.If(vectors_left == 1):
                        m.d.sync += self.busy.eq(1)
                        m.next = "SETTLE"
            with m.State("SETTLE"), m.If(settled):
                m.d.sync += [number.eq(number + 1), tokens_left.eq(tokens_left - 1), address.eq(start + step)]
                m.next = "OPEN"
                with m.If(tokens_left == 1):
                    m.next = "IDLE"

    def _read(self, m: Module, best: CandidateList) -> None:
        """Words of the candidates for the host."""
        of_logit = Signal()
        m.d.sync += of_logit.eq(self.candidate[0])
        m.d.comb += [
            best.entry.eq(self.candidate[1:]),
            self.candidate_word.eq(Mux(of_logit, restored(best.key_of_entry), best.index_of_entry)),
        ]
