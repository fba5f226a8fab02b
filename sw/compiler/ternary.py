"""Ternary matrices in panels, and the LM head with a short list."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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
    pack_trits,
    pad_beats,
    vectors_of,
)
from ...rounding import align, ceil_div
from ...vocabulary import digit_rows
from .layers import Bytes, ModelCompiler, NormSource, Panel, Span
from .placement import REGION_ALIGNMENT, SEGMENT_ALIGNMENT
from .vocabulary import compute_rows, head_cuts

__all__ = ["TernaryCompiler"]


class PackedRows:
    """Packed rows of matrices; the latest matrix is kept, since its panels come one after the other."""

    def __init__(self) -> None:
        self._latest: tuple[Any, Bytes] | None = None

    def of(self, matrix: Any) -> Bytes:
        if self._latest is None or self._latest[0] is not matrix:
            self._latest = matrix, matrix.packed()
        return self._latest[1]


class ScaleRows:
    """bf16 scales of vocabulary rows in the scratch, behind the results of a panel, of as many panels at a time as fit there."""

    def __init__(
        self, compiler: ModelCompiler, name: str, panels: list[Panel], make: Callable[[slice], npt.NDArray[np.uint16]], token: int
    ) -> None:
        self.compiler, self.name, self.panels, self.make, self.token = compiler, name, panels, make, token
        c, widest = compiler.config, max(panel.spans[0].vectors for panel in panels)
        self.first = compiler.plan.qkv + widest
        self.room = (c.scratch_vectors - self.first) // widest
        if self.room < 1:
            raise HwgenError(
                "model",
                f"the {name.replace('_', '-')} rows need {self.first + widest} vectors of scratch, build {c.name!r} has "
                f"scratch_vectors={c.scratch_vectors}",
                "use --head exact, or build with smaller panel_rows or larger scratch_vectors",
            )

    def of(self, number: int) -> dict[str, int]:
        """Where DRAIN of a panel reads its scales, which are loaded with those of the next panels."""
        begin = number - number % self.room
        base = self.panels[begin].spans[0].target
        if number == begin:
            self.compiler.drain()
            self._load(base, sum(panel.spans[0].vectors for panel in self.panels[begin : begin + self.room]), begin // self.room)
        return {"src": self.first + self.panels[number].spans[0].target - base}

    def _load(self, base: int, vectors: int, part: int) -> None:
        compiler, c = self.compiler, self.compiler.config
        name, beats = f"{self.name}.scales.{part}", pad_beats(c, ceil_div(2 * vectors * c.width, c.beat_bytes))
        rows = slice(base * c.width, min((base + vectors) * c.width, compiler.shape.vocab))
        if name not in compiler.memory.segments:  # else placed by the round before
            compiler.memory.add(
                name, beats * c.beat_bytes, lambda: blob_beats(c, self.make(rows).view(np.uint8), beats).reshape(-1)
            )
        compiler.emit(
            Opcode.EMBED, layer=compiler.shape.layers, flags=Flag.LOGITS, fetch=Fetch.STREAM, token_start=self.token, token_count=1,
            vectors=vectors, dst=self.first, stream_address=compiler.memory.segments[name].region.offset, stream_beats=beats,
        )


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
        return self.digit_command(height, inputs)

    def digit_command(self, height: int, inputs: int) -> Descriptor:
        """The same for rows of trits without scales, which digits of the head are in every model."""
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
        """Logits of all rows, or of the blocks of a short list."""
        if self.head_kind != "shortlist":
            super().head()
            return
        matrix, scales = self.weights.short_head()
        panels = self.panels("short_head", [matrix])
        source = self.source(self.shape.layers, 0)
        self.drain()
        for i, tokens in enumerate(self.rounds()):
            self.norm(source, tokens, i, Flag.LOGITS)
            loaded = ScaleRows(self, "short_head", panels, lambda rows: scales[rows], tokens["token_start"])
            compute_rows(self, panels, self.half(source, i), tokens, Flag.MULTIPLY | Flag.SHORTLIST, loaded.of)
        self.short_lists(source)

    def head_panels(self) -> list[Panel]:
        c, s = self.config, self.shape
        panels = []
        for i, (first, vectors) in enumerate(head_cuts(c, "ternary", s.vocab, (c.scratch_vectors - self.plan.qkv) // 2)):
            command = self.digit_command(TRITS_PER_BYTE * vectors * c.width, s.hidden)
            self.memory.align(REGION_ALIGNMENT)
            make = partial(self.digit_bytes, first, vectors)
            address = self.memory.add(f"head.{i}", command.stream_beats * c.beat_bytes, make)
            panels.append(Panel(replace(command, stream_address=address), (Span(1.0, 0, first, vectors),)))
        return panels

    def digit_bytes(self, first: int, vectors: int) -> Bytes:
        """The digits of so many vectors of rows of the head, as stored."""
        c, s = self.config, self.shape
        rows = np.zeros((vectors * c.width, s.hidden), np.int8)
        known, _ = self.weights.quantized_head(slice(first * c.width, min((first + vectors) * c.width, s.vocab)))
        rows[: len(known)] = known
        return arrange_ternary(c, pack_trits(digit_rows(c, rows)), s.hidden).reshape(-1)

    def head_rows(self, panels: list[Panel], half: Buffers, tokens: dict[str, int]) -> None:
        loaded = ScaleRows(self, "head", panels, lambda rows: self.weights.quantized_head(rows)[1], tokens["token_start"])
        compute_rows(self, panels, half, tokens, Flag.MULTIPLY | Flag.DIGITS | Flag.CANDIDATES, loaded.of)

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
