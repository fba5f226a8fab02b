"""Compiler: weights of a model and a build configuration -> memory image and program (docs/machine.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from ...config import BuildConfig
from ...descriptors import DESCRIPTOR_BYTES, PROGRAM_PADDING, Descriptor
from ...errors import HwgenError
from ...layout import pad_beats
from ...rounding import align, ceil_div
from ...weights import ModelWeights
from ..progress import Ticker
from .image import Image, relocate
from .int4 import Int4Compiler
from .layers import ModelCompiler
from .placement import REGION_ALIGNMENT, Region
from .programs import SlicedProgram, pack_slices
from .slices import plan_slices
from .ternary import TernaryCompiler

__all__ = ["HEADS", "compile_model", "compiler_of", "plan_model"]

#: LM heads: exact int8 rows alone; or ternary scores of all rows, then exact logits of a short list of blocks.
HEADS = ("exact", "shortlist")

#: Compiler by the engine that the matrices need.
COMPILERS = {"ternary": TernaryCompiler, "int4": Int4Compiler}


def compiler_of(config: BuildConfig, weights: ModelWeights, head: str = "exact") -> ModelCompiler:
    """The compiler for the number format of a model, before it planned anything."""
    if head not in HEADS:
        raise HwgenError("usage", f"{head!r} is not an LM head", f"use one of: {', '.join(HEADS)}")
    return COMPILERS[weights.engine](config, weights, head)


def plan_model(config: BuildConfig, weights: ModelWeights, head: str = "exact") -> tuple[list[Descriptor], int]:
    """Operators of a pass (addresses relative to nothing) and tokens of a pass, without a byte of weights."""
    compiler = compiler_of(config, weights, head)
    compiler.plan_program()
    return compiler.program, compiler.plan.chunk


def compile_model(
    config: BuildConfig,
    weights: ModelWeights,
    *,
    name: str = "model",
    head: str = "exact",
    progress: Callable[[str], None] = lambda text: None,
) -> Image:
    """Image and program of a model, with one of `HEADS`; :class:`HwgenError` of kind ``model`` where it does not fit the build."""
    ticker = Ticker(progress)
    compiler = compiler_of(config, weights, head)
    compiler.plan_program()
    memory = compiler.memory
    sliced = plan_slices(compiler)
    if sliced is not None:
        size = len(pack_slices(sliced)[0])
        memory.add("slices", size, lambda: np.zeros(size, np.uint8))  # written with their addresses, as the program is
        memory.align(REGION_ALIGNMENT)
    used = (len(compiler.program) + PROGRAM_PADDING) * DESCRIPTOR_BYTES
    start = align(used, REGION_ALIGNMENT)
    constants = start + memory.end
    logits = pad_beats(config, ceil_div(4 * compiler.shape.vocab, config.beat_bytes)) * config.beat_bytes
    kv = constants + align(logits, REGION_ALIGNMENT)
    pages = ceil_div(compiler.context, config.kv_block)

    def placed(program: Iterable[Descriptor]) -> tuple[Descriptor, ...]:
        return tuple(relocate(program, start, kv))

    if sliced is not None:
        sliced = SlicedProgram(placed(sliced.beside), tuple(map(placed, sliced.slices)))
    symbols = {"program": Region(0, used)}
    data = np.zeros(constants, np.uint8)
    for symbol, segment in memory.segments.items():
        ticker.tick(f"packing {symbol}")
        region = Region(segment.region.offset + start, segment.region.bytes)
        symbols[symbol] = region
        data[region.offset : region.offset + region.bytes] = segment.make()
    symbols.update({"logits": Region(constants, logits), "kv": Region(kv, pages * compiler.page_bytes)})
    return Image(
        config=config,
        shape=compiler.shape,
        name=name,
        descriptors=placed(compiler.program),
        data=data,
        symbols=symbols,
        total_bytes=kv + pages * compiler.page_bytes,
        chunk=compiler.plan.chunk,
        context=compiler.context,
        page_bytes=compiler.page_bytes,
        sliced=sliced,
    )
