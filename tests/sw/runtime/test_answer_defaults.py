"""What callers of answers may leave out, and what they get then."""

from __future__ import annotations

from hwgen.sw.runtime.answers import AnswerSet
from hwgen.sw.runtime.conversation import Conversation
from hwgen.sw.runtime.document_passes import Placement
from hwgen.sw.runtime.documents import DocumentStore
from hwgen.sw.runtime.drafts import Drafter
from hwgen.sw.runtime.engine import Engine, PassResult, Run
from hwgen.sw.runtime.generation import Generation
from hwgen.sw.runtime.llm import LLM, Answer
from hwgen.sw.runtime.pass_room import cycles_of
from hwgen.sw.runtime.pass_trace import PassTrace
from hwgen.sw.runtime.phase import Phase
from hwgen.sw.runtime.prefix_cache import PrefixCache
from hwgen.sw.runtime.sampling import Sampling
from hwgen.sw.runtime.scheduler import Scheduler
from hwgen.sw.runtime.session_file import pack_session, save_session
from hwgen.sw.runtime.vector_tokens import with_vectors
from tests.test_defaults import Default, check_defaults

#: Sampling that changes nothing: the best token, no penalty, nobody left out.
GREEDY = {
    "temperature": 0.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0,
    "frequency_penalty": 0.0, "seed": 0,
}
DEFAULTS: list[Default] = [
    (Sampling, GREEDY), (Run, {"wanted": 0, "budget": 0}), (PassResult, {"passes": 1}), (PassTrace, {"runs": ()}),
    (Engine.run_pass, {"write_logits": False}), (Engine.forward, {"logits": True, "write_logits": False}),
    (Engine.prefill, {"write_logits": False}), (Engine.logits, {"number": 0}), (Engine.logits_in_place, {"number": 0}),
    (Phase, {"tokens": 0, "cycles": 0, "stream_beats": 0, "wall_s": 0.0}),
    (Generation, {
        "stop_tokens": (), "context_full": "stop", "stop_reason": "length", "keep": 0, "doorbell_passes": 1, "kv_budget": 0,
    }),
    (Generation.next_pass, {"tokens": 0, "wanted": 0}), (Placement, {"tokens": 0, "placed": 0, "recomputed": 0}),
    (Drafter.propose, {"tokens": 0, "wanted": 0}), (cycles_of, {"tokens": 0}), (with_vectors, {"first": 0}),
    (AnswerSet.write, {"first_finish": False}), (Conversation, {"max_new_tokens": 256, "kv_budget": 0}),
    (DocumentStore, {"recompute": 0.15}),
    (PrefixCache.add, {"whole_pages": False}), (save_session, {"kv_bits": 8}), (pack_session, {"kv_bits": 8}),
    (Drafter, {"proposed": 0, "accepted": 0, "passes": 0}),
    (Scheduler, {
        "max_running": 8, "max_waiting": 64, "time_between_tokens": 1.1, "back_off": (0.0, 1.0, 4.0, 15.0, 60.0), "loop_passes": 1,
    }),
    (LLM.generate, {
        **GREEDY, "prompt": "", "context_full": "stop", "documents": (), "max_new_tokens": 128, "chat": False, "kv_budget": 0,
    }),
    (LLM, {"model": "stories", "device": "verilator", "reuse": True, "draft": "lookup"}), (LLM.beside, {"reuse": True}),
    (Answer, {"keep_session": False}),
    (LLM.answers, {"n": 1, "first_finish": False, "max_new_tokens": 128, "chat": False, "kv_budget": 0}),
    (LLM.save_session, {"kv_bits": 8}),
]


def test_defaults() -> None:
    check_defaults(DEFAULTS)
