"""The operator table: complete wherever it is read, and true of the golden machine."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from hwgen.config import BuildConfig
from hwgen.decoder import LLAMA
from hwgen.descriptors import Buffers, Descriptor, Fetch, Flag, Format, Opcode
from hwgen.golden.machine import GoldenMachine
from hwgen.operators import (
    OPERATORS,
    State,
    Unit,
    Vectors,
    active_tokens,
    check_complete,
    has_more_rounds,
    rope_heads,
    segments,
    skipped,
)
from hwgen.sw.compiler.compile import compile_model
from hwgen.sw.compiler.image import Image
from hwgen.sw.compiler.pass_model import COSTS
from hwgen.sw.runtime.pass_trace import TRACKS
from hwgen.weights import random_weights

from .golden.passes import Host
from .sw.compiler.test_int4 import CONFIG as INT4
from .sw.compiler.test_int4 import SHAPE as INT4_SHAPE
from .system.small import CONFIG, SHAPE

EXECUTED = set(Opcode) - {Opcode.END}


# ---- complete --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("reader", "found"),
    [
        ("the table", set(OPERATORS)),
        ("golden machine", {o for o in Opcode if hasattr(GoldenMachine, f"_{o.name.lower()}")}),
        ("estimate", set(COSTS)),
        ("timeline", {o for opcodes in TRACKS.values() for o in opcodes}),
    ],
)
def test_no_reader_forgets_an_operator(reader: str, found: set[Opcode]) -> None:
    assert found == EXECUTED, f"{reader}: {', '.join(o.name for o in EXECUTED ^ found)}"


def test_what_is_missing_is_named() -> None:
    with pytest.raises(AssertionError, match=r"here: NORM is missing, HEAD is missing"):
        check_complete(EXECUTED - {Opcode.HEAD, Opcode.NORM}, "here")
    with pytest.raises(AssertionError, match=r"here: END does not belong there"):
        check_complete(set(Opcode), "here")


#: Imports the readers one by one, with one more opcode than they know; each must refuse. A module is given what it lacks when it
#: has refused, so that the next one is asked.
FORGETFUL = """
import importlib.util, sys
from pathlib import Path
from types import ModuleType

def load(name, change=lambda text: text):
    spec = importlib.util.find_spec(name)
    module = sys.modules[name] = ModuleType(name)
    module.__package__, module.__file__ = name.rpartition(".")[0], spec.origin
    try:
        exec(compile(change(Path(spec.origin).read_text()), spec.origin, "exec"), module.__dict__)
    except AssertionError as error:
        print(error)
    return module

descriptors = load("hwgen.descriptors", lambda text: text.replace("    HEAD = 10\\n", "    HEAD = 10\\n    NEW = 11\\n"))
new, norm = descriptors.Opcode.NEW, descriptors.Opcode.NORM
for name, table in (("hwgen.operators", "OPERATORS"), ("hwgen.golden.machine", None), ("hwgen.sw.compiler.pass_model", "COSTS")):
    module = load(name)
    if table:
        getattr(module, table)[new] = getattr(module, table)[norm]
"""


def test_a_new_opcode_is_refused_everywhere() -> None:
    run = subprocess.run([sys.executable, "-c", FORGETFUL], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert [line.partition(":")[0].split(",")[0] for line in lines] == [
        "hwgen/operators.py", "golden/machine.py", "sw/compiler/pass_model.py",
    ]
    assert all(line.endswith(": NEW is missing") for line in lines)


NO_VECTORS = Vectors()


# ---- true ------------------------------------------------------------------------------------------------------------
def changing(machine: GoldenMachine) -> dict[str, npt.NDArray[np.generic]]:
    """Every memory on the chip."""
    names = ("scratch", "param", "activation", "activation_scale", "accumulator", "query", "query_scale", "head_query",
             "head_scale", "kv_store", "kv_scale", "scores")
    return {name: getattr(machine, name) for name in names}


def vectors(at: Vectors, tokens: Sequence[int]) -> list[int]:
    return sorted({v for token in tokens for v in at.of(token)})


def places(
    d: Descriptor, tokens: Sequence[int], scratch: Vectors, param: Vectors, state: State, row: Vectors = NO_VECTORS
) -> dict[str, object]:
    """Index of what the table names, by memory."""
    half = {"activation": int(Buffers.ACTIVATION in d.buffers), "accumulator": int(Buffers.ACCUMULATOR in d.buffers)}
    found: dict[str, object] = {"scratch": vectors(scratch, tokens) + list(row.of(0)), "param": vectors(param, tokens)}
    for flag, names in {
        State.ACTIVATIONS: ("activation",), State.ACCUMULATORS: ("accumulator",), State.SCALES: ("activation_scale",),
        State.QUERIES: ("query", "query_scale"), State.HEAD_INPUT: ("head_query", "head_scale"), State.SCORES: ("scores",),
    }.items():
        if flag in state:
            found.update({name: half.get(name, slice(None)) for name in names})
    kinds = [kind for kind, flag in enumerate((State.KEYS, State.VALUES)) if flag in state]
    return {**found, "kv_store": kinds, "kv_scale": kinds}


class Suspicious(GoldenMachine):
    """Executes every operator twice: the second time, on a chip with noise wherever the table says that it does not read."""

    def __init__(self, config: BuildConfig, memory_bytes: int) -> None:
        super().__init__(config, memory_bytes)
        self.random = np.random.default_rng(1)
        self.used: set[tuple[Opcode, str]] = set()

    def noise(self, array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        if array.dtype == np.float32:
            return self.random.standard_normal(array.shape).astype(np.float32)
        low, high = (0, 0x3F80) if array.dtype == np.uint16 else (-7, 8)
        return self.random.integers(low, high, array.shape).astype(array.dtype)

    def _execute(self, d: Descriptor) -> None:
        row, tokens = OPERATORS[d.opcode], range(self.first, self.first + self.count)
        wanted = d.opcode is Opcode.NORM and Flag.LOGITS in d.flags
        of = self.registers.want[self.first : self.first + self.count] if wanted else tokens
        reads = places(d, of, row.scratch_reads(d), row.param_reads(d), row.reads(d), row.row_reads(d))
        writes = places(d, tokens, row.scratch_writes(d), row.param_writes(d), row.writes(d))
        before = {name: array.copy() for name, array in changing(self).items()}
        outside, held, counters = self.memory.copy(), self._held, self.registers.counters.copy()
        candidates = [list(c) for c in self.registers.candidates]
        super()._execute(d)
        after = {name: array.copy() for name, array in changing(self).items()}
        results = self.memory.copy(), self.logits.copy(), [list(c) for c in self.registers.candidates]
        noisy = {}
        for name, array in before.items():
            noisy[name] = self.noise(array)
            noisy[name][reads.get(name, [])] = array[reads.get(name, [])]
            setattr(self, name, noisy[name].copy())
        self.writable(0, outside.size)[:], self._held, self.registers.counters = outside, held, counters
        self.registers.candidates[:] = candidates
        super()._execute(d)
        for name, array in changing(self).items():
            if array.shape == before[name].shape:
                touched = (after[name] != before[name]) | (array != noisy[name])
                same = np.array_equal(array[touched], after[name][touched])
                assert same, f"{d.opcode.name} reads more than its row says ({name})"
                if touched.any():
                    self.used.add((d.opcode, name))
                touched[writes.get(name, [])] = False
                assert not touched.any(), f"{d.opcode.name} writes more than its row says ({name})"
            else:  # a new list of scores
                assert name in writes and np.array_equal(array, after[name])
            setattr(self, name, after[name])
        assert np.array_equal(self.memory, results[0]) and np.array_equal(self.logits, results[1])
        assert self.registers.candidates == results[2], d.opcode.name


def ternary(head: str) -> Callable[[], Image]:
    return lambda: compile_model(CONFIG, random_weights(SHAPE, seed=11), head=head)


@pytest.mark.parametrize("make", [
    ternary("exact"), ternary("shortlist"),
    lambda: compile_model(INT4, random_weights(INT4_SHAPE, 1, LLAMA, "int4", kv="k4v4", query="e4m3", group=64)),
], ids=["exact", "shortlist", "int4"])
def test_the_table_is_true_of_the_golden_machine(make: Callable[[], Image], monkeypatch: pytest.MonkeyPatch) -> None:
    image = make()
    monkeypatch.setattr("tests.golden.passes.GoldenMachine", Suspicious)
    host = Host(image.config, image)
    executed = host.run(0, list(range(image.chunk))) + host.run(image.chunk, [5, 4, 3])
    listed = image.head == "shortlist"
    assert {d.opcode for d in executed} == EXECUTED - (set() if listed else {Opcode.HEAD})
    machine = host.machine
    assert isinstance(machine, Suspicious)
    assert {(Opcode.LINEAR, "accumulator"), (Opcode.DRAIN, "scratch"), (Opcode.ROPE, "query"), (Opcode.ROPE, "kv_store"),
            (Opcode.NORM, "activation"), (Opcode.PARAM, "param")} <= machine.used
    assert ((Opcode.NORM, "head_query") in machine.used) == listed
    fetched = sum(
        d.stream_beats * segments(d, len(active_tokens(d, 3, 1)), -(-image.chunk // image.config.kv_block))
        for d in executed[-len([d for d in image.descriptors if not skipped(d, 3, 1)]) :]
    )
    assert machine.registers.counters["stream_beats"] == fetched


# ---- functions of a descriptor ---------------------------------------------------------------------------------------
def test_tokens() -> None:
    d = Descriptor(token_start=2, token_count=3)
    assert [list(active_tokens(d, tokens, 1)) for tokens in (3, 4, 5, 6)] == [[2], [2, 3], [2, 3, 4], [2, 3, 4]]
    assert skipped(d, 2, 2) and not skipped(d, 3, 0)
    assert [has_more_rounds(d, tokens, 9) for tokens in (4, 5, 6)] == [False, False, True]
    wanted = replace(d, flags=Flag.LOGITS)
    assert list(active_tokens(wanted, 8, 4)) == [2, 3] and skipped(wanted, 8, 2) and not skipped(wanted, 8, 3)
    assert has_more_rounds(wanted, 6, 6) and not has_more_rounds(wanted, 6, 5)
    multi = replace(d, flags=Flag.MULTI)
    assert skipped(multi, 6, 6) and not skipped(multi, 7, 0)
    choosing = replace(d, flags=Flag.CHOOSE)
    assert skipped(choosing, 3, 0) and not skipped(choosing, 3, 0, chooses=True) and skipped(choosing, 2, 0, chooses=True)


def test_heads_and_segments() -> None:
    d = Descriptor(opcode=Opcode.ROPE, flags=Flag.VALUES | Flag.QUERIES, heads=6, kv_heads=2, head_vectors=4, src=9, src_stride=50)
    assert list(rope_heads(d).items()) == [(Flag.QUERIES, 6), (Flag.VALUES, 2)]
    assert OPERATORS[Opcode.ROPE].scratch_reads(d) == Vectors(9, 50, 32)
    assert OPERATORS[Opcode.ROPE].scratch_writes(d) == Vectors(9, 50, 24)
    assert OPERATORS[Opcode.ROPE].row_reads(d) == Vectors()
    added = replace(d, flags=Flag.KEYS | Flag.STORE | Flag.ADD, format=Format.MIX, dst=700)
    assert OPERATORS[Opcode.ROPE].row_reads(added) == Vectors(700, 0, 8)
    counts = {fetch: segments(replace(d, fetch=fetch, row_blocks=7), 5, 3) for fetch in Fetch}
    assert counts == {
        Fetch.NONE: 0, Fetch.STREAM: 1, Fetch.TOKEN: 5, Fetch.POSITION: 5, Fetch.CACHE: 6, Fetch.SHORTLIST: 7, Fetch.SUMMARY: 6,
    }


def test_places_of_parameters_and_ranks() -> None:
    """What is one row for all tokens has no stride; the first row of the vocabulary begins anew, others go on from those before."""
    load = Descriptor(opcode=Opcode.PARAM, dst=40, dst_stride=3, vectors=6, token_count=1)
    assert OPERATORS[Opcode.PARAM].param_writes(load) == Vectors(40, 0, 6)
    assert OPERATORS[Opcode.ROTARY].param_writes(load) == Vectors(40, 3, 6)
    norm = Descriptor(opcode=Opcode.NORM, param=9, src=5, src_stride=7, vectors=4, heads=3)
    assert OPERATORS[Opcode.NORM].param_reads(norm) == Vectors(9, 0, 4)
    assert OPERATORS[Opcode.NORM].scratch_reads(norm) == Vectors(5, 7, 4) and not OPERATORS[Opcode.NORM].scratch_writes(norm).count
    of_heads = replace(norm, flags=Flag.STORE)
    assert OPERATORS[Opcode.NORM].scratch_reads(of_heads) == OPERATORS[Opcode.NORM].scratch_writes(of_heads) == Vectors(5, 7, 12)
    drain = Descriptor(opcode=Opcode.DRAIN, param=9, vectors=4)
    assert not OPERATORS[Opcode.DRAIN].param_reads(drain).count
    assert OPERATORS[Opcode.DRAIN].param_reads(replace(drain, format=Format.FP8)) == Vectors(9, 0, 4)
    always = State.ACCUMULATORS | State.SCALES
    for flag, state in ((Flag.STORE, State.NONE), (Flag.SHORTLIST, State.SCORES), (Flag.CANDIDATES, State.CANDIDATES)):
        ranked = replace(drain, flags=flag)
        assert OPERATORS[Opcode.DRAIN].writes(ranked) == state and OPERATORS[Opcode.DRAIN].reads(ranked) == always
        assert OPERATORS[Opcode.DRAIN].reads(replace(ranked, stride=1)) == always | state
    attention = Descriptor(opcode=Opcode.ATTENTION, dst=50, dst_stride=20, heads=4, head_vectors=3)
    row = OPERATORS[Opcode.ATTENTION]
    assert row.scratch_writes(attention) == Vectors(50, 20, 12) and row.writes(attention) == State.NONE
    assert row.reads(attention) == State.QUERIES | State.KEYS | State.VALUES | State.CHOICE
    choice = replace(attention, flags=Flag.CHOOSE)
    assert (row.scratch_writes(choice), row.reads(choice), row.writes(choice)) == (Vectors(), State.QUERIES, State.CHOICE)


def test_nothing_is_nothing() -> None:
    assert [(unit.name, int(unit)) for unit in Unit] == [
        ("LOADER", 0), ("VECTOR", 1), ("LINEAR", 2), ("ATTENTION", 3), ("KV_WRITER", 4),
    ], "numbers of their bits"
    assert list((State.CHOICE | State.QUERIES).each()) == [State.QUERIES, State.CHOICE] and not list(State.NONE.each())
    assert not State.NONE and len({state.value for state in State}) == len(State)
