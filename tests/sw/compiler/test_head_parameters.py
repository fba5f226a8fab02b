"""Programs of families whose heads have biases, norms or no rotation, on the golden machine against the golden model."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hwgen.decoder import BITNET, LLAMA, QWEN2, QWEN3, DecoderLayer
from hwgen.descriptors import Flag, Format, Opcode
from hwgen.sw.compiler.compile import plan_model
from hwgen.weights import random_weights

from .test_int4 import CONFIG, SHAPE, check

BOTH = replace(CONFIG, engine="both")

#: Everything at once, as no published family has it.
ALL = DecoderLayer("all", (
    replace(BITNET.stages[0], biases=QWEN2.stages[0].biases, head_norms=QWEN3.head_norms), *BITNET.stages[1:],
))


@pytest.mark.parametrize("engine", ["int4", "ternary"])
@pytest.mark.parametrize(("layer", "changes"), [
    (LLAMA, {}), (LLAMA, {"unrotated": (1,), "rope_scale": 1.25}), (QWEN2, {}), (QWEN3, {"rms_eps": 0.5}),
    (ALL, {"unrotated": (0,)}),
], ids=["llama", "unrotated", "biases", "head norms", "all"])
def test_logits_equal_the_golden_models(layer: DecoderLayer, changes: dict[str, object], engine: str) -> None:
    check(BOTH, random_weights(replace(SHAPE, **changes), 1, layer, engine), [21, 1, 1, 5, 1])  # type: ignore[arg-type]


def test_ternary_matrices_without_norms_are_quantized_alone() -> None:
    program, _ = plan_model(BOTH, random_weights(SHAPE, 7, LLAMA))
    plain = [d for d in program if d.opcode is Opcode.NORM and Format.PLAIN in d.format]
    assert plain and all((d.scalar0, d.scalar1) == (0.0, 1.0) and Format.FP8 not in d.format for d in plain)


def test_a_row_of_biases_serves_all_tokens() -> None:
    program, chunk = plan_model(CONFIG, random_weights(SHAPE, 7, QWEN2, "int4"))
    added = [d for d in program if d.opcode is Opcode.DRAIN and Flag.ADD in d.flags and not d.src_stride]
    assert chunk > 1 and added and {d.src for d in added} >= {d.dst for d in program[2:] if d.opcode is Opcode.EMBED}
