"""What callers may leave out, and what they get then: every number, switch and word that has a default, by its promise."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

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
from hwgen.sw.compiler.compile import compile_model, plan_image, plan_model
from hwgen.sw.compiler.file_sections import sector_checksum
from hwgen.sw.compiler.head_parameters import load_parameters
from hwgen.sw.compiler.image import Image
from hwgen.sw.compiler.layers import Panel
from hwgen.sw.compiler.pass_costs import PassCosts
from hwgen.sw.compiler.pass_model import PassModel, Ring
from hwgen.sw.compiler.placement import plan_scratch
from hwgen.sw.devices.board_checks import Check, check_board
from hwgen.sw.devices.golden import GoldenDevice
from hwgen.sw.devices.pynq import PynqDevice
from hwgen.sw.devices.watch import WatchLimits
from hwgen.sw.models.bitnet import Quantization
from hwgen.sw.models.four_bits import OnTheFly
from hwgen.sw.models.llama_classes import LlamaClass
from hwgen.sw.models.open import open_model
from hwgen.sw.models.random_model import RandomModel, random_model
from hwgen.sw.models.rotary_scaling import Rotary, yarn_attention, yarn_factors
from hwgen.sw.models.sentence_piece import Piece, SentencePieces
from hwgen.sw.runtime.answers import AnswerSet
from hwgen.sw.runtime.conversation import Conversation
from hwgen.sw.runtime.document_passes import Placement
from hwgen.sw.runtime.documents import DocumentStore
from hwgen.sw.runtime.drafts import Drafter
from hwgen.sw.runtime.engine import Engine, PassResult, Run
from hwgen.sw.runtime.generation import Generation, Phase
from hwgen.sw.runtime.llm import LLM
from hwgen.sw.runtime.pass_room import cycles_of
from hwgen.sw.runtime.pass_trace import PassTrace
from hwgen.sw.runtime.prefix_cache import PrefixCache
from hwgen.sw.runtime.sampling import Sampling
from hwgen.sw.runtime.scheduler import Scheduler
from hwgen.sw.runtime.session_file import pack_session, save_session
from hwgen.sw.runtime.vector_tokens import with_vectors
from hwgen.weights import ModelWeights, random_weights

#: Sampling that changes nothing: the best token, no penalty, nobody left out.
GREEDY = {
    "temperature": 0.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0,
    "frequency_penalty": 0.0, "seed": 0,
}
DEFAULTS: list[tuple[Callable[..., Any], dict[str, object]]] = [
    # ---- what shapes numbers: nothing is scaled, moved or mixed that nobody asked for
    (Draw, {"count": 1, "scale": 0, "key": 0}), (draw_key, {"part": 0}), (Vectors, {"base": 0, "stride": 0, "count": 0}),
    (score_constant, {"fp8_query": False, "mixes": 0}), (blob_beats, {"beats": 0}),
    (Register, {"count": 1, "step": 4, "fields": ()}),
    (affine_blocks, {"group": 32}), (row_scales, {"scale_max": 255, "midpoint_max": 127}), (symmetric_scales, {"margin": 1.0}),
    (round_to_nearest, {"midpoints": False}), (Stage, {"biases": (), "head_norms": ()}),
    (ModelShape, {
        "activation": "relu2", "max_context": 512, "rope_theta": 10000.0, "rope_factors": (), "rope_scale": 1.0, "unrotated": (),
        "rms_eps": 1e-5, "tied": True,
    }),
    (ModelWeights, {"kv": "k8v8", "query": "int8"}), (Panel, {"row_scales": (0, 0)}),
    (load_parameters, {"layer": 0, "flags": 0, "buffers": 0}), (plan_scratch, {"biases": 0}),
    (random_weights, {"seed": 0, "engine": "ternary", "group": 32, "symmetric": False, "kv": "k8v8", "query": "int8"}),
    (RandomModel, {"seed": 0, "group": 128, "kv": "k8v8", "query": "int8"}),
    (random_model, {"seed": 0, "kv": "k8v8", "context": 0}),
    (Rotary, {"factors": (), "scale": 1.0}), (yarn_factors, {"truncate": True}), (yarn_attention, {"mscale": 1.0}),
    # ---- models
    (open_model, {"quantized": False}), (Quantization, {"divides": False, "online": True, "said": False}),
    (OnTheFly, {"group": 32, "lost": 0.0, "whole": 0.0, "found": 0}),
    (LlamaClass, {
        "default_theta": 10000.0, "default_eps": 1e-6, "default_tied": False, "window_asked": False, "wanted": (),
    }),
    (Piece, {"score": 0.0, "kind": 1}),
    (SentencePieces, {
        "unigram": True, "byte_fallback": False, "unknown": 0, "begin": 1, "end": 2, "prefix": True, "trim": True,
    }),
    # ---- images and passes
    (compile_model, {"name": "model", "head": "exact"}), (plan_image, {"name": "model", "head": "exact"}),
    (plan_model, {"head": "exact"}), (Image.memory_bytes, {"spare": 2**20}), (sector_checksum, {"before": 0}),
    (PassCosts.cycles, {"blocks": 0}), (PassModel, {"head": "exact", "kv": "k8v8", "engine": "ternary"}),
    (PassModel.run, {"wanted": 1}), (Ring, {"step": 256}),
    # ---- devices and boards
    (Platform, {"kria": False, "constraints": (), "notes": ()}), (Board, {"variant": "", "chosen_by": ""}),
    (replacing, {"durable": False}), (Check, {"optional": False}), (check_board, {"needed": 0}),
    (GoldenDevice, {"memory_bytes": 2**30}), (PynqDevice, {"download": True, "memory_bytes": 0, "call_seconds": 60.0}),
    (WatchLimits, {"idle_cycles": 4_000_000, "silence": 10.0}),
    # ---- answers
    (Sampling, GREEDY), (Run, {"wanted": 0}), (PassResult, {"passes": 1}), (PassTrace, {"runs": ()}),
    (Engine.run_pass, {"write_logits": False}), (Engine.forward, {"logits": True, "write_logits": False}),
    (Engine.prefill, {"write_logits": False}), (Engine.logits, {"number": 0}), (Engine.logits_in_place, {"number": 0}),
    (Phase, {"tokens": 0, "cycles": 0, "stream_beats": 0, "wall_s": 0.0}),
    (Generation, {"stop_tokens": (), "context_full": "stop", "stop_reason": "length", "keep": 0, "doorbell_passes": 1}),
    (Generation.next_pass, {"tokens": 0, "wanted": 0}), (Placement, {"tokens": 0, "placed": 0, "recomputed": 0}),
    (Drafter.propose, {"tokens": 0, "wanted": 0}), (cycles_of, {"tokens": 0}), (with_vectors, {"first": 0}),
    (AnswerSet.write, {"first_finish": False}), (Conversation, {"max_new_tokens": 256}), (DocumentStore, {"recompute": 0.15}),
    (PrefixCache.add, {"whole_pages": False}), (save_session, {"kv_bits": 8}), (pack_session, {"kv_bits": 8}),
    (Drafter, {"proposed": 0, "accepted": 0, "passes": 0}),
    (Scheduler, {
        "max_running": 8, "max_waiting": 64, "time_between_tokens": 1.1, "back_off": (0.0, 1.0, 4.0, 15.0, 60.0), "loop_passes": 1,
    }),
    (LLM.generate, {**GREEDY, "prompt": "", "context_full": "stop", "documents": (), "max_new_tokens": 128, "chat": False}),
    (LLM.answers, {"n": 1, "first_finish": False, "max_new_tokens": 128, "chat": False}), (LLM.save_session, {"kv_bits": 8}),
]


@pytest.mark.parametrize(("of", "expected"), DEFAULTS, ids=[of.__qualname__ for of, _ in DEFAULTS])
def test_defaults(of: Callable[..., Any], expected: dict[str, object]) -> None:
    """Numbers, switches, words and lists; what is made anew for each, and None, is left out."""
    parameters = inspect.signature(of).parameters.items()
    found = {name: p.default for name, p in parameters if isinstance(p.default, (bool, int, float, str, tuple)) and name[0] != "_"}
    assert {name: (type(value) is bool, value) for name, value in found.items()} == {
        name: (type(value) is bool, value) for name, value in expected.items()
    }
