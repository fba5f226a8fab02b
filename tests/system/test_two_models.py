"""Two images on one machine, whose passes alternate: one guesses, the other answers."""

from __future__ import annotations

from dataclasses import replace

from hwgen.sw.compiler.pass_costs import PassCosts
from hwgen.sw.devices.golden import GoldenDevice
from hwgen.sw.runtime.draft_model import DraftModel
from hwgen.sw.runtime.drafts import Drafter
from hwgen.sw.runtime.engine import Engine
from hwgen.sw.runtime.generation import Generation
from hwgen.sw.runtime.sampling import Sampling

from .small import CONFIG, MEMORY_BYTES, SHAPE, SmallDevice, small_image

COSTS = PassCosts(sizes=(1, 6), plain=(100.0, 100.0), wanting=(100.0, 100.0), block=0.0)
CHEAP = replace(COSTS, plain=(1.0, 1.0), wanting=(1.0, 1.0))


def test_answers_are_those_of_one_alone() -> None:
    """Drafts that are right, of the same model, and wrong ones, of another: in RTL the tokens of the golden model alone."""
    prompt = [7, 3, 19, 40]
    for sampling in (Sampling(), Sampling(temperature=1.0, seed=4)):
        alone = Generation(Engine(GoldenDevice(CONFIG, memory_bytes=MEMORY_BYTES), small_image()), prompt, 12, sampling)
        expected = [item.token for item in alone]
        for small in (small_image(), small_image(replace(SHAPE, layers=1))):
            device = SmallDevice()
            engine = Engine(device, small_image())
            guessing = Engine(device, small, beside=engine)
            guessing.__dict__["costs"] = CHEAP
            drafter = Drafter(COSTS, DraftModel(guessing))
            generation = Generation(engine, prompt, 12, sampling, drafter=drafter)
            assert [item.token for item in generation] == expected
            assert drafter.proposed > 4
            assert device.accelerator.violation_count == 0
