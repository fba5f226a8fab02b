"""What ``/machine`` tells: the passes of the accelerator, and who holds what of it.

Counters of a pass are read by the runtime anyhow. The trace costs four register reads an operator, so it is read only while
somebody looks, and never for more than a twentieth of the time.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary

from ...descriptors import Descriptor
from ...registers import ENGINE_COUNTERS, register
from ..runtime.engine import PassResult
from ..runtime.jobs import Job
from ..runtime.llm import LLM
from ..runtime.pass_trace import TRACKS, PassTrace, read_trace
from ..runtime.scheduler import Scheduler

__all__ = ["MachineState"]

#: Passes that are kept for the curves of the page.
KEPT_PASSES = 240

#: Seconds without a question after which nobody looks.
LOOKED_AT = 5.0

#: Reading traces takes at most one part in so many of the time.
TRACE_SHARE = 20


@dataclass(frozen=True, kw_only=True)
class PassRecord:
    """One pass, as the page draws it. Times of day are seconds of the host's clock, ``seconds`` what the pass took there."""

    number: int
    ended: float
    prefill: bool
    seconds: float
    result: PassResult
    #: Whose tokens it computed: number of the answer, tokens it had before, tokens of this pass.
    runs: tuple[tuple[int, int, int], ...]
    #: Read data words taken, by memory port; empty where nobody looked.
    port_words: tuple[int, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON; names are those of `hwgen.registers`."""
        return {
            "number": self.number,
            "ended": self.ended,
            "phase": "prefill" if self.prefill else "decode",
            "tokens": self.result.tokens,
            "seconds": self.seconds,
            "cycles": self.result.cycles,
            "stream_beats": self.result.stream_beats,
        }


class MachineState:
    """Passes of one service as they end (:meth:`observe`, in the scheduler's thread), and what any thread may ask."""

    def __init__(self, llm: LLM) -> None:
        self._llm = llm
        self._passes: deque[PassRecord] = deque(maxlen=KEPT_PASSES)
        self._numbers = count(1)
        self._answers: WeakKeyDictionary[Job, int] = WeakKeyDictionary()
        self._answer_numbers = count(1)
        self._asked = self._next_trace = -LOOKED_AT
        #: Number of the pass that was traced last, and its trace.
        self._traced: tuple[int, PassTrace] | None = None

    # ---- the scheduler's thread ----------------------------------------------------------------------------------
    def wants_trace(self) -> bool:
        """Whether the next pass will be traced if it is no loop: the trace memory has room for one pass."""
        now = time.monotonic()
        return now - self._asked < LOOKED_AT and now >= self._next_trace

    def observe(self, jobs: Sequence[Job], result: PassResult, prefill: bool, seconds: float) -> None:
        """One pass of the accelerator, with a run for each of the jobs; no other has begun since."""
        number, now = next(self._numbers), time.monotonic()
        words: tuple[int, ...] = ()
        if self.wants_trace() and result.passes == 1:
            name = f"pass {number}: {result.tokens} {'prompt ' if prefill else ''}token{'s' if result.tokens > 1 else ''}"
            self._traced = (number, read_trace(self._llm.engine, name, result.cycles))
            words = self._port_words()
            ended = time.monotonic()
            self._next_trace = ended + TRACE_SHARE * (ended - now)
        runs = tuple(
            (self._answer(job), job.generation.session.position - run.tokens, run.tokens)
            for job, run in zip(jobs, result.runs, strict=True)
        )
        self._passes.append(PassRecord(
            number=number, ended=time.time(), prefill=prefill, seconds=seconds, result=result, runs=runs, port_words=words
        ))

    def _port_words(self) -> tuple[int, ...]:
        engine = self._llm.engine
        row = register(engine.config, "COUNT_PORT_BUSY")
        return tuple(engine.device.read_register(row.offset + i * row.step) for i in range(row.count))

    def _answer(self, job: Job) -> int:
        return self._answers.get(job) or self._answers.setdefault(job, next(self._answer_numbers))

    # ---- any thread ----------------------------------------------------------------------------------------------
    def machine(self) -> dict[str, Any]:
        """What does not change while the service lives."""
        llm = self._llm
        config, device = llm.engine.config, llm.engine.device
        return {
            "model": llm.model.name,
            "context": llm.image.context,
            "chat_template": llm.model.tokenizer.chat_template,
            "device": device.name,
            "simulated": device.simulated,
            "build": config.name,
            "engine": config.engine,
            "clock_mhz": config.clock_mhz,
            "chunk": llm.image.chunk,
            "ports": config.ports,
            "beat_bytes": config.beat_bytes,
            "ring_beats": config.ring_beats,
            "units": {name: [opcode.name for opcode in opcodes] for name, opcodes in TRACKS.items()},
            "engine_counters": dict(ENGINE_COUNTERS),
        }

    def passes(self, since: int = 0) -> dict[str, Any]:
        """Passes behind number ``since``, and the last one in full. Asking makes traces be read for a while."""
        self._asked = time.monotonic()
        kept = list(self._passes)
        if not kept:
            return {"passes": [], "last": None}
        last = kept[-1]
        full = {
            **last.to_dict(),
            "counters": last.result.counters,
            "operator_cycles": last.result.opcode_cycles,
            "runs": [{"answer": answer, "position": position, "tokens": tokens} for answer, position, tokens in last.runs],
        }
        return {"passes": [p.to_dict() for p in kept if p.number > since], "last": full}

    def sessions(self, scheduler: Scheduler) -> dict[str, Any]:
        """Who has a session or waits for one, and the pages of the KV cache."""
        engine, prefixes = self._llm.engine, self._llm.prefixes
        running, waiting = scheduler.jobs()
        held: set[int] = set()
        rows = []
        for job in running:
            generation, session = job.generation, job.generation.session
            pages = [*session.pages, *session.summaries.pages]
            held.update(pages)
            state = "parked" if session.parked is not None else "prompt" if generation.prefilling else "answer"
            rows.append({
                "answer": self._answer(job), "state": state, "position": session.position, "prompt": len(generation.prompt),
                "new": len(generation.tokens), "reused": generation.reused, "pages": len(pages),
            })
        free = engine.pages.free
        return {
            "running": rows,
            "waiting": [{"answer": self._answer(job), "prompt": len(job.generation.prompt)} for job in waiting],
            "pages": {
                "all": engine.image.pages, "free": free, "kept": max(0, engine.image.pages - free - len(held)),
                "tokens": engine.config.kv_block,
            },
            "prefixes": 0 if prefixes is None else len(prefixes),
        }

    def trace(self) -> dict[str, Any] | None:
        """The pass that was traced last; None before the first. Rows of ``operators``: name, first cycle, cycle of the
        end, layer (None where the program that ran is not that of a whole pass), active tokens, beats in the ring at both ends.
        """
        self._asked = time.monotonic()
        if self._traced is None:
            return None
        number, trace = self._traced
        record = next((p for p in list(self._passes) if p.number == number), None)
        program = self._program(trace)
        rows = [
            (e.opcode.name, e.start, e.end, program[e.tag].layer if program else None, e.tokens, e.level_start, e.level_end)
            for e in trace.entries
        ]
        executed = record.result.counters["operators"] if record is not None else len(rows)
        return {
            "number": number, "name": trace.name, "cycles": trace.cycles, "operators": rows, "executed": executed,
            "port_words": record.port_words if record is not None else (),
        }

    def _program(self, trace: PassTrace) -> Sequence[Descriptor]:
        """The program that the tags of a trace count in; empty where it is another than that of a whole pass."""
        program = self._llm.image.descriptors
        fits = all(e.tag < len(program) and program[e.tag].opcode is e.opcode for e in trace.entries)
        return program if fits else ()
