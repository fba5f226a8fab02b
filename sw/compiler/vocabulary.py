"""Operators over the rows of a vocabulary, for wanted tokens: panel by panel, results to candidates or short lists."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...config import BuildConfig
from ...descriptors import Buffers, Descriptor, Flag, Opcode
from ...errors import HwgenError
from ...vocabulary import logits_bytes, panel_vectors_of

if TYPE_CHECKING:
    from .layers import ModelCompiler, Panel

__all__ = ["compute_rows", "head_cuts"]


def head_cuts(config: BuildConfig, engine: str, vocab: int, most: int) -> list[tuple[int, int]]:
    """First vector and vectors of logits of every panel of the head; ``most``: of one panel, by what else must hold them."""
    total, step = panel_vectors_of(config, engine, vocab, most)
    if step == 0:
        least = panel_vectors_of(config, engine, 1, config.scratch_vectors)[0] * config.width * (5 if engine == "ternary" else 1)
        raise HwgenError(
            "model", f"the head needs panels of {least} rows and room for their logits, build {config.name!r} has "
            f"panel_rows={config.panel_rows} and scratch_vectors={config.scratch_vectors}",
            "build with larger panel_rows or scratch_vectors",
        )
    return [(first, min(step, total - first)) for first in range(0, total, step)]


def compute_rows(
    compiler: ModelCompiler, panels: list[Panel], half: Buffers, tokens: dict[str, int], flags: Flag,
    scales: Callable[[int], dict[str, Any]],
) -> None:
    """LINEAR and DRAIN of every panel for some wanted tokens, whose activations are in ``half``. ``scales``, given the number of a
    panel, loads its row scales, and returns what DRAIN must know of them.

    Results go to where the first one behind the residual stream lies: the same place for all, since nobody reads them there.
    """
    c, vocab = compiler.config, compiler.shape.vocab
    stride = logits_bytes(c, vocab)
    for number, panel in enumerate(panels):
        (span,) = panel.spans
        of_scales = {"buffers": Buffers.NONE, **scales(number)}
        accumulator = compiler.next_accumulator()
        place = of_scales.pop("buffers")
        common: dict[str, Any] = {"layer": compiler.shape.layers, **tokens}
        compiler.program.append(replace(panel.command, flags=Flag.LOGITS, buffers=half | accumulator, **common))
        compiler.drain()
        row = span.target * c.width
        if Flag.CANDIDATES in flags:
            common |= {"stream_address": tokens["token_start"] * stride + 4 * row, "stream_beats": stride // c.beat_bytes}
        compiler.undrained.append(Descriptor(
            opcode=Opcode.DRAIN, flags=Flag.LOGITS | flags, format=compiler.linear_format, buffers=accumulator | place,
            vectors=span.vectors, row_blocks=span.first, dst=compiler.plan.qkv, scalar0=span.scale, stride=row, head_stride=vocab,
            **of_scales, **common,
        ))
    compiler.drain()
