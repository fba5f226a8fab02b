"""What programs leave in the parameter memory: nothing is loaded over what an operator that may still run reads."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hwgen.decoder import BITNET, LLAMA, QWEN2, QWEN3, DecoderLayer
from hwgen.descriptors import Buffers, Descriptor, Opcode
from hwgen.operators import OPERATORS, Vectors, must_wait
from hwgen.sw.compiler.compile import plan_model
from hwgen.weights import random_weights

from .test_head_parameters import ALL, BOTH
from .test_int4 import SHAPE


def vectors(place: Vectors, d: Descriptor) -> set[int]:
    tokens = range(d.token_start, d.token_start + d.token_count) if place.stride else range(1)
    return {vector for token in tokens for vector in place.of(token)}


def read(d: Descriptor) -> set[int]:
    return vectors(OPERATORS[d.opcode].param_reads(d), d)


def written(d: Descriptor) -> set[int]:
    return vectors(OPERATORS[d.opcode].param_writes(d), d)


def races(program: list[Descriptor]) -> list[tuple[int, int]]:
    """Pairs, earlier first, of which one writes what the other uses, though the later one may start before the earlier one has
    ended. Operators start in order, so that it is enough if the later one, or one between them, waits for the earlier one.
    """
    found = []
    for i, later in enumerate(program):
        for j in range(i - 1, -1, -1):
            earlier = program[j]
            if any(must_wait(between, earlier) for between in program[j + 1 : i + 1]):
                continue
            if written(later) & (read(earlier) | written(earlier)) or read(later) & written(earlier):
                found.append((j, i))
    return found


@pytest.mark.parametrize("engine", ["int4", "ternary"])
@pytest.mark.parametrize("layer", [BITNET, LLAMA, QWEN2, QWEN3, ALL], ids=lambda layer: layer.name)
def test_nothing_is_loaded_over_what_is_read(layer: DecoderLayer, engine: str) -> None:
    shape = replace(SHAPE, unrotated=(1,)) if layer is LLAMA else SHAPE
    for config in (BOTH, replace(BOTH, panel_rows=48)):
        program, _ = plan_model(config, random_weights(shape, 1, layer, engine))
        program = [d for d in program if d.opcode is not Opcode.END]
        loads = [d for d in program if d.opcode is Opcode.PARAM]
        assert {bool(d.buffers & Buffers.PARAMETER) for d in loads} == {False, True}
        assert not races(program)


def test_a_load_into_the_wrong_place_is_found() -> None:
    program, _ = plan_model(BOTH, random_weights(SHAPE, 1, BITNET, "ternary"))
    gains = [i for i, d in enumerate(program) if d.opcode is Opcode.PARAM]
    here = gains[2]
    read_now = next(d for d in reversed(program[:here]) if d.opcode is Opcode.NORM)
    program[here] = replace(program[here], dst=read_now.param)
    assert any(i == here for _, i in races([d for d in program if d.opcode is not Opcode.END]))
