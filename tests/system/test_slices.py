"""Passes in slices on the generated hardware: a token of another session at every boundary changes no bit, and how long it
waits is how long the longest slice takes."""

from __future__ import annotations

import pytest

from hwgen.errors import HwgenError
from hwgen.shape import ModelShape
from hwgen.sim.dram import KV260, RANDOM, DramTiming
from hwgen.sw.analysis.pass_model import PassModel
from hwgen.sw.analysis.preemption import slice_times
from hwgen.sw.compiler.image import Image
from hwgen.sw.runtime.engine import Engine, PassResult, SlicedPass
from hwgen.sw.runtime.generation import Generation
from hwgen.sw.runtime.pages import Session
from hwgen.sw.runtime.scheduler import Job, Scheduler

from ..sw.runtime.interposed import compile_round_by_round, golden_engine, interposed, sliced_image, undisturbed
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
    assert device.clean() and got.boundaries > 30
    want = undisturbed(golden_engine(image), PASSES, [1, 2, 3], got.boundaries, all_logits)
    assert got.prompt == want.prompt
    assert got.beside == want.beside


class Clock:
    """Simulated cycles of everything that the device does, in order."""

    def __init__(self, engine: Engine) -> None:
        self.log: list[tuple[str, int]] = []
        forward, run_slice = engine.forward, engine.run_slice

        def timed_forward(session: Session, tokens: list[int], **options: bool) -> PassResult:
            result = forward(session, tokens, **options)
            self.log.append(("pass" if len(tokens) > 1 else "decode", result.cycles))
            return result

        def timed_slice(sliced: SlicedPass) -> PassResult | None:
            before = sliced.counters["cycles"]
            result = run_slice(sliced)
            self.log.append(("slice", sliced.counters["cycles"] - before))
            return result

        engine.forward, engine.run_slice = timed_forward, timed_slice  # type: ignore[method-assign,assignment]

    def waits(self) -> list[int]:
        """Between two decodes."""
        waits, now = [], None
        for what, cycles in self.log:
            if what == "decode":
                waits += [] if now is None else [now]
                now = 0
            elif now is not None:
                now += cycles
        return waits


def test_how_long_a_token_waits() -> None:
    """A prompt of two passes beside a session that decodes: between two tokens there is one slice at most."""
    image = sliced_image(CONFIG, SHAPE)
    alone = Engine(SmallDevice(KV260), image)
    clock, session = Clock(alone), Session()
    for tokens in PASSES:
        sliced = alone.begin_slices(session, tokens)
        while alone.run_slice(sliced) is None:
            pass
    longest = max(cycles for _, cycles in clock.log)
    model = PassModel(CONFIG, SHAPE)
    assert image.sliced is not None
    estimated = [t.cycles for t in slice_times(model, image.sliced, 6, 0, logits=True)]
    simulated = [cycles for _, cycles in clock.log][: len(estimated)]
    assert simulated[:-1] == pytest.approx(estimated[:-1], rel=0.2)  # the head of so few rows is all start and end
    assert sum(simulated) == pytest.approx(sum(estimated), rel=0.1)

    waits, whole = {}, 0
    for turn in (0, 1):
        engine = Engine(SmallDevice(KV260), image)
        clock, scheduler = Clock(engine), Scheduler(engine, turn=turn)
        ended: list[HwgenError | None] = []
        decoding = Generation(engine, [1], 31)
        prompt = Generation(engine, [t for tokens in PASSES for t in tokens], 1)
        for generation in (decoding, prompt):
            scheduler.submit(Job(generation, lambda item: None, ended.append))
        while scheduler.step():
            pass
        assert ended == [None, None]
        waits[turn] = max(clock.waits())
        whole = max([whole, *(cycles for what, cycles in clock.log if what == "pass")])
        assert (decoding.tokens, prompt.tokens) == expected_answers(image)
    print(f"simulated: a token waits {waits[0]} cycles for a pass, {waits[1]} for a slice; the longest slice takes {longest}")
    assert waits[0] == whole > 5 * waits[1]
    assert waits[1] <= 1.05 * longest  # refreshes of the memory come when they come


def expected_answers(image: Image) -> tuple[list[int], list[int]]:
    engine = golden_engine(image)
    answers = [
        [item.token for item in Generation(engine, prompt, count)] for prompt, count in (([1], 31), (PASSES[0] + PASSES[1], 1))
    ]
    return answers[0], answers[1]
