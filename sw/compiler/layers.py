"""The program of a decoder: a walk over the stages of its layers (docs/machine.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import or_
from typing import Any

import numpy as np
import numpy.typing as npt

from ...block_choice import summary_beats
from ...config import BuildConfig
from ...decoder import Combine, Stage, Values
from ...descriptors import Buffers, Descriptor, Fetch, Flag, Format, Opcode
from ...errors import HwgenError
from ...formats import rotary_rows, score_constant
from ...key_centers import key_rows
from ...layout import KV_FORMATS, KvBlockLayout, pad_beats, vectors_of
from ...rounding import align, ceil_div
from ...weights import LayerWeights
from .head_parameters import HeadParameters, check_biases, load_parameters
from .mixing import Mixing, check_formats
from .placement import FRAME_BYTES, REGION_ALIGNMENT, SEGMENT_ALIGNMENT, SegmentPlan, check_fit, parameter_place, plan_scratch

__all__ = ["Bytes", "ModelCompiler", "NormSource", "Panel", "Span"]

Bytes = npt.NDArray[np.uint8]

#: How DRAIN combines results, gate functions aside; and those.
COMBINE = {Combine.STORE: Flag.STORE, Combine.MULTIPLY: Flag.MULTIPLY, Combine.ADD: Flag.ADD}
GATES = {"relu2": Flag.RELU2, "silu": Flag.SILU}


@dataclass(frozen=True)
class NormSource:
    """A norm, or a quantisation, and what it reads."""

    layer: int
    #: Scratch address of token 0, and vectors from one token to the next.
    address: int
    stride: int
    #: Elements.
    size: int
    #: Place of the gains, 0 or 1; None where there is no norm, only quantisation.
    gain: int | None
    #: Half of the activations that round 0 gets.
    half: int


@dataclass(frozen=True)
class Span:
    """Rows of one matrix in a panel: its scale, first vector in the panel, first vector of the target, and vectors."""

    scale: float
    first: int
    target: int
    vectors: int


@dataclass(frozen=True)
class Panel:
    """Rows that one LINEAR computes, and what they are."""

    command: Descriptor
    spans: tuple[Span, ...]
    #: Row scales for the parameter memory, where the panel has them: segment address and beats.
    row_scales: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class PlacedStage:
    """A stage of one layer, with what is around it."""

    stage: Stage
    source: NormSource
    #: Number of the norm in the layer, with whose first stage the gains of the next one are loaded; None behind that stage.
    loads: int | None
    #: The norm of round 0 was emitted by the stage before, whose results it reads.
    normed: bool
    #: The norm of the next stage, where that reads the results of this one: its round 0 is normed beside the last of several.
    following: NormSource | None


class ModelCompiler:
    """One compilation. Addresses are offsets: in the constants, in the embedding rows of a pass, in a KV page."""

    #: Format of norms, matrices and drains.
    linear_format = Format.NONE

    def __init__(self, config: BuildConfig, weights: Any, head: str = "exact", gain_vectors: int | None = None) -> None:
        s = weights.shape
        check_fit(config, s)
        check_biases(weights.layer)
        check_formats(config, weights.kv, weights.query)
        self.head_kind, self.config, self.shape, self.weights = head, config, s, weights
        self.inputs = weights.layer.inputs
        #: What is added to rotated keys, by layer; None where nothing is.
        self.key_rows = key_rows(config, weights)
        self.of_heads = HeadParameters(config, s, weights.layer, self.key_rows)
        gains = self._gain_vectors() if gain_vectors is None else gain_vectors
        #: Vectors of parameters besides rotary rows, and of the scratch besides those of tokens.
        self.gain_vectors, self.bias_vectors = gains + self.of_heads.vectors, self.of_heads.bias_vectors
        self.plan = plan_scratch(config, s, self.gain_vectors, self.bias_vectors)
        self.of_heads.first = self.plan.gains[0] + gains
        self.context = min(config.max_context, s.max_context)
        self.head_vectors = s.head_dim // config.width
        #: Format of attention.
        self.attention_format = KV_FORMATS[weights.kv] | (Format.FP8_QUERY if weights.query == "e4m3" else Format.NONE)
        self.mixing = Mixing(config, s, weights.kv)
        self.block = KvBlockLayout(config, s.head_dim, self.attention_format)
        self.head_bytes = align(self.block.bytes, SEGMENT_ALIGNMENT)
        self.layer_bytes = s.kv_heads * self.head_bytes
        self.page_bytes = align(s.layers * self.layer_bytes, REGION_ALIGNMENT)
        for source in (self.source(layer, number) for layer in (0, 1) for number in range(len(self.inputs))):
            if source.gain == 0 and source.size > s.hidden:  # this place has the size of the residual stream
                raise HwgenError("model", "norms of the residual stream and others do not take turns", "choose another model")
        #: Bytes of an embedding row in the buffer of the rows of a pass.
        self.row_bytes = align(self.row_beats(2 * s.hidden) * config.beat_bytes, SEGMENT_ALIGNMENT)
        self.memory = SegmentPlan()
        self.program: list[Descriptor] = []
        #: What follows the next LINEAR, which runs beside it: drains of the latest panel, and rotations of heads that are complete.
        self.undrained: list[Descriptor] = []
        #: Half of the accumulators that the latest panel uses.
        self.accumulator = 1

    def _gain_vectors(self) -> int:
        """Both places for gains: norms take turns, the first of them one of the residual stream."""
        sizes = [stages[0].reads.size(self.shape) for stages in self.inputs if stages[0].norm is not None] * 2
        return vectors_of(self.config, self.shape.hidden) + vectors_of(self.config, max(sizes[1::2]))

    # ---- matrices, of either format ------------------------------------------------------------------------------
    def panels(self, name: str, parts: Sequence[Any]) -> list[Panel]:
        """Place matrices of the same inputs one above the other (each padded to whole vectors of rows), cut into panels of about
        equal size.
        """
        raise NotImplementedError  # of the number format: TernaryCompiler, Int4Compiler

    def load_row_scales(self, panel: Panel, layer: int, tokens: dict[str, int]) -> tuple[int, Buffers]:
        """Where in the parameter memory the row scales of a panel are when it is drained, and which place that is; ternary panels
        have none.
        """
        return 0, Buffers.NONE

    def starts(self, parts: Sequence[Any]) -> tuple[list[int], list[int]]:
        """Vectors of rows of matrices one above the other, and the first vector of each."""
        vectors = [vectors_of(self.config, part.rows) for part in parts]
        return vectors, [sum(vectors[:i]) for i in range(len(parts))]

    def cuts(self, vectors: Sequence[int]) -> list[tuple[int, int]]:
        """First row and height of the panels of matrices that have so many vectors of rows, one above the other."""
        c = self.config
        step = c.block_step * c.rows
        total = align(sum(vectors) * c.width, step)
        rows = self.panel_height(total, step, [sum(vectors[:i]) * c.width for i in range(1, len(vectors))])
        return [(first, min(rows, total - first)) for first in range(0, total, rows)]

    def panel_height(self, total: int, step: int, seams: list[int]) -> int:
        """Rows of a panel: as few panels as possible, or one more where the first seam between matrices then is a seam of
        panels, so that the first matrix is complete early.
        """
        fewest = ceil_div(total, self.config.panel_rows)
        heights = [align(ceil_div(total, count), step) for count in (fewest, fewest + 1)]
        if seams and seams[0] % heights[0] and seams[0] % heights[1] == 0:
            return heights[1]
        return heights[0]

    # ---- operators -----------------------------------------------------------------------------------------------
    def emit(self, opcode: Opcode, **fields: object) -> None:
        self.program.append(Descriptor(opcode=opcode, **fields))  # type: ignore[arg-type]  # fields by name

    def rounds(self) -> list[dict[str, int]]:
        """Token ranges that the lanes work on at the same time."""
        chunk = self.plan.chunk
        size = ceil_div(chunk, ceil_div(chunk, self.config.tokens))
        return [{"token_start": start, "token_count": min(size, chunk - start)} for start in range(0, chunk, size)]

    def row_beats(self, row_bytes: int) -> int:
        """Beats of a row that is a segment of its own."""
        return pad_beats(self.config, ceil_div(row_bytes, self.config.beat_bytes))

    def rows(self, name: str, count: int, row_bytes: int, make: Callable[[], npt.NDArray[np.generic]]) -> tuple[int, int, int]:
        """A table of ``count`` rows, each a segment of its own: ``(offset, beats, stride)``."""
        c = self.config
        beats = self.row_beats(row_bytes)
        stride = align(beats * c.beat_bytes, SEGMENT_ALIGNMENT)

        def table() -> Bytes:
            data = np.ascontiguousarray(make()).view(np.uint8).reshape(count, -1)
            full = np.zeros((count, stride), np.uint8)
            full[:, : data.shape[1]] = data
            return full.reshape(-1)

        self.memory.align(REGION_ALIGNMENT)
        return self.memory.add(name, count * stride, table), beats, stride

    def norm(self, source: NormSource, tokens: dict[str, int], i: int = 0, flags: Flag = Flag.NONE, first: int = 0) -> None:
        """Round ``i`` of a norm; ``first``: vector of the activations where a token begins."""
        to_query = Flag.TO_QUERY in flags
        plain = Format.PLAIN if source.gain is None else Format.NONE
        self.emit(
            Opcode.NORM, layer=source.layer, flags=flags,
            buffers=parameter_place(source.gain or 0) | (Buffers.NONE if to_query else self.half(source, i)),
            format=Format.NONE if to_query else self.linear_format | plain,
            vectors=vectors_of(self.config, source.size), src=source.address, src_stride=source.stride, dst=first,
            param=0 if source.gain is None else self.plan.gains[source.gain],
            # without a norm the root mean square is 1: 0 times the mean square, plus 1
            scalar0=0.0 if plain else float(np.float32(1.0 / source.size)),
            scalar1=1.0 if plain else float(np.float32(self.shape.rms_eps)), **tokens,
        )

    @staticmethod
    def half(source: NormSource, i: int = 0) -> Buffers:
        """Half of the activation memory that round ``i`` behind a norm uses."""
        return Buffers.ACTIVATION if (source.half + i) % 2 else Buffers.NONE

    def next_accumulator(self) -> Buffers:
        """Half of the accumulators of the next panel."""
        self.accumulator ^= 1
        return Buffers.ACCUMULATOR if self.accumulator else Buffers.NONE

    def place(self, values: Values) -> tuple[int, int]:
        """Scratch address of token 0, and vectors from one token to the next."""
        return getattr(self.plan, values.value), getattr(self.plan, f"{values.value}_stride")

    def drain(self) -> None:
        """What follows the latest panel."""
        self.program += self.undrained
        self.undrained = []

    # ---- stages --------------------------------------------------------------------------------------------------
    def source(self, layer: int, number: int) -> NormSource:
        """Norm ``number`` of a layer; behind its last one comes the first of the next layer, or the final norm."""
        layer, number = layer + number // len(self.inputs), number % len(self.inputs)
        stage = self.inputs[number][0]
        gains = [stages[0].norm is not None for stages in self.inputs]
        place = (layer * sum(gains) + sum(gains[:number])) % 2 if gains[number] else None
        half = (layer * len(gains) + number) * len(self.rounds()) % 2
        return NormSource(layer, *self.place(stage.reads), stage.reads.size(self.shape), place, half)

    def stages(self, layer: int) -> Iterator[PlacedStage]:
        """The stages of a layer, placed."""
        last = self.inputs[-1][-1].writes if layer else None
        for number, group in enumerate(self.inputs):
            source, following = self.source(layer, number), self.source(layer, number + 1)
            reads = self.inputs[(number + 1) % len(self.inputs)][0].reads
            for i, stage in enumerate(group):
                ahead = i + 1 == len(group) and reads is stage.writes and following.layer < self.shape.layers
                yield PlacedStage(stage, source, None if i else number, last is stage.reads, following if ahead else None)
                last = stage.writes

    def load_following_gains(self, layer: int, number: int, weights: LayerWeights) -> None:
        """Gains of the norm that has some behind norm ``number`` of the layer of ``weights``, if that has some itself: into the
        place that this one leaves.
        """
        if self.inputs[number][0].norm is None:
            return
        while (source := self.source(layer, number := number + 1)).gain is None:
            pass
        if source.layer == self.shape.layers:
            self.load_gains("norm", self.weights.norm, source, Flag.LOGITS)
            return
        if source.layer != layer:
            weights = self.weights.layers[source.layer]
        self.load_layer_gains(source, number % len(self.inputs), weights)

    def load_layer_gains(self, source: NormSource, number: int, weights: LayerWeights) -> None:
        """Gains of norm ``number`` of a layer."""
        name = self.inputs[number][0].norm
        assert name is not None
        self.load_gains(f"layers.{source.layer}.{name}", weights.norms[name], source)

    def load_gains(self, name: str, values: npt.NDArray[np.float32], source: NormSource, flags: Flag = Flag.NONE) -> None:
        """Gains to their place in the parameter memory."""
        assert source.gain is not None
        place = self.plan.gains[source.gain]
        self.program.append(load_parameters(
            self.config, self.memory, name, values, dst=place, layer=source.layer, flags=flags, buffers=parameter_place(source.gain)
        ))

    def project(self, placed: PlacedStage, weights: LayerWeights, roped: list[int]) -> None:
        """A norm and its matrices, for every round of tokens.

        While the engine works on one round of tokens, the round before is drained and the next one normed, across matrices too.
        """
        stage, source, rounds = placed.stage, placed.source, self.rounds()
        panels = self.panels(f"layers.{source.layer}.{stage.name}", [weights.matrices[name] for name in stage.matrices])
        same_input = placed.loads is None
        renew = not same_input or len(rounds) > 2
        flags = Flag.MULTI if same_input else Flag.NONE
        if renew and not (placed.normed and len(rounds) > 1):
            self.drain()
            self.norm(source, rounds[0], flags=flags)
        if placed.loads is not None:
            self.load_following_gains(source.layer, placed.loads, weights)
        if stage.writes is Values.HEADS:
            self.program += self.of_heads.load(self.memory, self.plan, source.layer, weights)
        replay = len(panels) == 1 and panels[0].command.stream_beats <= self.config.replay_beats
        for i, tokens in enumerate(rounds):
            for j, panel in enumerate(panels):
                command = panel.command
                if replay:
                    command = replace(command, flags=Flag.REPLAY if i + 1 < len(rounds) else Flag.NONE)
                    if i:
                        command = replace(command, fetch=Fetch.NONE)
                self.linear(panel, command, placed, i, tokens)
                if stage.writes is Values.HEADS:
                    roped[i] = self.rope(source.layer, tokens, max(s.target + s.vectors for s in panel.spans), roped[i])
                if j:
                    continue
                if renew and i + 1 < len(rounds):
                    self.norm(source, rounds[i + 1], i + 1, flags)
                elif i and i + 1 == len(rounds) and placed.following is not None:
                    self.norm(placed.following, rounds[0])

    def linear(self, panel: Panel, command: Descriptor, placed: PlacedStage, i: int, tokens: dict[str, int]) -> None:
        """One panel for one round of tokens, beside the drains of the one before; its own wait in ``self.undrained``."""
        layer, combine = placed.source.layer, placed.stage.combine
        param, place = self.load_row_scales(panel, layer, tokens)
        accumulator = self.next_accumulator()
        buffers = accumulator | self.half(placed.source, i)
        self.program.append(replace(command, layer=layer, buffers=buffers, **tokens))  # type: ignore[arg-type]  # fields by name
        self.drain()
        address, stride = self.place(placed.stage.writes)
        flag = GATES[self.shape.activation] if combine is Combine.ACTIVATE else COMBINE[combine]
        if placed.stage.biases:
            flag = Flag.ADD
        for span in panel.spans:
            target = address + span.target
            source = {"src": target, "src_stride": stride} if combine in (Combine.MULTIPLY, Combine.ADD) else {}
            if placed.stage.biases:  # one row for all tokens
                source = {"src": self.plan.bias + span.target}
            self.undrained.append(
                Descriptor(
                    opcode=Opcode.DRAIN, layer=layer, flags=flag, buffers=accumulator | place, format=self.linear_format,
                    vectors=span.vectors, row_blocks=span.first, dst=target, dst_stride=stride, scalar0=span.scale, param=param,
                    **source,  # type: ignore[arg-type]  # fields by name
                    **tokens,  # type: ignore[arg-type]
                )
            )

    # ---- attention -----------------------------------------------------------------------------------------------
    def heads(self, layer: int) -> dict[str, int]:
        s = self.shape
        return {"layer": layer, "heads": s.heads, "kv_heads": s.kv_heads, "head_vectors": self.head_vectors}

    def rope(self, layer: int, tokens: dict[str, int], ready: int, first: int) -> int:
        """Rotate and quantise the kinds of heads whose rows are all drained when ``ready`` vectors of ``tokens`` are, from kind
        ``first`` on; the first kind that is not.
        """
        p, s = self.plan, self.shape
        sizes = [vectors_of(self.config, rows) for rows in (s.q_rows, s.kv_rows, s.kv_rows)]
        last = sum(sum(sizes[: i + 1]) <= ready for i in range(len(sizes)))
        if first == last:
            return first
        start = p.qkv + sum(sizes[:first])
        param, param_stride = self.of_heads.rotary(layer)
        self.undrained += self.of_heads.norms(p, layer, first, last, tokens)
        self.undrained += self.mixing.mixed(
            Descriptor(
                opcode=Opcode.ROPE,
                **self.heads(layer),  # type: ignore[arg-type]  # fields by name
                flags=reduce(or_, (Flag.QUERIES, Flag.KEYS, Flag.VALUES)[first:last]),
                src=start, src_stride=p.qkv_stride, dst=start, dst_stride=p.qkv_stride, param=param, param_stride=param_stride,
                scalar0=score_constant(s.head_dim, Format.FP8_QUERY in self.attention_format, len(self.mixing.of_keys)),
                format=self.attention_format,
                **tokens,  # type: ignore[arg-type]
            ),
            None if self.of_heads.key_row is None else p.bias + self.of_heads.key_row,
        )
        return last

    def attention(self, layer: int) -> None:
        p = self.plan
        heads = {**self.heads(layer), "token_count": p.chunk, "format": self.attention_format & ~Format.FP8_QUERY}
        queries = {**heads, "format": self.attention_format}
        cache = {
            "stream_address": layer * self.layer_bytes,
            "stream_beats": self.block.beats,
            "stride": FRAME_BYTES,
            "head_stride": self.head_bytes,
        }
        if self.config.kv_budget:
            summaries = {**cache, "stream_beats": summary_beats(self.config, self.block)}
            self.emit(Opcode.ATTENTION, **queries, **summaries, fetch=Fetch.SUMMARY, flags=Flag.CHOOSE)
        self.emit(Opcode.ATTENTION, **queries, **cache, fetch=Fetch.CACHE, dst=p.a, dst_stride=p.a_stride)
        self.program += self.mixing.turn_back(layer, p.a, p.a_stride, p.chunk)
        self.emit(Opcode.KV_WRITE, **heads, **cache)

    # ---- the whole pass ------------------------------------------------------------------------------------------
    def layer(self, i: int, weights: LayerWeights) -> None:
        """One decoder layer; its first gains are loaded, and it loads those of the norm after it."""
        roped = [0] * len(self.rounds())
        for placed in self.stages(i):
            self.project(placed, weights, roped)
            if placed.stage.writes is Values.HEADS:
                self.drain()
                self.attention(i)

    def first_operators(self) -> None:
        p, s = self.plan, self.shape
        offset, beats, stride = self.rows(
            "rotary", self.context, 4 * s.head_dim, lambda: rotary_rows(s, np.arange(self.context))
        )
        self.emit(
            Opcode.ROTARY, fetch=Fetch.POSITION, token_count=p.chunk, vectors=self.head_vectors, dst=0,
            dst_stride=self.head_vectors, stream_address=offset, stream_beats=beats, stride=stride,
        )
        self.emit(
            Opcode.EMBED, fetch=Fetch.TOKEN, token_count=p.chunk, vectors=p.x_stride, dst=p.x, dst_stride=p.x_stride,
            stream_address=0, stream_beats=self.row_beats(2 * s.hidden), stride=self.row_bytes,
        )
        self.program += self.of_heads.load_once(self.memory)

    def head(self) -> None:
        """The final norm and logits of the wanted tokens, as many at a time as the lanes take."""
        self.drain()
        source, panels = self.source(self.shape.layers, 0), self.head_panels()
        for i, tokens in enumerate(self.rounds()):
            self.head_norm(source, tokens, i)
            self.head_rows(panels, self.half(source, i), tokens)

    def head_panels(self) -> list[Panel]:
        """Place the rows of the head; their panels, in whose spans ``target`` counts vectors of the vocabulary."""
        raise NotImplementedError  # of the number format: TernaryCompiler, Int4Compiler

    def head_rows(self, panels: list[Panel], half: Buffers, tokens: dict[str, int]) -> None:
        """Logits of some wanted tokens, whose activations are in ``half``."""
        raise NotImplementedError  # of the number format: TernaryCompiler, Int4Compiler

    def head_norm(self, source: NormSource, tokens: dict[str, int], i: int) -> None:
        """Activations of round ``i`` of the wanted tokens."""
        self.norm(source, tokens, i, Flag.LOGITS)

    def plan_program(self) -> None:
        """Every operator of a pass, and the place of everything in memory."""
        self.first_operators()
        self.load_layer_gains(self.source(0, 0), 0, self.weights.layers[0])
        for i, weights in enumerate(self.weights.layers):
            self.layer(i, weights)
        self.head()
        self.memory.align(REGION_ALIGNMENT)
