"""What each operator costs by the model of a pass, against numbers worked out by hand for the KV260: vectors of 8, beats of 64
bytes, two groups of six lanes, blocks of 32 keys. What is divided, by the rate of the ports or in slices, is within rounding.
"""

from __future__ import annotations

from dataclasses import astuple, replace
from types import SimpleNamespace
from typing import Any

import pytest

from hwgen.boards import load_board
from hwgen.config import BuildConfig
from hwgen.descriptors import Descriptor, Flag, Format, Opcode
from hwgen.published import published_model
from hwgen.sw.compiler.pass_costs import WALKED, PassCosts, pass_costs, table_sizes
from hwgen.sw.compiler.pass_model import COSTS, Calibration, PassEstimate, PassModel, Ring, Span, Work

KV260 = load_board("kv260")
CONFIG = KV260.config
#: Late enough that everything fetched has arrived.
LATE = 1e6
Q, K, V = Flag.QUERIES, Flag.KEYS, Flag.VALUES


def cost(config: BuildConfig, d: Descriptor, count: int, runs: list[tuple[int, int]] | None = None, beats: int = 0) -> float:
    """Cycles of an operator that starts late, of ``count`` tokens of as many."""
    model = PassModel.of_program(config, [], 1)
    work = Work(d, count, count, runs or [(0, count)], LATE, beats)
    return COSTS[d.opcode](model, work, Ring(config, model.calibration)) - LATE


def test_the_machine_behind_the_numbers() -> None:
    c = CONFIG
    assert (c.width, c.groups, c.lanes, c.rows, c.builders, c.kv_block, c.query_lanes) == (8, 2, 6, 8, 2, 32, 2)
    assert (c.slice_inputs, c.tables, c.key_bytes, c.header_beats, c.ring_beats, c.ports * c.port_bytes) == (40, 14, 2, 2, 8192, 80)
    assert astuple(Calibration()) == (
        0.995, 130, 90, 5, 2, 152, 15, 22, 36, 23, 99, 5, 6, 30, 15, 54, 1, 14, 43, 300, 17, 5, 100, 100, 1, 100, 2, 6, 20, 4, 5,
        7, 20, 40,
    )


def op(opcode: Opcode, flags: Flag = Flag.NONE, **fields: Any) -> Descriptor:
    return Descriptor(opcode=opcode, flags=flags, **fields)


@pytest.mark.parametrize(("d", "count", "cycles"), [
    # two walks over the vectors and 36 cycles a token; 23
    (op(Opcode.NORM, vectors=10), 3, 3 * (20 + 36) + 23), (op(Opcode.NORM, vectors=192), 1, 384 + 36 + 23),
    # two walks, twice the other of the ways (16 of 8 elements at most), five cycles a halving of them, 18 for the lanes, 99
    (op(Opcode.NORM, Flag.STORE, vectors=4, heads=5), 3, 15 * (8 + 6 + 10 + 18 + 99) + 23),
    (op(Opcode.NORM, Flag.STORE, vectors=40, heads=2), 1, 2 * (80 + 30 + 20 + 18 + 99) + 23),
    # a cycle a vector of accumulators, five of digits; a cycle a logit and 100 a token where they are ranked
    (op(Opcode.DRAIN, vectors=10), 3, 60), (op(Opcode.DRAIN, Flag.DIGITS, vectors=10), 3, 180),
    (op(Opcode.DRAIN, Flag.CANDIDATES, vectors=10), 3, 3 * 180 + 30),
    (op(Opcode.DRAIN, Flag.CANDIDATES | Flag.DIGITS, vectors=10), 3, 3 * 180 + 30),
    # two walks and 15 a token, or one and a cycle; 54
    (op(Opcode.ROPE, Q | K | V, heads=4, kv_heads=2, head_vectors=12), 3, 3 * (2 * 96 + 15) + 54),
    (op(Opcode.ROPE, Q | Flag.STORE, heads=4, kv_heads=2, head_vectors=12), 3, 3 * (48 + 1) + 54),
])
def test_the_vector_unit(d: Descriptor, count: int, cycles: float) -> None:
    assert cost(CONFIG, d, count) == cycles


@pytest.mark.parametrize(("d", "count", "beats", "cycles"), [
    (op(Opcode.PARAM, vectors=48, stream_beats=24), 1, 24, 48 + 2 + 6),
    (op(Opcode.PARAM, vectors=8, stream_beats=24), 5, 24, 24 + 2 + 6),
    (op(Opcode.EMBED, vectors=96, stream_beats=48), 3, 144, 3 * 98 + 6),
    (op(Opcode.ROTARY, vectors=8, stream_beats=12), 4, 48, 4 * 14 + 6),
])
def test_loads(d: Descriptor, count: int, beats: int, cycles: float) -> None:
    """A row takes its vectors or its beats, and two cycles."""
    assert cost(CONFIG, d, count, beats=beats) == cycles


def linear(slices: int, blocks: int, format: Format = Format.NONE, shared: int = 0, flags: Flag = Flag.NONE) -> Descriptor:
    return op(Opcode.LINEAR, flags, slices=slices, row_blocks=blocks, vectors=shared, format=format, token_count=12)


@pytest.mark.parametrize(("d", "count", "cycles"), [
    # 100 cycles a slice for tables (14 cycles seven times, and 2), or a row block a cycle and group; 152 before, 15 behind
    (linear(4, 100), 2, 400 + 167), (linear(4, 300), 6, 4 * 150 + 167), (linear(4, 300), 7, 4 * 300 + 167),
    (linear(4, 6), 24, 4 * 124 + 167),  # five vectors a token and 4 take longer than tables
    # scales of groups: three slices of 40 and one of 8; 2 beats of scales a group of 10 row blocks
    (linear(8, 300, Format.GROUPED), 2, 8 * 150 + 2 * 38 + 167), (linear(8, 10, Format.GROUPED), 2, 8 * 100 + 2 * 2 + 167),
])
def test_ternary_matrices(d: Descriptor, count: int, cycles: float) -> None:
    assert cost(CONFIG, d, count) == pytest.approx(cycles)


def test_int4_matrices() -> None:
    """Slices of 32 inputs: four vectors a token and 4 to load one; two beats of scales a group; 22 before, 15 behind."""
    config = KV260.for_engine("int4").config
    assert (config.int4_slice_inputs, config.width, config.rows, config.groups, config.lanes) == (32, 8, 4, 2, 4)
    for blocks, count, slices, scales in ((16, 2, 12, 2), (100, 4, 50, 14), (100, 5, 100, 14)):
        load = 4 * count + 4
        found = cost(config, linear(8, blocks, Format.FP8, 4), count)
        assert found == 8 * max(slices, load) + 2 * scales + load + 22 + 15


def test_what_is_held_for_replay_is_not_freed() -> None:
    model, flags = PassModel.of_program(CONFIG, [], 24), Flag.REPLAY
    for tokens, held in ((12, False), (13, True)):
        ring = Ring(CONFIG, model.calibration)
        COSTS[Opcode.LINEAR](model, Work(linear(4, 100, flags=flags), 12, tokens, [(0, tokens)], LATE, 400), ring)
        assert ring.freed_beats[-1] == (0 if held else 400) and ring.fetched == 400
    ring = Ring(CONFIG, model.calibration)
    COSTS[Opcode.LINEAR](model, Work(linear(4, 100), 12, 12, [(0, 12)], LATE, 0), ring)
    assert ring.freed_beats[-1] == 400 and ring.fetched == 0, "read once more"


@pytest.mark.parametrize(("heads", "kv_heads", "runs", "each"), [
    (16, 16, [(0, 4)], [2 * (48 + 43)]),  # two rounds of two tokens over one block of 48 beats
    (16, 16, [(0, 1)], [2 * 48 + 14]),  # the pass's own keys load longer
    (16, 16, [(64, 1)], [2 * 99]),  # two cached blocks of 98 beats and a cycle
    (16, 16, [(64, 6)], [3 * (3 * 48 + 43)]), (20, 5, [(32, 3)], [6 * (2 * 48 + 43)]),
    (16, 16, [(64, 1), (0, 4), (31, 1)], [198, 182, 110]),
])
def test_attention(heads: int, kv_heads: int, runs: list[tuple[int, int]], each: list[float]) -> None:
    d = op(Opcode.ATTENTION, heads=heads, kv_heads=kv_heads, head_vectors=12)
    assert cost(CONFIG, d, sum(n for _, n in runs), runs) == kv_heads * sum(each) + 300


def test_short_heads_take_a_block_of_keys() -> None:
    """Heads of 32 elements have 16 beats; the softmax of 32 keys takes 35 cycles."""
    d = op(Opcode.ATTENTION, heads=2, kv_heads=2, head_vectors=4)
    assert cost(CONFIG, d, 2, [(0, 2)]) == 2 * (35 + 43) + 300


def test_the_short_list_is_fetched_when_it_is_known() -> None:
    assert cost(CONFIG, op(Opcode.HEAD, row_blocks=8), 1, beats=100) == pytest.approx(90 + 100 / 0.995 + 108 + 100)


@pytest.mark.parametrize(("d", "runs", "budgets", "beats"), [
    (op(Opcode.PARAM, vectors=48, stream_beats=24), [(0, 1)], [], 24), (op(Opcode.HEAD, row_blocks=8), [(0, 1)], [], 100),
    (op(Opcode.ATTENTION, heads=4, kv_heads=2, head_vectors=12), [(64, 1), (33, 2)], [], 2 * 4 * 98),
    (op(Opcode.ATTENTION, Flag.CHOOSE, heads=4, kv_heads=2, head_vectors=12, stream_beats=50), [(4000, 1)], [32], 2 * 16 * 50),
])
def test_what_is_read_makes_room(d: Descriptor, runs: list[tuple[int, int]], budgets: list[int], beats: int) -> None:
    config = replace(CONFIG, kv_budget=32, summary_rows=4)
    ring = Ring(config, Calibration())
    COSTS[d.opcode](PassModel.of_program(config, [], 1), Work(d, 1, 1, runs, LATE, beats, budgets), ring)
    assert ring.fetched == ring.freed_beats[-1] == beats


@pytest.mark.parametrize(("format", "runs", "blocks", "segment"), [
    # header of 2 beats: 32 scales or 1, 4, and 5 for a beat; 48 beats of keys and of values in pairs of 10 cycles
    (Format.NONE, [(128, 1)], 1, 20 + 2 * (1 + 4 + 5) + 24 * 20), (Format.NONE, [(0, 2)], 1, 20 + 2 * (32 + 9) + 24 * 20),
    (Format.NONE, [(31, 2)], 2, 20 + 2 * 41 + 24 * 20), (Format.NONE, [(0, 32), (64, 33)], 3, 20 + 2 * 41 + 24 * 20),
    # 4 bits: a beat a pair, but 8 cycles for two of the store
    (Format.INT4_VALUES, [(128, 1)], 1, 20 + 2 * 10 + 24 * 18),
    (Format.INT4_VALUES | Format.INT4_KEYS, [(5, 1)], 1, 20 + 20 + 24 * 16),
])
def test_writes_of_keys_and_values(format: Format, runs: list[tuple[int, int]], blocks: int, segment: float) -> None:
    d = op(Opcode.KV_WRITE, kv_heads=3, head_vectors=12, format=format)
    assert cost(CONFIG, d, 1, runs) == 3 * blocks * segment + 20


# ---- the ring --------------------------------------------------------------------------------------------------------
def test_beats_arrive_no_faster_than_ports_bring_them() -> None:
    ring = Ring(CONFIG, Calibration(), 100)
    assert ring.read(0, 1000, 1e9, fetch=True, free=True) == pytest.approx(130 + 1000 / 0.995)
    assert ring.read(0, 0, 1.0, fetch=True, free=True) == 0
    narrow = Ring(replace(CONFIG, ports=2), Calibration(), 100)
    assert narrow.read(0, 100, 1e9, fetch=True, free=True) == pytest.approx(130 + 100 / 0.995 * 2)
    late = Ring(CONFIG, Calibration(), 100)
    assert late.read(LATE, 250, 0.5, fetch=True, free=True) == LATE + 500


def test_a_full_ring_waits_for_room() -> None:
    """What is fetched behind 8192 beats waits until the first are read, and 90 cycles more."""
    ring = Ring(CONFIG, Calibration(), 8192)
    first = ring.read(LATE, 8192, 1.0, fetch=True, free=True)
    assert first == LATE + 8192
    assert ring.read(first, 8192, 1e9, fetch=True, free=True) == pytest.approx(first + 90)
    held = Ring(CONFIG, Calibration(), 8192)
    assert held.read(LATE, 8192, 1.0, fetch=True, free=False) == LATE + 8192
    assert held.read(LATE + 8192, 8, 1.0, fetch=True, free=True) == LATE + 8200, "held: no room is waited for"


# ---- whole passes ----------------------------------------------------------------------------------------------------
def test_operators_one_behind_the_other() -> None:
    """The first starts behind half the way of the first beat and two cycles; one that waits, five behind the end of the other."""
    program = [op(Opcode.NORM, vectors=10, token_count=12), op(Opcode.DRAIN, vectors=10, token_count=12), linear(1, 100)]
    program.append(op(Opcode.NORM, vectors=10, token_start=2, token_count=10))
    model = PassModel.of_program(CONFIG, program, 12)
    found = model.run(1, 0)
    spans = [(s.descriptor, s.count, s.start, s.end) for s in found.spans]
    norm = 65 + 2 + 56 + 23
    drain = norm + 5 + 40
    assert spans[:2] == [(program[0], 1, 67, norm), (program[1], 1, norm + 5, drain)] and len(spans) == 3
    # LINEAR writes the accumulators that DRAIN reads
    assert spans[2][1:] == (1, drain + 5, drain + 5 + 152 + 100 + 15)
    assert found.cycles == drain + 5 + 267 + 40 and found.engine_busy == 50 and found.stream_beats == 0
    assert found.by_operator == {"norm": 79, "drain": 40, "linear": 267}
    whole = model.run(7, 0)
    assert len(whole.spans) == 4 and [s.count for s in whole.spans] == [7, 7, 7, 5] and whole.engine_busy == 100
    fine = PassModel(CONFIG, replace(published_model("bitnet-0.73b").shape, layers=1))
    assert (model.step, model.chunk, fine.step) == (4096, 12, 256)


def test_time_by_operator() -> None:
    spans = [Span(op(o), 1, a, b) for o, a, b in ((Opcode.NORM, 1, 3), (Opcode.DRAIN, 3, 9), (Opcode.NORM, 10, 14))]
    assert PassEstimate(20, spans, 0, 0).by_operator == {"norm": 6, "drain": 6}


# ---- the table of an image -------------------------------------------------------------------------------------------
def test_a_table_is_a_straight_line_between_its_sizes() -> None:
    costs = PassCosts(sizes=(1, 2, 6), plain=(100, 110, 150), wanting=(100, 130, 250), block=7)
    assert [costs.cycles(n, 1) for n in (1, 2, 3, 4, 6, 9)] == [100, 110, 120, 130, 150, 150]
    assert [costs.cycles(4, n) for n in (0, 1, 2, 4, 6, 9)] == [130, 130, 150, 190, 230, 230]
    assert costs.cycles(4, 2, 3) == 171 and costs.to_list() == [(1, 2, 6), (100, 110, 150), (100, 130, 250), 7]


def test_layers_that_are_not_walked_cost_what_the_last_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Norms of one layer after the other: every layer costs the same, so that the table is exact."""
    def image(layers: int) -> Any:
        program = [op(Opcode.NORM, vectors=10 * (1 + (i == layers)), token_count=8, layer=i) for i in range(layers + 1)]
        return SimpleNamespace(
            config=CONFIG, descriptors=program, chunk=8, stored_costs=None, shape=SimpleNamespace(layers=layers), context=64,
        )

    assert WALKED == 4
    walked = list[list[int]]()
    of_program = PassModel.of_program

    def watched(config: BuildConfig, program: list[Descriptor], chunk: int) -> PassModel:
        walked.append([d.layer for d in program])
        return of_program(config, program, chunk)

    monkeypatch.setattr(PassModel, "of_program", watched)
    for layers in (1, 3, 4, 5, 9):
        walked.clear()
        costs = pass_costs(image(layers))
        first = [list(range(min(layers, 4))), [0, 1, 2]]
        assert walked == [[*kept, layers] for kept in (first if layers > 4 else first[:1])], "the last one stands behind all layers"
        assert costs.sizes == table_sizes(6, 8) == (1, 2, 6, 7, 8) and costs.block == 0
        for n in costs.sizes:
            each = n * 56 + 23 + 5
            assert costs.cycles(n, n) == 67 + layers * each + n * 76 + 23 + 40
