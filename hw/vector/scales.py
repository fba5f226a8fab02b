"""Quantisation scales: the scalar arithmetic beside the lanes."""

from __future__ import annotations

import struct

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from ...config import BuildConfig
from ...descriptors import Format
from ...numerics import E4M3_LARGEST, E4M3_MAX, F32_MAX_BITS
from ..float.divide import FloatDiv
from ..float.format import pipelined
from ..float.multiply import FloatMul
from ..float.sqrt import FloatSqrt
from ..interfaces import KvScaleWrite, QueryScaleWrite, index_bits
from .lane import ONE
from .step import GATE, Kind, place_bits

__all__ = ["E4M3_FORMATS", "HeadName", "Scales", "formats_of"]


def _bits(value: float) -> int:
    return int.from_bytes(struct.pack("<f", value), "little")


#: 1/448 with the unit 2^-9 of e4m3 integers in it.
INVERSE_E4M3 = _bits(1.0 / E4M3_LARGEST)


#: Formats in which the largest code is not 127.
E4M3_FORMATS = Format.FP8 | Format.FP8_QUERY


def formats_of(config: BuildConfig) -> Format:
    """Number formats that the vector unit of this build knows beside those of ternary models."""
    formats = Format.NONE
    if config.has_int4:
        formats |= Format.FP8
    if config.fp8_query:
        formats |= Format.FP8_QUERY
    if config.int4_kv:
        formats |= Format.INT4_KEYS | Format.INT4_VALUES | Format.MIX | Format.UNMIX
    return formats


def HeadName(config: BuildConfig) -> data.StructLayout:
    """Whose maximum it is: ``kind``, ``place`` and ``kv_head`` as in a step's tag."""
    return data.StructLayout({"kind": Kind, "place": place_bits(config), "kv_head": index_bits(config.max_kv_heads)})


class Scales(wiring.Component):
    """Scales of tokens, queries, keys and values, and the factors that elements are quantised with.

    The three requests never meet: maxima come while a token or head passes, the mean before the next token passes,
    loads when nothing else is under way.

    Members
    -------
    peak_valid : In(1), peak : In(32), name : In(HeadName)
        ``peak`` is the maximum of ``name``. Its factor is stored at the next index of the factor memory: of queries and tokens
        127 / peak, of keys and values 1 / scale.
    rewind : In(1)
        Return to index 0.
    soon : Out(1)
        High when a step that is registered in the next cycle finds the first factor after ``rewind``.
    dividing : Out(1)
        High in the cycle in which that factor enters the divider.
    index : In, factor : Out(32)
        The factor of ``index``, in the same cycle.
    query_scale : Out(QueryScaleWrite), kv_scale : Out(KvScaleWrite), score_constant : In(32), kv_heads : In(8)
        Scales of heads leave: peak * ``score_constant``, and bf16 of peak / 127.
    formats : In(8)
        Of the operator, in builds with e4m3: 448 takes the place of 127 for tokens with FP8 and for queries with FP8_QUERY.
    mean_valid : In(1), sum, inverse_n : In(32), product_valid : Out(1), product : Out(32)
        Multiply ``sum`` by ``inverse_n``; ``product_valid`` and ``product`` follow.
    variance_valid : In(1), variance : In(32), variance_ready : Out(1), token : In, to_query : In(1)
        Mean square plus epsilon of ``token``, whose peak came last; its scale is stored, and leaves on ``query_scale`` (slot 0)
        with ``to_query``.
    head : In(1)
        With a variance: the factor 1 / sqrt(variance) is stored at index `HEAD` of the factor memory in place of a token's scale.
    busy : Out(1)
        Until the scale of the token is stored.
    load : In(1), load_token : In, weight_scale : In(32), token_scale : Out(32)
        ``token_scale`` becomes the scale of ``load_token`` times ``weight_scale``, `LOAD` cycles later.
    """

    #: Index of the factor of a head that is normed.
    HEAD = 1
    #: Cycles from a request of the multiplier to its product.
    MULTIPLY = 1 + FloatMul.latency
    #: Cycles from ``load`` to ``token_scale``.
    LOAD = MULTIPLY + 1

    def __init__(self, config: BuildConfig) -> None:
        # The step's address is on the bus one cycle after the strobe's next one; the factor is read two before GATE.
        #: Cycles from ``soon`` to ``dividing``.
        self.ahead = 2 + GATE - 2 - 1 - FloatDiv.latency
        if not 0 <= self.ahead <= self.MULTIPLY + 1:
            raise ValueError(f"FloatDiv.latency must be {GATE - 2 - self.MULTIPLY} to {GATE - 1}, not {FloatDiv.latency!r}")
        self.config = config
        self.factors = config.max_heads + 2 * config.max_kv_heads
        token = index_bits(config.chunk)
        super().__init__({
            "rewind": In(1),
            "peak_valid": In(1),
            "peak": In(32),
            "name": In(HeadName(config)),
            "score_constant": In(32),
            "soon": Out(1),
            "dividing": Out(1),
            "index": In(index_bits(self.factors)),
            "factor": Out(32),
            "mean_valid": In(1),
            "sum": In(32),
            "inverse_n": In(32),
            "product_valid": Out(1),
            "product": Out(32),
            "variance_valid": In(1),
            "variance": In(32),
            "variance_ready": Out(1),
            "token": In(token),
            "to_query": In(1),
            "head": In(1),
            **({"formats": In(8)} if formats_of(config) & E4M3_FORMATS else {}),
            "busy": Out(1),
            "load": In(1),
            "load_token": In(token),
            "weight_scale": In(32),
            "token_scale": Out(32),
            "kv_heads": In(8),
            "query_scale": Out(QueryScaleWrite(config)),
            "kv_scale": Out(KvScaleWrite(config)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.multiplier = multiplier = FloatMul()
        m.submodules.divider = divider = FloatDiv()
        m.submodules.root = root = FloatSqrt()
        m.submodules.factors = factors = memory.Memory(
            shape=32, depth=self.factors, init=[], attrs={"ram_style": "distributed"}
        )
        m.submodules.tokens = tokens = memory.Memory(
            shape=32, depth=self.config.chunk, init=[], attrs={"ram_style": "distributed"}
        )
        factor_write, factor_read = factors.write_port(), factors.read_port(domain="comb")
        token_write, token_read = tokens.write_port(), tokens.read_port(domain="comb")
        peaks, peak, named = self._multiply(m, token_read)

        # Scale and division of one maximum.
        of_kv = Signal()
        bf16 = Signal(16)
        rounded = Signal(17)
        m.d.comb += [
            of_kv.eq((named.kind == Kind.KEY) | (named.kind == Kind.VALUE)),
            bf16.eq(Mux(rounded > F32_MAX_BITS >> 16, F32_MAX_BITS >> 16, rounded)),
        ]
        m.d.sync += rounded.eq(multiplier.o[16:32] + (multiplier.o[15] & (multiplier.o[:15].any() | multiplier.o[16])))
        product = pipelined(m, multiplier.o, "product")
        numerator, denominator = Signal(32, reset_less=True), Signal(32, reset_less=True)
        # The division that starts in this cycle is for a factor, a token's scale.
        do_factor, do_scale = Signal(), Signal()
        token_numerator, root_numerator = Signal(32), Signal(32)
        root_waits = Signal()
        start_scale = Signal()
        m.d.comb += start_scale.eq(root_waits & ~peaks[-1])
        m.d.sync += [do_factor.eq(peaks[-1]), do_scale.eq(start_scale)]
        with m.If(peaks[-1]):
            m.d.sync += [
                numerator.eq(Mux(of_kv, Const(ONE, 32), self._largest(named))),
                denominator.eq(Mux(of_kv, Cat(Const(0, 16), bf16), peak)),
                token_numerator.eq(product),
            ]
        with m.Else():
            m.d.sync += [numerator.eq(root_numerator), denominator.eq(root.o)]
        m.d.comb += [divider.a.eq(numerator), divider.b.eq(denominator)]
        factor_pipe, scale_pipe = Signal(FloatDiv.latency), Signal(FloatDiv.latency)
        m.d.sync += [factor_pipe.eq(Cat(do_factor, factor_pipe)), scale_pipe.eq(Cat(do_scale, scale_pipe))]

        to_query, of_head = self._scale_token(
            m, token_write, scale_pipe[-1], start_scale, token_numerator, root_numerator, root_waits
        )
        early = peaks[-self.ahead] if self.ahead else do_factor
        m.d.comb += [
            self.soon.eq(early & ~self._seen(m, early, "early")),
            self.dividing.eq(do_factor & ~self._seen(m, do_factor, "divided")),
        ]
        self._store_factors(m, factor_pipe[-1] | (scale_pipe[-1] & of_head), factor_write, factor_read)

        # Scales that leave.
        query, kv = self.query_scale, self.kv_scale
        m.d.sync += [
            query.valid.eq((peaks[-1] & (named.kind == Kind.QUERY)) | (scale_pipe[-1] & to_query)),
            query.slot.eq(Mux(peaks[-1], named.place, 0)),
            query.kv_head.eq(Mux(peaks[-1], named.kv_head, 0)),
            query.scale.eq(Mux(peaks[-1], product, divider.o)),
            kv.valid.eq(peaks[-1] & of_kv),
            kv.bank.eq(named.place),
            kv.value.eq(named.kind == Kind.VALUE),
            kv.head.eq(named.kv_head),
            kv.scale.eq(bf16),
        ]
        m.d.comb += query.kv_heads.eq(self.kv_heads)
        return m

    def _scale_token(
        self, m: Module, token_write: memory.WritePort, divided: Value, start_scale: Signal,
        token_numerator: Signal, root_numerator: Signal, root_waits: Signal,
    ) -> tuple[Signal, Signal]:
        """Scale of a token: peak / largest code / sqrt(variance), or 1 / sqrt(variance) of a head. ``divided``: the divider has
        it. Returns whether it is a query's, and whether it is a head's factor."""
        root, divider = m.submodules.root, m.submodules.divider
        token = Signal.like(self.token)
        to_query, of_head = Signal(), Signal()
        m.d.comb += [
            self.variance_ready.eq(~self.busy),
            root.start.eq(self.variance_valid & self.variance_ready),
            root.a.eq(self.variance),
            token_write.en.eq(divided & ~of_head),
            token_write.addr.eq(token),
            token_write.data.eq(divider.o),
        ]
        with m.If(root.start):
            m.d.sync += [
                self.busy.eq(1),
                root_numerator.eq(Mux(self.head, ONE, token_numerator)),
                token.eq(self.token),
                to_query.eq(self.to_query),
                of_head.eq(self.head),
            ]
        with m.If(root.done):
            m.d.sync += root_waits.eq(1)
        with m.Elif(start_scale):
            m.d.sync += root_waits.eq(0)
        with m.If(divided):
            m.d.sync += self.busy.eq(0)
        return to_query, of_head

    def _seen(self, m: Module, strobe: Value, name: str) -> Signal:
        """``strobe`` was high since ``rewind``."""
        seen = Signal(name=f"seen_{name}")
        with m.If(strobe):
            m.d.sync += seen.eq(1)
        with m.If(self.rewind):
            m.d.sync += seen.eq(0)
        return seen

    def _store_factors(
        self, m: Module, divided: Value, factor_write: memory.WritePort, factor_read: memory.ReadPort
    ) -> None:
        """Factors, in the order of their maxima. ``divided``: the divider has one."""
        divider = m.submodules.divider
        entry = Signal(range(self.factors))
        m.d.comb += [
            factor_write.en.eq(divided),
            factor_write.addr.eq(entry),
            factor_write.data.eq(divider.o),
            factor_read.addr.eq(self.index),
            self.factor.eq(factor_read.data),
        ]
        with m.If(divided):
            m.d.sync += entry.eq(entry + 1)
        with m.If(self.rewind):
            m.d.sync += entry.eq(0)

    def _multiply(self, m: Module, token_read: memory.ReadPort) -> tuple[Signal, Value, data.View]:
        """Multiplier: peak * constant, sum / n, or token scale * weight scale. Returns whether the product of the cycle before is
        of a maximum (the last bit), the maximum, and whose it is."""
        multiplier, name, multiply = m.submodules.multiplier, self.name, self.MULTIPLY
        m.d.comb += token_read.addr.eq(self.load_token)
        constant = Mux(name.kind == Kind.QUERY, self.score_constant, self._inverse_largest(name))
        x = Mux(self.peak_valid, self.peak, Mux(self.mean_valid, self.sum, token_read.data))
        y = Mux(self.peak_valid, constant, Mux(self.mean_valid, self.inverse_n, self.weight_scale))
        m.d.comb += [multiplier.a.eq(pipelined(m, x, "x")), multiplier.b.eq(pipelined(m, y, "y"))]
        peaks = Signal(multiply + 1)
        means, loads = (Signal(multiply, name=kind) for kind in ("means", "loads"))
        m.d.sync += [
            peaks.eq(Cat(self.peak_valid, peaks)),
            means.eq(Cat(self.mean_valid, means)),
            loads.eq(Cat(self.load, loads)),
        ]
        m.d.comb += [self.product.eq(multiplier.o), self.product_valid.eq(means[-1])]
        with m.If(loads[-1]):
            m.d.sync += self.token_scale.eq(multiplier.o)
        peak, head = self.peak, name.as_value()
        for k in range(multiply + 1):
            peak, head = pipelined(m, peak, f"peak_{k}"), pipelined(m, head, f"head_{k}")

        return peaks, peak, data.View(HeadName(self.config), head)

    def _has(self, format: Format) -> Value:
        """The operator has this format, one that the build knows."""
        return (self.formats & format).any()

    def _inverse_largest(self, name: data.View) -> Value:
        """What a maximum is multiplied by, a query's excepted."""
        value: Value = Const(_bits(1.0 / 127.0), 32)
        if self.config.has_int4:
            value = Mux((name.kind == Kind.TOKEN) & self._has(Format.FP8), INVERSE_E4M3, value)
        return value

    def _largest(self, name: data.View) -> Value:
        """What is divided by the maximum of a token or query."""
        value: Value = Const(_bits(127.0), 32)
        for present, kind, format in (
            (self.config.has_int4, Kind.TOKEN, Format.FP8),
            (self.config.fp8_query, Kind.QUERY, Format.FP8_QUERY),
        ):
            if present:
                value = Mux((name.kind == kind) & self._has(format), _bits(float(E4M3_MAX)), value)
        return value
