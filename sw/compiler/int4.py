"""INT4 matrices in panels, with their row scales (docs/numerics-int4.md)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from ...config import BuildConfig
from ...descriptors import Buffers, Descriptor, Fetch, Flag, Format, Opcode
from ...errors import HwgenError
from ...formats import flush, widen_bf16
from ...int4 import Int4Matrix
from ...layout import Int4Layout, blob_beats, pad_beats, vectors_of
from ...rounding import align, ceil_div
from ...vocabulary import SECTION_MIDPOINTS, SECTION_SCALES, nibble_columns, section_inputs
from ...weights import ModelWeights
from .layers import Bytes, ModelCompiler, NormSource, Panel, Span
from .placement import REGION_ALIGNMENT, parameter_place
from .vocabulary import compute_rows, head_cuts

__all__ = ["Int4Compiler"]

Array = npt.NDArray[Any]


def check_groups(config: BuildConfig, weights: ModelWeights) -> None:
    """Refuse matrices that the engine of the build cannot cut into slices."""
    build, s = f"build {config.name!r}", weights.shape
    smallest = min(matrix.group for layer in weights.layers for matrix in layer.matrices.values())
    if smallest % config.int4_slice_inputs:
        rows = 2 * config.beat_bytes // smallest
        raise HwgenError(
            "model",
            f"the model has groups of {smallest} inputs, {build} multiplies slices of {config.int4_slice_inputs}",
            f"build with rows={rows} or more, or quantise with --group {config.int4_slice_inputs}",
        )
    odd = [inputs for _, inputs in weights.layer.matrices(s).values() if inputs % config.int4_slice_inputs]
    if odd:
        raise HwgenError(
            "model",
            f"the model has a matrix of {odd[0]} inputs, {build} multiplies slices of {config.int4_slice_inputs}",
            "build with more rows (slices of fewer inputs)",
        )


class Int4Compiler(ModelCompiler):
    """One compilation of a model with INT4 matrices.

    Row scales of a panel are loaded into the parameter memory before it is computed, into the other of two places: in the first
    the panel before is still being drained.
    """

    linear_format = Format.FP8

    def __init__(self, config: BuildConfig, weights: Any, head: str = "exact") -> None:
        if not config.has_int4:
            raise HwgenError(
                "model", f"the model has INT4 weights, build {config.name!r} has no INT4 engine", "build with engine=int4 or both"
            )
        try:
            weights = weights.on_machine()
        except ValueError as error:
            raise HwgenError("model", str(error), "use hwgen quantize, or a GGUF file with Q4_1 or Q4_0") from error
        if head != "exact":
            raise HwgenError("usage", f"the {head} head needs ternary weights, the model has INT4", "use --head exact")
        check_groups(config, weights)
        s = weights.shape
        step = config.block_step * config.rows
        widest = max(align(vectors_of(config, stage.writes.size(s)) * config.width, step) for stage in weights.layer.stages)
        place = align(min(config.panel_rows, widest) // config.width, config.beat_vectors)  # whole beats of logits
        gains = vectors_of(config, max(s.hidden, *weights.layer.norms(s).values()))
        super().__init__(config, weights, head, 2 * gains + 2 * place)
        first = self.plan.gains[1] + gains
        self.scale_places = first, first + place
        if 2 * section_inputs(config, s.hidden) > config.max_inputs:
            raise HwgenError(
                "model",
                f"the head takes the {s.hidden} inputs twice, build {config.name!r} has max_inputs={config.max_inputs}",
                f"build with max_inputs={2 * section_inputs(config, s.hidden)} or more",
            )
        #: Address of the row scales in either place, and the place of the latest panel.
        self.loaded: list[int | None] = [None, None]
        self.latest_place = 1

    # ---- matrices ------------------------------------------------------------------------------------------------
    def panels(self, name: str, parts: Sequence[Any]) -> list[Panel]:
        c = self.config
        matrices: Sequence[Int4Matrix] = parts
        groups = {matrix.group for matrix in matrices}
        if len(groups) > 1:
            raise HwgenError(
                "model", f"{name} has groups of {sorted(groups)} inputs side by side", "quantise the model with one --group"
            )
        vectors, first_vectors = self.starts(matrices)
        starts, used = [first * c.width for first in first_vectors], sum(vectors)
        panels = []
        for i, (first, height) in enumerate(self.cuts(vectors)):
            layout = Int4Layout(c, height, matrices[0].inputs, matrices[0].group)
            self.memory.align(REGION_ALIGNMENT)
            address = self.memory.add(
                f"{name}.{i}", layout.beats * c.beat_bytes, partial(self.int4_panel, layout, matrices, starts, first)
            )
            low = first // c.width
            count = min(used - low, height // c.width)
            beats = pad_beats(c, ceil_div(4 * count * c.width, c.beat_bytes))
            scales = self.memory.add(
                f"{name}.{i}.row_scale", beats * c.beat_bytes, partial(self.scale_segment, matrices, starts, first, count * c.width)
            )
            command = Descriptor(
                opcode=Opcode.LINEAR,
                format=Format.FP8,
                fetch=Fetch.STREAM,
                slices=layout.slices,
                row_blocks=layout.row_blocks,
                vectors=layout.shared,
                stream_address=address,
                stream_beats=layout.beats,
            )
            panels.append(Panel(command, (Span(1.0, 0, low, count),), (scales, beats)))
        return panels

    def _rows(
        self, matrices: Sequence[Int4Matrix], starts: list[int], first: int, of: Callable[[Int4Matrix], Array], out: Array
    ) -> Array:
        """Rows from ``first`` of what ``of`` gives of the matrices, which begin at rows ``starts``, into ``out``."""
        for matrix, top in zip(matrices, starts, strict=True):
            low, high = max(first, top), min(first + len(out), top + matrix.rows)
            if low < high:
                out[low - first : high - first] = of(matrix)[low - top : high - top]
        return out

    def int4_panel(self, layout: Int4Layout, matrices: Sequence[Int4Matrix], starts: list[int], first: int) -> Bytes:
        """The panel of ``layout.rows`` rows from ``first``, as stored."""
        inputs, groups = layout.inputs, matrices[0].scales.shape[1]
        codes = self._rows(matrices, starts, first, lambda m: m.codes, np.zeros((layout.rows, inputs), np.int8))
        scales = self._rows(matrices, starts, first, lambda m: m.scales, np.zeros((layout.rows, groups), np.uint8))
        middle = self._rows(
            matrices, starts, first, lambda m: np.zeros(m.scales.shape, np.int8) if m.midpoints is None else m.midpoints,
            np.zeros((layout.rows, groups), np.int8),
        )
        return layout.pack(codes, scales, middle).reshape(-1)

    def scale_segment(self, matrices: Sequence[Int4Matrix], starts: list[int], first: int, rows: int) -> Bytes:
        scales = self._rows(matrices, starts, first, lambda m: flush(m.row_scale), np.zeros(rows, np.float32))
        return blob_beats(self.config, scales.view(np.uint8)).reshape(-1)

    def load_row_scales(self, panel: Panel, layer: int, tokens: dict[str, int]) -> tuple[int, Buffers]:
        address, beats = panel.row_scales
        if address in self.loaded:
            place = self.loaded.index(address)
        else:
            place = self.latest_place ^ 1
            self.loaded[place] = address
            self.emit(
                Opcode.PARAM,
                layer=layer,
                fetch=Fetch.STREAM,
                token_start=tokens["token_start"],
                token_count=1,
                stream_address=address,
                stream_beats=beats,
                vectors=panel.spans[0].vectors,
                dst=self.scale_places[place],
                buffers=parameter_place(place),
                flags=Flag.LOGITS if layer == self.shape.layers else Flag.NONE,
            )
        self.latest_place = place
        return self.scale_places[place], parameter_place(place)

    # ---- LM head -------------------------------------------------------------------------------------------------
    def head_layout(self, vectors: int) -> Int4Layout:
        """So many vectors of rows: upper codes of all inputs, then lower ones, a group each."""
        section = section_inputs(self.config, self.shape.hidden)
        return Int4Layout(self.config, vectors * self.config.width, 2 * section, section)

    def head_panels(self) -> list[Panel]:
        c, s = self.config, self.shape
        most = min(self.scale_places[1] - self.scale_places[0], c.scratch_vectors - self.plan.qkv)
        panels = []
        for i, (first, vectors) in enumerate(head_cuts(c, "int4", s.vocab, most)):
            layout = self.head_layout(vectors)
            self.memory.align(REGION_ALIGNMENT)
            address = self.memory.add(f"head.{i}", layout.beats * c.beat_bytes, partial(self.nibble_bytes, first, vectors))
            scale_beats = pad_beats(c, ceil_div(4 * vectors * c.width, c.beat_bytes))
            scales = self.memory.add(f"head.{i}.row_scale", scale_beats * c.beat_bytes, partial(self.head_scales, first, vectors))
            command = Descriptor(
                opcode=Opcode.LINEAR, format=Format.FP8, fetch=Fetch.STREAM, slices=layout.slices, row_blocks=layout.row_blocks,
                vectors=layout.shared, stream_address=address, stream_beats=layout.beats,
            )
            panels.append(Panel(command, (Span(1.0, 0, first, vectors),), (scales, scale_beats)))
        return panels

    def known_rows(self, first: int, vectors: int) -> slice:
        """Rows of the vocabulary among so many vectors of them."""
        return slice(first * self.config.width, min((first + vectors) * self.config.width, self.shape.vocab))

    def nibble_bytes(self, first: int, vectors: int) -> Bytes:
        layout = self.head_layout(vectors)
        rows = np.zeros((layout.rows, self.shape.hidden), np.int8)
        known, _ = self.weights.quantized_head(self.known_rows(first, vectors))
        rows[: len(known)] = known
        scales, midpoints = (np.tile(np.array(codes), (layout.rows, 1)) for codes in (SECTION_SCALES, SECTION_MIDPOINTS))
        return layout.pack(nibble_columns(self.config, rows), scales.astype(np.uint8), midpoints.astype(np.int8)).reshape(-1)

    def head_scales(self, first: int, vectors: int) -> Bytes:
        scales = np.zeros(vectors * self.config.width, np.float32)
        _, bits = self.weights.quantized_head(self.known_rows(first, vectors))
        scales[: len(bits)] = widen_bf16(bits)
        return blob_beats(self.config, scales.view(np.uint8)).reshape(-1)

    def head_norm(self, source: NormSource, tokens: dict[str, int], i: int) -> None:
        """The activations of both sections."""
        for first in (0, section_inputs(self.config, self.shape.hidden) // self.config.width):
            self.norm(source, tokens, i, Flag.LOGITS, first)

    def head_rows(self, panels: list[Panel], half: Buffers, tokens: dict[str, int]) -> None:
        def scales(number: int) -> dict[str, int]:
            param, place = self.load_row_scales(panels[number], self.shape.layers, tokens)
            return {"param": param, "buffers": place}

        compute_rows(self, panels, half, tokens, Flag.STORE | Flag.CANDIDATES, scales)
