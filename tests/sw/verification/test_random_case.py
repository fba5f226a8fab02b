"""What the fuzzer draws is legal: everything finds pages."""

from __future__ import annotations

import numpy as np
import pytest

from hwgen.sw.verification.case import Step
from hwgen.sw.verification.random_case import SEQUENCES, random_config, random_steps


def named(step: Step) -> set[int]:
    """Sequences that hold pages in a step."""
    return {number for number, _, _ in step.parts} | set(step.parked) | set(step.shared or ())


@pytest.mark.parametrize("seed", range(8))
def test_no_more_sequences_than_there_are_pages_for(seed: int) -> None:
    """From the first step that names it to the last one a sequence holds pages; a case has those of three full ones."""
    config = random_config(seed)
    for number in range(40):
        steps = random_steps(config, config.chunk, np.random.default_rng([seed, number]))
        last = {sequence: i for i, step in enumerate(steps) for sequence in named(step)}
        alive: set[int] = set()
        for i, step in enumerate(steps):
            alive |= named(step)
            assert len(alive) <= SEQUENCES, (number, i)
            alive = {sequence for sequence in alive if last[sequence] > i}
