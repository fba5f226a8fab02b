"""Vectors of the host in place of tokens, in RTL: mixed with tokens in any place of a pass, and in passes with other sequences."""

from __future__ import annotations

import numpy as np

from hwgen.sim.dram import RANDOM
from hwgen.sw.devices.golden import GoldenDevice
from hwgen.sw.runtime.vector_tokens import with_vectors
from hwgen.sw.verification.lock_step import LockStep
from hwgen.weights import random_weights

from .small import CONFIG, MEMORY_BYTES, SHAPE, SmallDevice, small_image


def test_vectors_in_place_of_tokens() -> None:
    """Rows of the embedding give the bits of their tokens, others those of the golden machine, operator by operator."""
    rows = random_weights(SHAPE, seed=11).embedding
    vectors = np.random.default_rng(2).normal(0, 1, (5, SHAPE.hidden)).astype(np.float32)
    device = SmallDevice(RANDOM(4))
    step = LockStep(CONFIG, small_image(), device, GoldenDevice(CONFIG, memory_bytes=MEMORY_BYTES))
    parts = [
        (0, [5, 40, 17], 1),
        (1, with_vectors([-1, 40, -1], rows[[5, 17]], SHAPE.hidden), 1),
        (2, with_vectors([3, -1, -1], vectors[:2], SHAPE.hidden), 1),
    ]
    step.run_pass(parts[:2])
    assert step.outcome.mismatches == 0, step.outcome.first
    assert step.rtl_result is not None
    plain, same = (run.words.tobytes() for run in step.rtl_result.runs)
    assert plain == same
    for pass_parts in (parts[2:], [(0, [9], 1), (2, with_vectors([], vectors[2:], SHAPE.hidden), 3)]):
        step.run_pass(pass_parts)
        assert step.outcome.mismatches == 0, step.outcome.first
    assert step.outcome.passes == 3
    assert device.clean()
