"""What callers may leave out, and what they get then: every number, switch and word that has a default, by its promise."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from hwgen.boards import Board, Platform
from hwgen.decoder import Stage
from hwgen.draw import Draw, draw_key
from hwgen.files import replacing
from hwgen.formats import score_constant
from hwgen.int4 import affine_blocks, round_to_nearest, row_scales, symmetric_scales
from hwgen.layout import blob_beats
from hwgen.operators import Vectors
from hwgen.registers import Register
from hwgen.shape import ModelShape
from hwgen.weights import ModelWeights, random_weights

Default = tuple[Callable[..., Any], dict[str, object]]

#: What shapes numbers: nothing is scaled, moved or mixed that nobody asked for.
DEFAULTS: Sequence[Default] = [
    (Draw, {"count": 1, "scale": 0, "key": 0}), (draw_key, {"part": 0}), (Vectors, {"base": 0, "stride": 0, "count": 0}),
    (score_constant, {"fp8_query": False, "mixes": 0}), (blob_beats, {"beats": 0}),
    (Register, {"count": 1, "step": 4, "fields": ()}), (affine_blocks, {"group": 32}),
    (row_scales, {"scale_max": 255, "midpoint_max": 127}), (symmetric_scales, {"margin": 1.0}),
    (round_to_nearest, {"midpoints": False}), (Stage, {"biases": (), "head_norms": ()}),
    (ModelShape, {
        "activation": "relu2", "max_context": 512, "rope_theta": 10000.0, "rope_factors": (), "rope_scale": 1.0, "unrotated": (),
        "rms_eps": 1e-5, "tied": True,
    }),
    (ModelWeights, {"kv": "k8v8", "query": "int8"}),
    (random_weights, {"seed": 0, "engine": "ternary", "group": 32, "symmetric": False, "kv": "k8v8", "query": "int8"}),
    (Platform, {"kria": False, "constraints": (), "notes": ()}), (Board, {"variant": "", "chosen_by": ""}),
    (replacing, {"durable": False}),
]


def check_defaults(defaults: Sequence[Default]) -> None:
    """Of every function and class the numbers, switches, words and lists; what is made anew for each, and None, is left out."""
    for of, expected in defaults:
        found = {
            name: p.default for name, p in inspect.signature(of).parameters.items()
            if isinstance(p.default, (bool, int, float, str, tuple)) and name[0] != "_"
        }
        assert found == expected, of.__qualname__
        assert {name: type(value) is bool for name, value in found.items()} == {n: type(v) is bool for n, v in expected.items()}


def test_defaults() -> None:
    check_defaults(DEFAULTS)
