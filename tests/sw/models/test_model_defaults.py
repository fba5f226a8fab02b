"""What callers of models may leave out, and what they get then."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from hwgen.sw.models import bitnet, grouped_llama, llama, ternary_llama
from hwgen.sw.models.bitnet import Quantization
from hwgen.sw.models.config_json import _flag, read_config, shape_from_config
from hwgen.sw.models.four_bits import OnTheFly
from hwgen.sw.models.gguf_tokenizer import _Words
from hwgen.sw.models.llama_classes import LlamaClass
from hwgen.sw.models.open import open_model
from hwgen.sw.models.random_model import RandomModel, random_model
from hwgen.sw.models.rotary_scaling import Rotary, llama3_factors, yarn_attention, yarn_factors
from hwgen.sw.models.sentence_piece import Piece, SentencePieces, build_tokenizer
from hwgen.sw.models.tokenizer import Tokenizer, _ids
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
    (shape_from_config, {"default_tied": False, "window_asked": False}), (read_config, {"name": "config.json"}),
    (_flag, {"default": False}), (_Words, {"digits": False, "whole_words": False, "begins": False}),
    (build_tokenizer, {"first_only": False}), (Piece, {"score": 0.0, "kind": 1}),
    (SentencePieces, {
        "unigram": True, "byte_fallback": False, "unknown": 0, "begin": 1, "end": 2, "prefix": True, "trim": True,
    }),
]


def test_defaults() -> None:
    check_defaults(DEFAULTS)


#: How many arguments may be given without their names, and the others.
NAMED: list[tuple[Callable[..., Any], int, set[str]]] = [
    *((module.assemble, 5, {"layer"}) for module in (bitnet, grouped_llama, llama, ternary_llama)),
    (bitnet.save_model, 3, {"end_token"}), (llama.save_llama, 2, {"recipe", "tokenizer", "stop_tokens"}),
    (open_model, 2, {"engine", "quantized"}), (build_tokenizer, 1, {"first_only"}),
    (llama3_factors, 0, {"factor", "low", "high", "original", "theta", "head_dim"}),
    (yarn_factors, 0, {"factor", "fast", "slow", "original", "theta", "head_dim", "truncate"}),
    (Tokenizer, 1, {"chat_template", "names"}), (_ids, 2, {"add_special_tokens"}),
    (shape_from_config, 1, {
        "activations", "default_activation", "default_theta", "default_eps", "default_kv_heads", "default_tied", "own",
        "window_asked",
    }),
]


@pytest.mark.parametrize(("of", "count", "named"), NAMED, ids=lambda value: getattr(value, "__qualname__", None))
def test_options_have_names_in_every_call(of: Callable[..., Any], count: int, named: set[str]) -> None:
    """So that they may get others before them; what stands before them may have its name, too."""
    parameters = inspect.signature(of).parameters.values()
    kinds = {kind: [p.name for p in parameters if p.kind is kind] for kind in {p.kind for p in parameters}}
    kinds.pop(inspect.Parameter.VAR_KEYWORD, None)
    assert set(kinds.pop(inspect.Parameter.KEYWORD_ONLY)) == named
    assert len(kinds.pop(inspect.Parameter.POSITIONAL_OR_KEYWORD, ())) == count and not kinds
