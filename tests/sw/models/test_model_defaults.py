"""What callers of models may leave out, and what they get then."""

from __future__ import annotations

from hwgen.sw.models.bitnet import Quantization
from hwgen.sw.models.four_bits import OnTheFly
from hwgen.sw.models.llama_classes import LlamaClass
from hwgen.sw.models.open import open_model
from hwgen.sw.models.random_model import RandomModel, random_model
from hwgen.sw.models.rotary_scaling import Rotary, yarn_attention, yarn_factors
from hwgen.sw.models.sentence_piece import Piece, SentencePieces
from tests.test_defaults import Default, check_defaults

DEFAULTS: list[Default] = [
    (RandomModel, {"seed": 0, "group": 128, "kv": "k8v8", "query": "int8"}),
    (random_model, {"seed": 0, "kv": "k8v8", "context": 0}), (Rotary, {"factors": (), "scale": 1.0}),
    (yarn_factors, {"truncate": True}), (yarn_attention, {"mscale": 1.0}), (open_model, {"quantized": False}),
    (Quantization, {"divides": False, "online": True, "said": False}),
    (OnTheFly, {"group": 32, "lost": 0.0, "whole": 0.0, "found": 0}),
    (LlamaClass, {
        "default_theta": 10000.0, "default_eps": 1e-6, "default_tied": False, "window_asked": False, "wanted": (),
    }),
    (Piece, {"score": 0.0, "kind": 1}),
    (SentencePieces, {
        "unigram": True, "byte_fallback": False, "unknown": 0, "begin": 1, "end": 2, "prefix": True, "trim": True,
    }),
]


def test_defaults() -> None:
    check_defaults(DEFAULTS)
