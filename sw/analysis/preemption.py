"""``python -m hwgen.sw.analysis.preemption``: how long a decoding session waits behind a prompt, by passes and by slices.

Everything it prints is estimated (`hwgen.sw.analysis.estimate`).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...boards import load_board
from ...config import BuildConfig
from ...decoder import DecoderLayer
from ...descriptors import Flag, Opcode
from ...errors import HwgenError
from ...published import PUBLISHED, published_model
from ...rounding import ceil_div
from ...shape import ModelShape
from ..compiler.compile import HEADS, compiler_of
from ..compiler.programs import Program, SlicedProgram, is_needed, pack_slices
from ..compiler.slices import plan_slices
from ..models.random_model import sized_model
from .pass_model import PassModel

__all__ = ["SliceTime", "Waits", "estimate_waits", "slice_times"]


@dataclass(frozen=True)
class SliceTime:
    """One slice of a pass."""

    #: What it computes: ``embed``, ``linear``, ``attention``, ``head``; joined where several could not be parted.
    kind: str
    cycles: float


@dataclass(frozen=True)
class Waits:
    """What a decoding session has to do with a pass of another's prompt, in cycles."""

    #: Tokens of a pass; cycles of the whole, and of a pass that decodes one token.
    chunk: int
    whole: float
    decode: float
    slices: tuple[SliceTime, ...]
    #: What the slices take in the image.
    image_bytes: int

    @property
    def longest(self) -> SliceTime:
        """The longest wait."""
        return max(self.slices, key=lambda slice_: slice_.cycles)

    @property
    def sliced(self) -> float:
        """The pass in slices, if nobody comes between."""
        return sum(slice_.cycles for slice_ in self.slices)


def kind_of(program: Program) -> str:
    names = {Opcode.EMBED: "embed", Opcode.LINEAR: "linear", Opcode.ATTENTION: "attention", Opcode.HEAD: "head"}
    found = {names[d.opcode] for d in program if d.opcode in names and (Flag.LAST not in d.flags or d.opcode is Opcode.HEAD)}
    return " ".join(name for name in names.values() if name in found)


def slice_times(model: PassModel, sliced: SlicedProgram, tokens: int, position: int, *, logits: bool) -> list[SliceTime]:
    """Every slice of a pass of ``tokens`` tokens behind ``position`` cached ones, from its doorbell to its end."""
    whole, times = model.program, []
    try:
        for part in sliced.slices:
            if is_needed(part, tokens, logits):
                model.program = list(part)
                times.append(SliceTime(kind_of(part), model.run(tokens, position, logits=logits).cycles))
    finally:
        model.program = whole
    return times


def estimate_waits(
    config: BuildConfig, shape: ModelShape, *, context: int, head: str = "exact", engine: str = "ternary", logits: bool = True,
    layer: DecoderLayer | None = None,
) -> Waits:
    """A pass of the whole chunk and the decode of one token, both behind ``context`` cached tokens."""
    weights: Any = sized_model(shape, engine, layer)
    compiler = compiler_of(config, weights, head)
    compiler.plan_program()
    sliced = plan_slices(compiler)
    if sliced is None:
        raise HwgenError(
            "model",
            f"build {config.name!r} has no room in the scratch memory for a token beside a pass of {compiler.plan.chunk}",
            "build with larger scratch_vectors",
        )
    model = PassModel(config, shape, head=head, engine=engine, layer=layer)
    return Waits(
        model.chunk,
        model.run(model.chunk, context, logits=logits).cycles,
        model.run(1, context).cycles,
        tuple(slice_times(model, sliced, model.chunk, context, logits=logits)),
        len(pack_slices(sliced)[0]),
    )


def describe(waits: Waits, without_head: Waits, clock_mhz: float) -> list[str]:
    """The waits for people."""

    def milliseconds(cycles: float) -> str:
        return f"{cycles / clock_mhz / 1000:.3f} ms"

    lines = [
        f"decoding a token takes {milliseconds(waits.decode)} (estimated, as all below, at {clock_mhz:g} MHz)",
        f"pass of {waits.chunk} prompt tokens in {len(waits.slices)} slices, {waits.image_bytes:,} bytes of the image",
    ]
    for name, w in (("last pass of a prompt, with the head", waits), ("other passes", without_head)):
        lines.append(
            f"{name}: longest wait {milliseconds(w.whole)} before, {milliseconds(w.longest.cycles)} after ({w.longest.kind}); "
            f"the pass alone takes {w.sliced / w.whole:.2f} times as long in slices"
        )
    for turn in (1, 16, 64):
        turns = ceil_div(len(without_head.slices), turn)
        wait = max(sum(s.cycles for s in without_head.slices[i : i + turn]) for i in range(0, len(without_head.slices), turn))
        lines.append(
            f"turn of {turn}: {turns} tokens of one other session during a pass, each waits {milliseconds(wait)} at most; "
            f"the pass takes {milliseconds(without_head.sliced + turns * waits.decode)}"
        )
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the waits for a published shape on a board."""
    parser = argparse.ArgumentParser(prog="python -m hwgen.sw.analysis.preemption", description=__doc__)
    parser.add_argument("--board", default="kv260")
    parser.add_argument("--shape", default="bitnet-2b4t", choices=PUBLISHED)
    parser.add_argument("--head", default="shortlist", choices=HEADS)
    parser.add_argument("--context", type=int, default=512, help="cached tokens of both sessions")
    options = parser.parse_args(arguments)
    try:
        model = published_model(options.shape)
        engine, shape = model.engine, model.shape
        config = load_board(options.board).for_engine(engine).config
        waits, without_head = (
            estimate_waits(
                config, shape, context=options.context, head=options.head, engine=engine, logits=logits, layer=model.layer
            )
            for logits in (True, False)
        )
    except HwgenError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{options.shape} on {options.board}, {options.head} head, {options.context} tokens cached")
    print("\n".join(describe(waits, without_head, config.clock_mhz)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
