"""What passes of an image cost, as a small table: the host weighs drafts and prompts with it before every pass."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from ...descriptors import Descriptor
from ...rounding import ceil_div
from .image import Image
from .pass_model import PassModel

__all__ = ["PassCosts", "pass_costs"]

#: Layers that are walked for the table: those beyond cost what the last of these costs.
WALKED = 4


@dataclass(frozen=True, kw_only=True)
class PassCosts:
    """Estimated cycles of passes, by the model of a pass. Between the sizes of the table cycles are those of a straight line. What
    every further run adds to the writes of keys is left out, so that passes of many runs come out up to a twelfth too cheap.
    """

    #: Tokens of a pass, ascending, from 1 to the chunk.
    sizes: tuple[int, ...]
    #: Cycles of a pass of so many tokens of one new sequence, with logits of the last one.
    plain: tuple[float, ...]
    #: The same with logits of every token.
    wanting: tuple[float, ...]
    #: Cycles that a block of cached keys of one run adds.
    block: float

    def cycles(self, tokens: int, wanted: int, blocks: int = 0) -> float:
        """Of a pass of ``tokens`` tokens, with logits of ``wanted`` of them, whose runs have ``blocks`` cached blocks together."""
        most = self.sizes[-1]
        return self._passes[min(tokens, most)] + self._heads[min(wanted, most)] + self.block * blocks

    @cached_property
    def _passes(self) -> list[float]:
        """By tokens: it is asked several times a pass."""
        return [self._of(self.plain, tokens) for tokens in range(self.sizes[-1] + 1)]

    @cached_property
    def _heads(self) -> list[float]:
        """What logits of so many tokens add."""
        return [self._of(self.wanting, n) - self._of(self.plain, n) if n else 0.0 for n in range(self.sizes[-1] + 1)]

    def to_list(self) -> list[object]:
        """As `Image.stored_costs` has it."""
        return [self.sizes, self.plain, self.wanting, self.block]

    def _of(self, column: Sequence[float], tokens: int) -> float:
        at = bisect_left(self.sizes, tokens)
        if at == len(self.sizes) or self.sizes[at] == tokens:
            return column[min(at, len(column) - 1)]
        low, high = self.sizes[at - 1], self.sizes[at]
        return column[at - 1] + (column[at] - column[at - 1]) * (tokens - low) / (high - low)


def table_sizes(lanes: int, chunk: int) -> tuple[int, ...]:
    """Sizes between which costs bend little: the first tokens, and both sides of every whole round of the lanes."""
    ends = [n for r in range(1, ceil_div(chunk, lanes) + 1) for n in (r * lanes, r * lanes + 1)]
    return tuple(sorted({n for n in (1, 2, chunk, *ends) if n <= chunk}))


def pass_costs(image: Image) -> PassCosts:
    """The table of an image: that of its file, else by the model of a pass, which takes about a second for a large model."""
    if image.stored_costs is not None:
        sizes, plain, wanting, block = image.stored_costs
        return PassCosts(sizes=tuple(sizes), plain=tuple(plain), wanting=tuple(wanting), block=block)
    layers = image.shape.layers

    def walked(number: int) -> PassModel:
        """Passes of the program with its first layers alone, and what stands around them."""
        def kept(d: Descriptor) -> bool:
            return d.layer < number or d.layer >= layers
        return PassModel.of_program(image.config, [d for d in image.descriptors if kept(d)], image.chunk)

    few = walked(min(layers, WALKED))
    fewer = walked(WALKED - 1) if layers > WALKED else few

    def cycles(tokens: int, position: int, wanted: int) -> float:
        most = few.run(tokens, position, wanted=wanted).cycles
        if layers <= WALKED:
            return most
        return most + (layers - WALKED) * (most - fewer.run(tokens, position, wanted=wanted).cycles)

    sizes = table_sizes(image.config.lanes, image.chunk)
    plain = tuple(cycles(n, 0, 1) for n in sizes)
    wanting = (plain[0], *(cycles(n, 0, n) for n in sizes[1:]))
    blocks = ceil_div(image.context, image.config.kv_block)
    block = (cycles(1, blocks * image.config.kv_block, 1) - plain[0]) / blocks
    return PassCosts(sizes=sizes, plain=plain, wanting=wanting, block=block)
