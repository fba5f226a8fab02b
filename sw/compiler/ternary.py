"""Ternary matrices in panels, and the LM head with a short list."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from ...config import TRITS_PER_BYTE, BuildConfig
from ...descriptors import Buffers, Descriptor, Fetch, Flag, Opcode
from ...errors import HwgenError
from ...layout import (
    ZERO_BYTE,
    arrange_ternary,
    blob_beats,
    head_block_beats,
    matrix_shape,
    pack_head,
    pad_beats,
    vectors_of,
)
from ...rounding import align, ceil_div
from .layers import Bytes, ModelCompiler, NormSource, Panel, Span
from .placement import REGION_ALIGNMENT, SEGMENT_ALIGNMENT

__all__ = ["TernaryCompiler"]


class PackedRows:
    """Packed rows of matrices; the latest matrix is kept, since its panels come one after the other."""

    def __init__(self) -> None:
        self._latest: tuple[Any, Bytes] | None = None

    def of(self, matrix: Any) -> Bytes:
        if self._latest is None or self._latest[0] is not matrix:
            self._latest = matrix, matrix.packed()
        return self._latest[1]


class TernaryCompiler(ModelCompiler):
    """One compilation of a model with ternary matrices."""

    def __init__(self, config: BuildConfig, weights: Any, head: str = "exact") -> None:
        if not config.has_ternary:
            raise HwgenError(
                "model", f"the model is ternary, build {config.name!r} has no ternary engine", "build with engine=ternary or both"
            )
        super().__init__(config, weights, head)
        self.packed = PackedRows()

    def panels(self, name: str, parts: Sequence[Any]) -> list[Panel]:
        c, inputs = self.config, parts[0].inputs
        vectors, starts = self.starts(parts)
        panels = []
        for i, (first, height) in enumerate(self.cuts(vectors)):
            command = self.panel_command(height, inputs)
            self.memory.align(REGION_ALIGNMENT)
            make = partial(self.panel_bytes, parts, starts, first, height)
            address = self.memory.add(f"{name}.{i}", command.stream_beats * c.beat_bytes, make)
            command = replace(command, stream_address=address)
            low, high = first // c.width, (first + height) // c.width
            spans = []
            for part, start, size in zip(parts, starts, vectors, strict=True):
                begin, end = max(low, start), min(high, start + size)
                if begin < end:
                    spans.append(Span(part.scale, begin - low, begin, end - begin))
            panels.append(Panel(command, tuple(spans)))
        return panels

    def panel_command(self, height: int, inputs: int) -> Descriptor:
        """LINEAR of a panel of ``height`` rows, which lies nowhere yet."""
        slices, blocks = matrix_shape(self.config, height, inputs)
        return Descriptor(
            opcode=Opcode.LINEAR, fetch=Fetch.STREAM, slices=slices, row_blocks=blocks, stream_beats=slices * blocks
        )

    def panel_bytes(self, parts: Sequence[Any], starts: list[int], first: int, height: int) -> Bytes:
        """Rows ``first`` .. ``first + height`` of matrices that begin at vectors ``starts``, as stored."""
        inputs = parts[0].inputs
        block = np.full((height, ceil_div(inputs, TRITS_PER_BYTE)), ZERO_BYTE, np.uint8)
        for part, to, of in self.rows_of(parts, starts, first, height):
            block[to] = self.packed.of(part)[of]
        return arrange_ternary(self.config, block, inputs).reshape(-1)

    def rows_of(self, parts: Sequence[Any], starts: list[int], first: int, height: int) -> Iterator[tuple[Any, slice, slice]]:
        """Matrices of a panel, with the rows of the panel that are theirs and their rows that these are."""
        for part, start in zip(parts, starts, strict=True):
            top = start * self.config.width
            low, high = max(first, top), min(first + height, top + part.rows)
            if low < high:
                yield part, slice(low - first, high - first), slice(low - top, high - top)

    def head(self) -> None:
        """Exact logits, of all rows or of the blocks of a short list."""
        if self.head_kind != "shortlist":
            super().head()
            return
        matrix, scales = self.weights.short_head()
        panels = self.panels("short_head", [matrix])
        source = self.source(self.shape.layers, 0)
        self.drain()
        # The wanted tokens, as many at a time as the lanes take.
        for i, tokens in enumerate(self.rounds()):
            self.norm(source, tokens, i, Flag.LOGITS)
            self.scores(panels, scales, self.half(source, i), tokens)
        self.short_lists(source)

    def scores(self, panels: list[Panel], scales: npt.NDArray[np.uint16], half: Buffers, tokens: dict[str, int]) -> None:
        """Scores of all rows from the ternary head, for some wanted tokens."""
        s, c = self.shape, self.config
        # Behind the residual stream the scratch is free: scores of a panel, then row scales of as many panels as fit.
        scores = self.plan.qkv
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
                self.row_scales(f"short_head.scales.{number // room}", rows, count, first_scale, tokens["token_start"])
            accumulator = self.next_accumulator()
            command = replace(panel.command, layer=s.layers, flags=Flag.LOGITS, buffers=half | accumulator)
            self.program.append(replace(command, **tokens))  # type: ignore[arg-type]  # fields by name
            self.drain()
            self.undrained.append(
                Descriptor(
                    opcode=Opcode.DRAIN,
                    layer=s.layers,
                    flags=Flag.LOGITS | Flag.MULTIPLY | Flag.SHORTLIST,
                    buffers=accumulator,
                    vectors=span.vectors,
                    row_blocks=span.first,
                    src=first_scale + span.target - base,
                    dst=scores,
                    scalar0=span.scale,
                    stride=span.target * c.width,
                    head_stride=s.vocab,
                    **tokens,  # type: ignore[arg-type]  # fields by name
                )
            )
        self.drain()

    def short_lists(self, source: NormSource) -> None:
        """Exact logits of the blocks with the best scores, of one wanted token after the other."""
        s, c = self.shape, self.config
        blocks = ceil_div(s.vocab, c.kv_block)
        beats = head_block_beats(c, s.hidden)
        stride = align(beats * c.beat_bytes, SEGMENT_ALIGNMENT)

        def table() -> Bytes:
            full = np.zeros((blocks, stride), np.uint8)
            full[:, : beats * c.beat_bytes] = pack_head(c, *self.weights.quantized_head()).reshape(blocks, -1)
            return full.reshape(-1)

        self.memory.align(REGION_ALIGNMENT)
        address = self.memory.add("head", blocks * stride, table)
        for j in range(self.plan.chunk):
            token = {"token_start": j, "token_count": 1}
            self.norm(source, token, flags=Flag.LOGITS | Flag.TO_QUERY)
            self.emit(
                Opcode.HEAD,
                layer=s.layers,
                flags=Flag.LOGITS,
                fetch=Fetch.SHORTLIST,
                vectors=vectors_of(c, s.hidden),
                row_blocks=min(c.shortlist, blocks),
                stream_address=address,
                stream_beats=beats,
                stride=s.vocab,
                head_stride=stride,
                **token,
            )

    def row_scales(self, name: str, scales: npt.NDArray[np.uint16], vectors: int, dst: int, token: int) -> None:
        """bf16 scales of vocabulary rows to the scratch, where there is a wanted ``token``."""
        c = self.config
        beats = pad_beats(c, ceil_div(2 * vectors * c.width, c.beat_bytes))
        if name not in self.memory.segments:  # else placed by the round before
            self.memory.add(name, beats * c.beat_bytes, lambda: blob_beats(c, scales.view(np.uint8))[:beats].reshape(-1))
        address = self.memory.segments[name].region.offset
        self.emit(
            Opcode.EMBED,
            layer=self.shape.layers,
            flags=Flag.LOGITS,
            fetch=Fetch.STREAM,
            token_start=token,
            token_count=1,
            vectors=vectors,
            dst=dst,
            stream_address=address,
            stream_beats=beats,
        )
