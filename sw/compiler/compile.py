"""Compiler: weights of a model and a build configuration -> memory image and program (docs/machine.md)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ...config import BuildConfig
from ...descriptors import Descriptor
from ...errors import HwgenError
from ...weights import ModelWeights
from .constants import ArrayRows, LazyRows, PackedConstants
from .grouped import GroupedCompiler
from .image import Image
from .int4 import Int4Compiler
from .layers import ModelCompiler
from .placement import cache_pages
from .ternary import TernaryCompiler

__all__ = ["HEADS", "compile_model", "compiler_of", "plan_image", "plan_model"]

#: LM heads: logits of all rows; or ternary scores of all rows, then exact logits of a short list of blocks.
HEADS = ("exact", "shortlist")

#: Compiler by the engine that the matrices need.
COMPILERS = {"ternary": TernaryCompiler, "grouped": GroupedCompiler, "int4": Int4Compiler}


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


def plan_image(
    config: BuildConfig,
    weights: ModelWeights,
    *,
    name: str = "model",
    head: str = "exact",
    progress: Callable[[str], None] = lambda text: None,
) -> Image:
    """Image and program of a model, with one of `HEADS`; :class:`HwgenError` of kind ``model`` where it does not fit the build.
    Sizes alone decide: not a byte of weights is touched before one is read from the image.
    """
    compiler = compiler_of(config, weights, head)
    compiler.plan_program()
    return Image(
        config=config,
        shape=compiler.shape,
        name=name,
        descriptors=tuple(compiler.program),
        constants=PackedConstants(compiler.memory, progress),
        embedding=LazyRows(compiler.weights.embedding_bits),
        symbols={symbol: segment.region for symbol, segment in compiler.memory.segments.items()},
        row_bytes=compiler.row_bytes,
        chunk=compiler.plan.chunk,
        context=compiler.context,
        page_bytes=compiler.page_bytes,
        pages=cache_pages(config, compiler.context),
        key_rows=compiler.key_rows,
    )


def compile_model(
    config: BuildConfig,
    weights: ModelWeights,
    *,
    name: str = "model",
    head: str = "exact",
    progress: Callable[[str], None] = lambda text: None,
) -> Image:
    """:func:`plan_image` with every byte packed, in memory."""
    image = plan_image(config, weights, name=name, head=head, progress=progress)
    assert isinstance(image.constants, PackedConstants)
    return replace(image, constants=image.constants.packed(), embedding=ArrayRows(weights.embedding_bits()))
