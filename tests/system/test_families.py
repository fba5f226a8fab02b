"""Layers of every family on the generated hardware: every operator equals the golden machine's."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hwgen.decoder import BITNET, LLAMA, QWEN2, QWEN3, DecoderLayer
from hwgen.sim.dram import RANDOM
from hwgen.sw.devices.golden import GoldenDevice
from hwgen.sw.verification.lock_step import LockStep

from .small import CONFIG, MEMORY_BYTES, SHAPE, SmallDevice, small_image

#: Everything at once, as no published family has it.
ALL = DecoderLayer("all", (
    replace(BITNET.stages[0], biases=QWEN2.stages[0].biases, head_norms=QWEN3.head_norms), *BITNET.stages[1:],
))

SHAPES = {"llama": replace(SHAPE, unrotated=(1,), rope_scale=1.25), "qwen3": replace(SHAPE, rms_eps=0.25)}


@pytest.mark.parametrize("layer", [LLAMA, QWEN2, QWEN3, ALL], ids=lambda layer: layer.name)
def test_every_operator(layer: DecoderLayer) -> None:
    image = small_image(SHAPES.get(layer.name, SHAPE), layer=layer)
    device = SmallDevice(RANDOM(7))
    step = LockStep(CONFIG, image, device, GoldenDevice(CONFIG, memory_bytes=MEMORY_BYTES))
    for tokens in ([5, 40, 0, 17, 23, 8], [31, 2, 9], [11]):
        step.forward(tokens[: image.chunk], True)
    assert step.outcome.mismatches == 0, str(step.outcome.first)
    assert step.outcome.passes == 3 and device.clean()
