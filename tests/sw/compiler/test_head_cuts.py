"""How the rows of the head are cut where memories are small: the logits of a panel have room, and there are no more panels than
that takes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hwgen.config import BuildConfig
from hwgen.decoder import BITNET, LLAMA, QWEN3
from hwgen.descriptors import Fetch, Flag, Opcode
from hwgen.errors import HwgenError
from hwgen.sw.compiler.compile import compiler_of
from hwgen.weights import ModelWeights, random_weights

from .test_int4 import check
from .test_layers_compute import BOTH, GROUPED, ONE

#: 38 vectors of 8 rows. A token takes 16 vectors of scratch, 4 of which are its residual stream.
LONG = replace(ONE, vocab=300)


def ternary() -> ModelWeights:
    return random_weights(LONG, 3, BITNET)


def int4(**changes: Any) -> ModelWeights:
    return random_weights(replace(LONG, **changes), 3, LLAMA, "int4")


def grouped() -> ModelWeights:
    """A token takes 16 vectors of residual stream and 36 more; 63 vectors of rows."""
    return random_weights(replace(LONG, hidden=128, heads=8, ffn=128, vocab=500), 3, QWEN3, "grouped")


@pytest.mark.parametrize(("weights", "config", "cuts"), [
    # the scratch behind the stream has logits, and of ternary heads as many scales
    (ternary(), replace(BOTH, scratch_vectors=16), [6] * 6 + [2]), (ternary(), replace(BOTH, scratch_vectors=31), [13, 13, 12]),
    (grouped(), replace(GROUPED, scratch_vectors=66), [32, 31]), (grouped(), replace(GROUPED, scratch_vectors=79), [63]),
    (int4(hidden=256), replace(BOTH, scratch_vectors=44, max_inputs=512), [10, 10, 10, 8]),
    # places for scales of rows are as large as the widest matrix: 12 vectors
    (int4(), replace(BOTH, chunk=6), [10, 10, 10, 8]), (int4(ffn=160), BOTH, [19, 19]),
], ids=["ternary", "more", "grouped", "all", "int4", "scales", "wider"])
def test_panels_have_room(weights: ModelWeights, config: BuildConfig, cuts: list[int]) -> None:
    compiler = compiler_of(replace(config, panel_rows=1600, chunk=min(config.chunk, 6)), weights)
    spans = [panel.spans[0] for panel in compiler.head_panels()]
    assert [span.vectors for span in spans] == cuts
    assert [(span.first, span.target) for span in spans] == [(0, sum(cuts[:i])) for i in range(len(cuts))]
    compiler.plan_program()
    limit = compiler.config.scratch_vectors
    assert all(d.dst + d.vectors <= limit and d.src + d.vectors <= limit for d in compiler.program if d.opcode is Opcode.DRAIN)


def test_scales_of_as_many_panels_as_have_room_are_loaded_together() -> None:
    """Panels of four vectors, of which five have room behind the results of one: two loads, of 20 and of 18 vectors."""
    compiler = compiler_of(replace(BOTH, scratch_vectors=31, panel_rows=160), ternary())
    compiler.plan_program()
    assert compiler.plan.chunk == 1 and compiler.plan.qkv == 4
    program = [d for d in compiler.program if Flag.LOGITS in d.flags]
    loads = [d for d in program if d.opcode is Opcode.EMBED]
    assert all(d.fetch is Fetch.STREAM and d.token_count == 1 for d in loads)
    assert [(d.dst, d.vectors, d.stream_beats) for d in loads] == [(8, 20, 10), (8, 18, 10)]
    drains = [d for d in program if d.opcode is Opcode.DRAIN]
    assert [d.src for d in drains] == [8, 12, 16, 20, 24] * 2 and [d.stride for d in drains] == list(range(0, 320, 32))
    first, second = (compiler.memory.segments[f"head.scales.{part}"].region.offset for part in range(2))
    assert [d.stream_address for d in loads] == [first, second]
    check(compiler.config, ternary(), [3, 1])


@pytest.mark.parametrize(("weights", "config"), [
    (grouped(), replace(GROUPED, scratch_vectors=66)), (int4(hidden=256), replace(BOTH, scratch_vectors=44, max_inputs=512)),
], ids=["grouped", "int4"])
def test_logits_of_several_panels(weights: ModelWeights, config: BuildConfig) -> None:
    check(replace(config, panel_rows=1600), weights, [2, 1])


def test_scales_need_room_for_one_panel() -> None:
    """Rows of the short list in panels of 19 vectors: 4 of the stream, 19 of results and 19 of scales."""
    compiler_of(replace(BOTH, scratch_vectors=42, panel_rows=160, chunk=1), ternary(), "shortlist").plan_program()
    with pytest.raises(HwgenError, match="the short-head rows need 42 vectors of scratch, .* scratch_vectors=41") as caught:
        compiler_of(replace(BOTH, scratch_vectors=41, panel_rows=160, chunk=1), ternary(), "shortlist").plan_program()
    assert caught.value.kind == "model"
