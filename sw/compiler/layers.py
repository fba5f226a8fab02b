"""Compiler: weights of a model and a build configuration -> memory image and program (docs/machine.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from operator import or_
from typing import Any

import numpy as np
import numpy.typing as npt

from ...config import TRITS_PER_BYTE, BuildConfig
from ...descriptors import DESCRIPTOR_BYTES, PROGRAM_PADDING, Buffers, Descriptor, Fetch, Flag, Format, Opcode
from ...errors import HwgenError
from ...layout import (
    ZERO_BYTE,
    KvBlockLayout,
    arrange_ternary,
    blob_beats,
    head_block_beats,
    matrix_shape,
    pack_head,
    pad_beats,
    to_planes,
    vectors_of,
)
from ...llama import LlamaLayer, LlamaWeights
from ...rounding import align, ceil_div
from ...shape import ModelShape
from ...weights import LayerWeights, ModelWeights, TernaryMatrix, flush, rotary_rows, score_constant
from ..progress import Ticker
from .image import REGION_ALIGNMENT, Image, relocate
from .placement import SEGMENT_ALIGNMENT, Region, SegmentPlan, check_fit, plan_scratch
from .programs import SlicedProgram, pack_slices
from .slices import plan_slices

__all__ = ["HEADS", "compile_model", "compiler_of", "plan_model"]

Bytes = npt.NDArray[np.uint8]

#: LM heads: exact int8 rows alone; or ternary scores of all rows, then exact logits of a short list of blocks.
HEADS = ("exact", "shortlist")

#: Rows of a table that are laid out at a time.
TABLE_ROWS = 4096


@dataclass(frozen=True)
class NormSource:
    """What a norm reads."""

    layer: int
    #: Scratch address of token 0, and vectors from one token to the next.
    address: int
    stride: int
    #: Elements.
    size: int
    #: Place of the gains, 0 or 1; None where there is no norm, only quantisation.
    gain: int | None


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
class Stage:
    """A norm with the matrices behind it."""

    source: NormSource
    #: Mode of DRAIN.
    mode: Flag
    #: Scratch address of token 0 of the results, and vectors from one token to the next.
    target: int
    target_stride: int
    #: The stage before used the same activations.
    same_input: bool = False
    #: The norm of round 0 was emitted by the stage before.
    normed: bool = False
    #: Emitted beside the last of several rounds: what the results of the rounds before allow.
    ahead: Callable[[], None] = lambda: None
    #: Emitted behind the drains of a panel, with the number of the round and how many of its vectors are drained.
    drained: Callable[[int, int], None] = lambda number, ready: None


class PackedRows:
    """Packed rows of matrices; the latest matrix is kept, since its panels come one after the other."""

    def __init__(self) -> None:
        self._latest: tuple[TernaryMatrix, Bytes] | None = None

    def of(self, matrix: TernaryMatrix) -> Bytes:
        if self._latest is None or self._latest[0] is not matrix:
            self._latest = matrix, matrix.packed()
        return self._latest[1]


class ModelCompiler:
    """One compilation. Offsets count from the end of the program until :meth:`image` knows how long that is."""

    #: Number formats of norms, matrices and drains; of attention.
    linear_format = Format.NONE
    attention_format = Format.NONE
    #: Norms in front of the output and the down projection.
    sub_norms = True

    def __init__(self, config: BuildConfig, weights: Any, head: str = "exact") -> None:
        if not config.has_ternary:
            raise HwgenError(
                "model", f"the model is ternary, build {config.name!r} has no ternary engine", "build with engine=ternary or both"
            )
        self._prepare(config, weights.shape, head)
        self.weights: Any = weights

    def _prepare(self, config: BuildConfig, shape: ModelShape, head: str, gains: int | None = None) -> None:
        check_fit(config, shape)
        if head not in HEADS:
            raise HwgenError("usage", f"{head!r} is not an LM head", f"use one of: {', '.join(HEADS)}")
        self.head_kind = head
        self.config, self.shape = config, shape
        self.gain_vectors = gains
        self.plan = plan_scratch(config, shape, gains)
        self.context = min(config.max_context, self.shape.max_context)
        self.head_vectors = self.shape.head_dim // config.width
        self.block = KvBlockLayout(config, self.shape.head_dim, Format.INT4_KV in self.attention_format)
        self.layer_bytes = align(self.shape.kv_heads * self.block.bytes, SEGMENT_ALIGNMENT)
        self.page_bytes = align(self.shape.layers * self.layer_bytes, REGION_ALIGNMENT)
        self.memory = SegmentPlan()
        self.packed = PackedRows()
        self.program: list[Descriptor] = []
        #: Drains of the latest panel: they follow the next LINEAR, which runs beside them.
        self.undrained: list[Descriptor] = []
        #: What comes behind them.
        self.after_drain: Callable[[], None] = lambda: None
        #: Half of the accumulators that the latest panel uses; place of the gains loaded last.
        self.accumulator, self.next_gain = 1, 1
        #: Half of the activations that round 0 of the present stage uses; rounds of the latest stage with a norm.
        self.first_half, self.last_rounds = 0, 0

    def emit(self, opcode: Opcode, **fields: object) -> None:
        self.program.append(Descriptor(opcode=opcode, **fields))  # type: ignore[arg-type]  # fields by name

    def rounds(self) -> Iterator[dict[str, int]]:
        """Token ranges that the lanes work on at the same time."""
        chunk = self.plan.chunk
        size = ceil_div(chunk, ceil_div(chunk, self.config.tokens))
        for start in range(0, chunk, size):
            yield {"token_start": start, "token_count": min(size, chunk - start)}

    def rows(self, name: str, count: int, row_bytes: int, make: Callable[[], npt.NDArray[np.generic]]) -> tuple[int, int, int]:
        """A table of ``count`` rows, each a segment of its own: ``(offset, beats, stride)``."""
        c = self.config
        beats = pad_beats(c, ceil_div(row_bytes, c.beat_bytes))
        stride = align(beats * c.beat_bytes, SEGMENT_ALIGNMENT)

        def table() -> Bytes:
            data = np.ascontiguousarray(make()).view(np.uint8).reshape(count, -1)
            full = np.zeros((count, stride), np.uint8)
            for first in range(0, count, TABLE_ROWS):
                part = data[first : first + TABLE_ROWS]
                plain = np.zeros((len(part), beats * c.beat_bytes), np.uint8)
                plain[:, : part.shape[1]] = part
                planes = plain.reshape(-1, beats, c.ports, c.port_bytes).transpose(0, 2, 1, 3)
                full[first : first + TABLE_ROWS, : plain.shape[1]] = planes.reshape(len(part), -1)
            return full.reshape(-1)

        self.memory.align(REGION_ALIGNMENT)
        return self.memory.add(name, count * stride, table), beats, stride

    def gains(self, name: str, values: npt.NDArray[np.float32], flags: Flag = Flag.NONE, layer: int = 0) -> None:
        """Gains of the norm after the next one to the parameter memory."""
        values = flush(values)
        self.next_gain ^= 1
        beats = pad_beats(self.config, ceil_div(values.nbytes, self.config.beat_bytes))
        address = self.memory.add(
            name, beats * self.config.beat_bytes, lambda: to_planes(self.config, blob_beats(self.config, values.view(np.uint8)))
        )
        self.emit(
            Opcode.PARAM,
            layer=layer,
            flags=flags,
            fetch=Fetch.STREAM,
            token_count=1,
            stream_address=address,
            stream_beats=beats,
            vectors=vectors_of(self.config, values.size),
            dst=self.plan.gains[self.next_gain],
        )

    def norm(self, source: NormSource, tokens: dict[str, int], *, buffers: Buffers = Buffers.NONE, flags: Flag = Flag.NONE) -> None:
        plain = Format.PLAIN if source.gain is None else Format.NONE
        self.emit(
            Opcode.NORM,
            layer=source.layer,
            flags=flags,
            buffers=buffers,
            format=Format.NONE if Flag.TO_QUERY in flags else self.linear_format | plain,
            vectors=vectors_of(self.config, source.size),
            src=source.address,
            src_stride=source.stride,
            param=0 if source.gain is None else self.plan.gains[source.gain],
            scalar0=float(np.float32(1.0 / source.size)),
            scalar1=float(np.float32(self.shape.rms_eps)),
            **tokens,
        )

    def panels(self, name: str, parts: list[TernaryMatrix]) -> list[Panel]:
        """Place matrices of the same inputs one above the other (each padded to whole vectors of rows), cut into panels
        of about equal size.
        """
        c, inputs = self.config, parts[0].inputs
        vectors = [vectors_of(c, part.rows) for part in parts]
        starts = [sum(vectors[:i]) for i in range(len(parts))]
        panels = []
        for i, (first, height) in enumerate(self.cuts(vectors)):
            slices, blocks = matrix_shape(c, height, inputs)
            self.memory.align(REGION_ALIGNMENT)
            make = partial(self.panel_bytes, parts, starts, first, height)
            address = self.memory.add(f"{name}.{i}", slices * blocks * c.beat_bytes, make)
            command = Descriptor(
                opcode=Opcode.LINEAR,
                fetch=Fetch.STREAM,
                slices=slices,
                row_blocks=blocks,
                stream_address=address,
                stream_beats=slices * blocks,
            )
            low, high = first // c.width, (first + height) // c.width
            spans = []
            for part, start, size in zip(parts, starts, vectors, strict=True):
                begin, end = max(low, start), min(high, start + size)
                if begin < end:
                    spans.append(Span(part.scale, begin - low, begin, end - begin))
            panels.append(Panel(command, tuple(spans)))
        return panels

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

    def panel_bytes(self, parts: list[TernaryMatrix], starts: list[int], first: int, height: int) -> Bytes:
        """Rows ``first`` .. ``first + height`` of matrices that begin at vectors ``starts``, as stored."""
        c, inputs = self.config, parts[0].inputs
        block = np.full((height, ceil_div(inputs, TRITS_PER_BYTE)), ZERO_BYTE, np.uint8)
        for part, start in zip(parts, starts, strict=True):
            top = start * c.width
            low, high = max(first, top), min(first + height, top + part.rows)
            if low < high:
                block[low - first : high - first] = self.packed.of(part)[low - top : high - top]
        return to_planes(c, arrange_ternary(c, block, inputs))

    def linear(self, panel: Panel, stage: Stage, i: int, rounds: int, *, replay: bool, tokens: dict[str, int]) -> None:
        """One panel for one round of tokens, beside the drains of the one before; its own wait in ``self.undrained``."""
        param = self.load_row_scales(panel, stage, tokens)
        self.accumulator ^= 1
        half = Buffers.ACCUMULATOR if self.accumulator else Buffers.NONE
        command = panel.command
        if replay:
            command = replace(command, flags=Flag.REPLAY if i + 1 < rounds else Flag.NONE)
            if i:
                command = replace(command, fetch=Fetch.NONE)
        self.program.append(
            replace(command, layer=stage.source.layer, buffers=half | self.activation_half(i), **tokens)  # type: ignore[arg-type]
        )
        self.drain()
        ready = max(span.target + span.vectors for span in panel.spans)
        self.after_drain = partial(stage.drained, i, ready)
        adds = stage.mode & (Flag.MULTIPLY | Flag.ADD)
        for span in panel.spans:
            target = stage.target + span.target
            source = {"src": target, "src_stride": stage.target_stride} if adds else {}
            self.undrained.append(
                Descriptor(
                    opcode=Opcode.DRAIN,
                    layer=stage.source.layer,
                    flags=stage.mode,
                    buffers=half,
                    vectors=span.vectors,
                    row_blocks=span.first,
                    dst=target,
                    dst_stride=stage.target_stride,
                    scalar0=span.scale,
                    param=param,
                    format=self.linear_format,
                    **source,  # type: ignore[arg-type]  # fields by name
                    **tokens,  # type: ignore[arg-type]
                )
            )

    def load_row_scales(self, panel: Panel, stage: Stage, tokens: dict[str, int]) -> int:
        """Where in the parameter memory the row scales of a panel are when it is drained; ternary panels have none."""
        return 0

    def drain(self) -> None:
        """The drains of the latest panel."""
        self.program += self.undrained
        self.undrained = []
        then, self.after_drain = self.after_drain, lambda: None
        then()

    def activation_half(self, i: int) -> Buffers:
        """Half of the activation memory that round ``i`` of the present stage uses."""
        return Buffers.ACTIVATION if (self.first_half + i) % 2 else Buffers.NONE

    def project(self, name: str, stage: Stage, parts: list[Any], before: Callable[[], None] = lambda: None) -> None:
        """A norm and its matrices, for every round of tokens. ``before`` is emitted ahead of the first panel."""
        rounds = list(self.rounds())
        panels = self.panels(f"layers.{stage.source.layer}.{name}", parts)
        renew = not stage.same_input or len(rounds) > 2
        flags = Flag.MULTI if stage.same_input else Flag.NONE
        if not stage.same_input:
            self.first_half ^= self.last_rounds & 1
            self.last_rounds = len(rounds)
        if renew and not stage.normed:
            self.drain()
            self.norm(stage.source, rounds[0], buffers=self.activation_half(0), flags=flags)
        before()
        replay = len(panels) == 1 and panels[0].command.stream_beats <= self.config.ring_beats - 2 * self.config.burst
        for i, tokens in enumerate(rounds):
            for j, panel in enumerate(panels):
                self.linear(panel, stage, i, len(rounds), replay=replay, tokens=tokens)
                if j:
                    continue
                if renew and i + 1 < len(rounds):
                    self.norm(stage.source, rounds[i + 1], buffers=self.activation_half(i + 1), flags=flags)
                elif i and i + 1 == len(rounds):
                    stage.ahead()

    def heads(self, layer: int) -> dict[str, int]:
        s = self.shape
        return {"layer": layer, "heads": s.heads, "kv_heads": s.kv_heads, "head_vectors": self.head_vectors}

    def rope(self, layer: int, tokens: dict[str, int], ready: int, done: dict[str, int]) -> None:
        """Rotate and quantise the kinds of heads whose rows are all drained: ``ready`` vectors of ``tokens`` are. ``done`` counts
        the kinds that were.
        """
        p, s = self.plan, self.shape
        sizes = [vectors_of(self.config, rows) for rows in (s.q_rows, s.kv_rows, s.kv_rows)]
        ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
        first, last = done["kinds"], sum(end <= ready for end in ends)
        if first == last:
            return
        done["kinds"] = last
        start = p.qkv + sum(sizes[:first])
        kinds = (Flag.QUERIES, Flag.KEYS, Flag.VALUES)[first:last]
        self.emit(
            Opcode.ROPE,
            **self.heads(layer),
            flags=reduce(or_, kinds),
            src=start,
            src_stride=p.qkv_stride,
            dst=start,
            dst_stride=p.qkv_stride,
            param=0,
            param_stride=self.head_vectors,
            scalar0=score_constant(s.head_dim, Format.FP8_QUERY in self.attention_format),
            format=self.attention_format,
            **tokens,
        )

    def attention(self, layer: int) -> None:
        p = self.plan
        heads = {**self.heads(layer), "token_count": p.chunk, "format": self.attention_format & ~Format.FP8_QUERY}
        cache = {
            "stream_address": layer * self.layer_bytes,
            "stream_beats": self.block.beats,
            "stride": self.page_bytes,
            "head_stride": self.block.bytes,
        }
        self.emit(
            Opcode.ATTENTION, **{**heads, "format": self.attention_format}, **cache, fetch=Fetch.CACHE, dst=p.a,
            dst_stride=p.a_stride,
        )
        self.emit(Opcode.KV_WRITE, **heads, **cache)

    def layer(self, i: int, w: LayerWeights | LlamaLayer) -> None:
        """One decoder layer; its first gains are loaded, and it loads those of the norm after it.

        While the engine works on one round of tokens, the round before is drained and the next one normed, across
        matrices too: ``ahead`` is the first step of the following stage, emitted when its token's results are there.
        """
        p, s = self.plan, self.shape
        gate = Flag.RELU2 if s.activation == "relu2" else Flag.SILU
        name = f"layers.{i}"
        rounds = list(self.rounds())
        roped = [{"kinds": 0} for _ in rounds]
        several = len(rounds) > 1
        gain = self.next_gain
        # Norms in their order, the last that of the next layer; without sub-norms the odd ones only quantise.
        norms = ("input_layernorm", "attn_sub_norm", "post_attention_layernorm", "ffn_sub_norm")
        step = 1 if self.sub_norms else 2

        def source(address: int, stride: int, size: int, number: int) -> NormSource:
            place = (gain + number // step) % 2 if number % step == 0 else None
            return NormSource(i + number // len(norms), address, stride, size, place)

        def load_after(number: int) -> Callable[[], None]:
            """Gains of the norm that has some behind norm ``number``, if that has some itself."""

            def emit() -> None:
                following = number + step
                if number % step == 0 and following < len(norms):
                    self.gains(f"{name}.{norms[following]}", getattr(w, norms[following]), layer=i)
                elif number % step == 0:
                    self.following_gains(i)

            return emit

        def ahead(of: NormSource) -> Callable[[], None]:
            def emit() -> None:
                half = (self.first_half + self.last_rounds) % 2
                self.norm(of, rounds[0], buffers=Buffers.ACTIVATION if half else Buffers.NONE)

            return emit

        inputs = source(p.x, p.x_stride, s.hidden, 0)
        attended = source(p.a, p.a_stride, s.q_rows, 1)
        residual = source(p.x, p.x_stride, s.hidden, 2)
        product = source(p.g, p.g_stride, s.ffn, 3)
        outputs = source(p.x, p.x_stride, s.hidden, 4)
        self.project(
            "qkv",
            Stage(inputs, Flag.STORE, p.qkv, p.qkv_stride, normed=several and i > 0,
                  drained=lambda number, ready: self.rope(i, rounds[number], ready, roped[number])),
            [w.q, w.k, w.v],
            before=load_after(0),
        )
        self.drain()
        self.attention(i)
        self.project("o", Stage(attended, Flag.ADD, p.x, p.x_stride, ahead=ahead(residual)), [w.o], before=load_after(1))
        self.project("gate", Stage(residual, gate, p.g, p.g_stride, normed=several), [w.gate], before=load_after(2))
        self.project(
            "up", Stage(residual, Flag.MULTIPLY, p.g, p.g_stride, same_input=True, ahead=ahead(product)), [w.up]
        )
        last = i + 1 == s.layers
        self.project(
            "down",
            Stage(product, Flag.ADD, p.x, p.x_stride, normed=several, ahead=(lambda: None) if last else ahead(outputs)),
            [w.down],
            before=load_after(3),
        )

    def first_operators(self) -> None:
        p, s = self.plan, self.shape
        offset, beats, stride = self.rows(
            "rotary", self.context, 4 * s.head_dim, lambda: rotary_rows(s, np.arange(self.context))
        )
        self.emit(
            Opcode.ROTARY,
            fetch=Fetch.POSITION,
            token_count=p.chunk,
            vectors=self.head_vectors,
            dst=0,
            dst_stride=self.head_vectors,
            stream_address=offset,
            stream_beats=beats,
            stride=stride,
        )
        offset, beats, stride = self.rows("embedding", s.vocab, 2 * s.hidden, self.weights.embedding_bits)
        self.emit(
            Opcode.EMBED,
            fetch=Fetch.TOKEN,
            token_count=p.chunk,
            vectors=p.x_stride,
            dst=p.x,
            dst_stride=p.x_stride,
            stream_address=offset,
            stream_beats=beats,
            stride=stride,
        )

    def following_gains(self, i: int) -> None:
        """Gains of the norm behind layer ``i``."""
        layers = self.weights.layers
        if i + 1 < len(layers):
            self.gains(f"layers.{i + 1}.input_layernorm", layers[i + 1].input_layernorm, layer=i + 1)
        else:
            self.gains("norm", self.weights.norm, Flag.LOGITS, layer=len(layers))

    def head(self) -> None:
        p, s, c = self.plan, self.shape, self.config
        self.drain()
        self.norm(
            NormSource(s.layers, p.x, p.x_stride, s.hidden, self.next_gain),
            {"token_count": 1},
            flags=Flag.LOGITS | Flag.LAST | Flag.TO_QUERY,
        )
        blocks = ceil_div(s.vocab, c.kv_block)
        self.memory.align(REGION_ALIGNMENT)
        beats = blocks * head_block_beats(c, s.hidden)
        address = self.memory.add(
            "head", beats * c.beat_bytes, lambda: to_planes(c, pack_head(c, *self.weights.quantized_head()))
        )
        self.emit(
            Opcode.HEAD,
            layer=s.layers,
            flags=Flag.LOGITS | Flag.LAST,
            fetch=Fetch.STREAM,
            token_count=1,
            vectors=vectors_of(c, s.hidden),
            row_blocks=blocks,
            stream_address=address,
            stream_beats=beats,
            stride=s.vocab,
        )

    def short_head(self) -> None:
        """Scores of all rows from the ternary head, then exact logits of the blocks of the short list."""
        p, s, c = self.plan, self.shape, self.config
        last = Flag.LOGITS | Flag.LAST
        matrix, scales = self.weights.short_head()
        panels = self.panels("short_head", [matrix])
        half = self.activation_half(self.last_rounds)
        source = NormSource(s.layers, p.x, p.x_stride, s.hidden, self.next_gain)
        self.drain()
        self.norm(source, {"token_count": 1}, flags=last, buffers=half)
        self.norm(source, {"token_count": 1}, flags=last | Flag.TO_QUERY)
        # Behind the residual stream the scratch is free: scores of a panel, then row scales of as many panels as fit.
        scores = p.qkv
        first_scale = scores + c.panel_vectors
        room = (c.scratch_vectors - first_scale) // c.panel_vectors
        if room < 1:
            raise HwgenError(
                "model",
                f"the short-list head needs {first_scale + c.panel_vectors} vectors of scratch, build {c.name!r} has "
                f"scratch_vectors={c.scratch_vectors}",
                "use --head exact, or build with smaller panel_rows or larger scratch_vectors",
            )
        for number, panel in enumerate(panels):
            (span,) = panel.spans
            if number % room == 0:
                self.drain()
                base = span.target
                count = sum(part.spans[0].vectors for part in panels[number : number + room])
                rows = scales[base * c.width : (base + count) * c.width]
                self.row_scales(f"short_head.scales.{number // room}", rows, count, first_scale)
            self.accumulator ^= 1
            accumulator = Buffers.ACCUMULATOR if self.accumulator else Buffers.NONE
            self.program.append(
                replace(panel.command, layer=s.layers, flags=last, buffers=half | accumulator, token_count=1)
            )
            self.drain()
            self.undrained.append(
                Descriptor(
                    opcode=Opcode.DRAIN,
                    layer=s.layers,
                    flags=last | Flag.MULTIPLY | Flag.SHORTLIST,
                    buffers=accumulator,
                    token_count=1,
                    vectors=span.vectors,
                    row_blocks=span.first,
                    src=first_scale + span.target - base,
                    dst=scores,
                    scalar0=span.scale,
                    stride=span.target * c.width,
                    head_stride=s.vocab,
                )
            )
        self.drain()
        blocks = ceil_div(s.vocab, c.kv_block)
        beats = head_block_beats(c, s.hidden)

        def table() -> Bytes:
            data = pack_head(c, *self.weights.quantized_head()).reshape(blocks, beats, c.ports, c.port_bytes)
            return np.ascontiguousarray(data.transpose(0, 2, 1, 3)).reshape(-1)

        self.memory.align(REGION_ALIGNMENT)
        self.emit(
            Opcode.HEAD,
            layer=s.layers,
            flags=last,
            fetch=Fetch.SHORTLIST,
            token_count=1,
            vectors=vectors_of(c, s.hidden),
            row_blocks=min(c.shortlist, blocks),
            stream_address=self.memory.add("head", blocks * beats * c.beat_bytes, table),
            stream_beats=beats,
            stride=s.vocab,
            head_stride=beats * c.beat_bytes,
        )

    def row_scales(self, name: str, scales: npt.NDArray[np.uint16], vectors: int, dst: int) -> None:
        """bf16 scales of vocabulary rows to the scratch."""
        c = self.config
        beats = pad_beats(c, ceil_div(2 * vectors * c.width, c.beat_bytes))
        address = self.memory.add(name, beats * c.beat_bytes, lambda: to_planes(c, blob_beats(c, scales.view(np.uint8))[:beats]))
        self.emit(
            Opcode.EMBED,
            layer=self.shape.layers,
            flags=Flag.LOGITS | Flag.LAST,
            fetch=Fetch.STREAM,
            token_count=1,
            vectors=vectors,
            dst=dst,
            stream_address=address,
            stream_beats=beats,
        )

    def plan_program(self) -> None:
        """Every operator of a pass, and the place of everything in memory."""
        self.first_operators()
        layers = self.weights.layers
        self.gains("layers.0.input_layernorm", layers[0].input_layernorm)
        for i, weights in enumerate(layers):
            self.layer(i, weights)
        if self.head_kind == "shortlist":
            self.short_head()
        else:
            self.head()
        self.memory.align(REGION_ALIGNMENT)

    def image(self, name: str, progress: Callable[[str], None]) -> Image:
        ticker = Ticker(progress)
        self.plan_program()
        sliced = plan_slices(self)
        if sliced is not None:
            size = len(pack_slices(sliced)[0])
            self.memory.add("slices", size, lambda: np.zeros(size, np.uint8))  # written with their addresses, as the program is
            self.memory.align(REGION_ALIGNMENT)
        used = (len(self.program) + PROGRAM_PADDING) * DESCRIPTOR_BYTES
        start = align(used, REGION_ALIGNMENT)
        constants = start + self.memory.end
        logits = pad_beats(self.config, ceil_div(4 * self.shape.vocab, self.config.beat_bytes)) * self.config.beat_bytes
        kv = constants + align(logits, REGION_ALIGNMENT)
        pages = ceil_div(self.context, self.config.kv_block)

        def placed(program: Iterable[Descriptor]) -> tuple[Descriptor, ...]:
            return tuple(relocate(program, start, kv))

        if sliced is not None:
            sliced = SlicedProgram(placed(sliced.beside), tuple(map(placed, sliced.slices)))
        symbols = {"program": Region(0, used)}
        data = np.zeros(constants, np.uint8)
        for symbol, segment in self.memory.segments.items():
            ticker.tick(f"packing {symbol}")
            region = Region(segment.region.offset + start, segment.region.bytes)
            symbols[symbol] = region
            data[region.offset : region.offset + region.bytes] = segment.make()
        symbols.update({"logits": Region(constants, logits), "kv": Region(kv, pages * self.page_bytes)})
        return Image(
            config=self.config,
            shape=self.shape,
            name=name,
            descriptors=placed(self.program),
            data=data,
            symbols=symbols,
            total_bytes=kv + pages * self.page_bytes,
            chunk=self.plan.chunk,
            context=self.context,
            page_bytes=self.page_bytes,
            sliced=sliced,
        )


def compiler_of(config: BuildConfig, weights: ModelWeights | LlamaWeights, head: str = "exact") -> ModelCompiler:
    """The compiler of the family that a model belongs to."""
    if weights.engine == ModelWeights.engine:
        return ModelCompiler(config, weights, head)
    from .int4 import LlamaCompiler  # which is made of this module's parts

    return LlamaCompiler(config, weights, head)


def plan_model(config: BuildConfig, weights: ModelWeights | LlamaWeights, head: str = "exact") -> tuple[list[Descriptor], int]:
    """Operators of a pass (addresses relative to nothing) and tokens of a pass, without a byte of weights."""
    compiler = compiler_of(config, weights, head)
    compiler.plan_program()
    return compiler.program, compiler.plan.chunk


def compile_model(
    config: BuildConfig,
    weights: ModelWeights | LlamaWeights,
    *,
    name: str = "model",
    head: str = "exact",
    progress: Callable[[str], None] = lambda text: None,
) -> Image:
    """Image and program of a model, with one of `HEADS`; :class:`HwgenError` of kind ``model`` where it does not fit the build."""
    return compiler_of(config, weights, head).image(name, progress)
