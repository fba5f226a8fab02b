"""INT4 matrices in panels, with their row scales (docs/numerics-int4.md)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from ...config import BuildConfig
from ...descriptors import Descriptor, Fetch, Format, Opcode
from ...errors import HwgenError
from ...formats import flush
from ...int4 import Int4Matrix
from ...layout import Int4Layout, blob_beats, pad_beats, vectors_of
from ...rounding import align, ceil_div
from ...weights import ModelWeights
from .layers import Bytes, ModelCompiler, Panel, Span
from .placement import REGION_ALIGNMENT

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
        place = min(config.panel_rows, widest) // config.width
        gains = vectors_of(config, max(s.hidden, *weights.layer.norms(s).values()))
        super().__init__(config, weights, head, 2 * gains + 2 * place)
        first = self.plan.gains[1] + gains
        self.scale_places = first, first + place
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

    def load_row_scales(self, panel: Panel, layer: int, tokens: dict[str, int]) -> int:
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
            )
        self.latest_place = place
        return self.scale_places[place]
