"""Passes in slices on the generated hardware: a token of another session at every boundary changes no bit, and how long it
waits is how long the longest slice takes."""

from __future__ import annotations

import pytest

from hwgen.descriptors import Opcode
from hwgen.model import ModelShape
from hwgen.sim.dram import KV260, RANDOM, DramTiming
from hwgen.sw.engine import Engine, Session
from hwgen.sw.estimate import slice_estimates
from hwgen.sw.image import Image

from ..sw.interposed import compile_round_by_round, golden_engine, interposed, sliced_image, undisturbed
from .small import CONFIG, SHAPE, SmallDevice

BROAD = ModelShape(hidden=30, layers=2, heads=1, kv_heads=1, head_dim=8, ffn=63, vocab=41, activation="silu", max_context=32)
PASSES = [[5, 40, 0, 17, 23, 8], [31, 2, 9, 11, 4]]


def all_logits(number: int) -> bool:
    return True


@pytest.mark.parametrize(
    ("image", "timing"),
    [
        (sliced_image(CONFIG, SHAPE), KV260),
        (sliced_image(CONFIG, SHAPE, "shortlist"), RANDOM(4)),
        (compile_round_by_round(CONFIG, BROAD), RANDOM(5)),
    ],
    ids=["exact", "short list", "round by round"],
)
def test_a_token_at_every_boundary(image: Image, timing: DramTiming) -> None:
    device = SmallDevice(timing)
    got = interposed(Engine(device, image), PASSES, [1, 2, 3], None, all_logits)
    assert device.clean()
    whole = SmallDevice(timing)
    want = undisturbed(Engine(whole, image), PASSES, [1, 2, 3], got.boundaries, all_logits)
    assert got.prompt == want.prompt
    assert got.beside == want.beside
    golden = undisturbed(golden_engine(image), PASSES, [1, 2, 3], got.boundaries, all_logits)
    assert want == golden or (want.prompt, want.beside) == (golden.prompt, golden.beside)
