"""Passes of runs with a budget of cached blocks, by the model of a pass: what they fetch, and what choosing costs. Numbers are
worked out by hand for the KV260, whose blocks have 32 keys and four summaries; 0.73B has 24 layers of 16 heads of 96 elements,
without groups.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from hwgen.boards import load_board
from hwgen.config import BuildConfig
from hwgen.descriptors import Descriptor, Fetch, Flag, Opcode
from hwgen.published import published_model
from hwgen.sw.compiler.pass_model import COSTS, Calibration, PassModel, Ring, Work

CONFIG = replace(load_board("kv260").config, kv_budget=32, summary_rows=4)
SHAPE = published_model("bitnet-0.73b").shape
LATE = 1e6
CHOOSE = Descriptor(
    opcode=Opcode.ATTENTION, flags=Flag.CHOOSE, fetch=Fetch.SUMMARY, heads=16, kv_heads=16, head_vectors=12, stream_beats=50,
    token_count=24,
)
ATTENTION = replace(CHOOSE, flags=Flag.NONE, fetch=Fetch.CACHE, stream_beats=98)


def cost(d: Descriptor, runs: list[tuple[int, int]], budgets: list[int], config: BuildConfig = CONFIG) -> float:
    model = PassModel.of_program(config, [], 24)
    count = sum(tokens for _, tokens in runs)
    return COSTS[d.opcode](model, Work(d, count, count, runs, LATE, 0, budgets), Ring(config, model.calibration)) - LATE


@pytest.fixture(scope="module")
def model() -> PassModel:
    return PassModel(CONFIG, SHAPE)


def test_choosing() -> None:
    """A page of summaries takes 32 cycles and 17 more, a list 32 and 5: 123 blocks of 125 are on 16 pages of 8."""
    assert cost(CHOOSE, [(4000, 1)], [32]) == pytest.approx(16 * (16 * 49 + 37) + 100)
    # The list is that of the build, whatever the budget of a run.
    assert cost(CHOOSE, [(4000, 1)], [2]) == cost(CHOOSE, [(4000, 1)], [32])
    assert cost(CHOOSE, [(35 * 32, 1)], [32]) == pytest.approx(16 * (5 * 49 + 37) + 100)  # 33 blocks on five pages
    # A summary a block: four pages; a list of 16.
    for changes, cycles in (({"summary_rows": 1}, 4 * 49 + 37), ({"kv_budget": 16}, 16 * (50 + 1))):
        assert cost(CHOOSE, [(4000, 1)], [16], replace(CONFIG, **changes)) == pytest.approx(16 * cycles + 100)


@pytest.mark.parametrize(("position", "cycles"), [(1200, 4_586), (2400, 8_587), (4000, 13_232)])
def test_choices_take_what_the_rtl_took(position: int, cycles: int) -> None:
    """Of the two layers of `hwgen bench --board kv260 --shape bitnet-0.73b --set kv_budget=32 --kv-budget 32 --prompt 0 --cached P
    --decode 1 --layers 2 --timeline DIR`, random keys, the mean.
    """
    assert cost(CHOOSE, [(position, 1)], [32]) == pytest.approx(cycles, rel=0.01)


def test_choosing_among_long_keys() -> None:
    """Keys of 128 elements are multiplied in 64 cycles: the list is copied meanwhile. 66 beats arrive in the cycles of 67."""
    long = replace(CHOOSE, head_vectors=16, stream_beats=66)
    assert cost(long, [(4000, 1)], [32]) == pytest.approx(16 * 16 * 67 + 100)
    # Two rounds of queries.
    assert cost(replace(long, heads=64), [(4000, 1)], [32]) == pytest.approx(16 * 16 * 2 * 64 + 100)


def test_choosing_for_queries_that_share_keys() -> None:
    """Each round of two queries looks at every page: two rounds of four queries."""
    grouped = replace(CHOOSE, heads=20, kv_heads=5)
    assert cost(grouped, [(4000, 1)], [32]) == pytest.approx(5 * (2 * 16 * 49 + 37) + 100)


def test_a_run_without_a_budget_has_a_page_that_nobody_looks_at() -> None:
    both, one = (cost(CHOOSE, runs, [32, 0][: len(runs)]) for runs in ([(4000, 1), (64, 1)], [(4000, 1)]))
    assert both - one == pytest.approx(16 * (49 + 37))


def test_attention_waits_for_the_choice() -> None:
    """34 cached blocks of 99 cycles a head, which begin to arrive 90 cycles behind the start."""
    waits, plain = cost(ATTENTION, [(4000, 1)], [32]), cost(ATTENTION, [(34 * 32, 1)], [0])
    assert plain == pytest.approx(16 * 34 * 99 + 300)
    assert waits == pytest.approx(plain + 90 + 256 / 0.995)
    assert cost(ATTENTION, [(4000, 1)], [0]) == pytest.approx(16 * 125 * 99 + 300)


@pytest.mark.parametrize(("position", "attended"), [(4000, 1088), (4010, 1098), (35 * 32, 1088), (36 * 32 - 1, 1119)])
def test_what_is_fetched(model: PassModel, position: int, attended: int) -> None:
    """Blocks of a cache of the budget and two more, with what follows them, and summaries of all that may be chosen."""
    chosen = model.run(1, position, budget=32)
    pages = -(-4 * (position // 32 - 1) // 32)
    assert chosen.stream_beats == model.run(1, attended).stream_beats + 24 * 16 * pages * 50
    assert chosen.cycles < model.run(1, position).cycles or position < 1200


def test_runs_that_choose_nothing(model: PassModel) -> None:
    """Without a budget, with as few blocks as the budget, and with several tokens everything is as ever."""
    for tokens, position, budget in ((1, 4000, 0), (1, 35 * 32 - 1, 32), (2, 4000, 32), (1, 0, 2)):
        with_it, without = model.run(tokens, position, budget=budget), model.run(tokens, position)
        assert (with_it.cycles, with_it.stream_beats, with_it.choosing) == (without.cycles, without.stream_beats, 0)
        assert not any(Flag.CHOOSE in span.descriptor.flags for span in with_it.spans)
    plain = PassModel(replace(CONFIG, kv_budget=0), SHAPE).run(1, 4000)
    assert plain.cycles == model.run(1, 4000).cycles


def test_runs_beside_each_other(model: PassModel) -> None:
    runs = [(4000, 1), (64, 1), (2000, 1)]
    mixed = model.run_runs(runs, 3, [32, 32, 20])
    plain = model.run_runs([(1088, 1), (64, 1), (22 * 32 + 2000 % 32, 1)], 3)
    assert mixed.stream_beats == plain.stream_beats + 24 * 16 * (16 + 1 + 8) * 50
    assert mixed.by_operator["attention"] > mixed.choosing > 0


def test_the_ports_wait_while_blocks_are_chosen() -> None:
    """Nothing is fetched ahead over a choice: every cycle that it takes longer is one of the pass."""
    slower = replace(Calibration(), choice_item=Calibration().choice_item + 100)
    usual, slow = (PassModel(CONFIG, SHAPE, calibration=of).run(1, 4000, budget=32) for of in (Calibration(), slower))
    assert slow.cycles - usual.cycles == pytest.approx(24 * 16 * 16 * 100, rel=0.01)


def test_a_budget_that_the_build_has_not(model: PassModel) -> None:
    with pytest.raises(ValueError, match="a budget must be at most 32, the kv_budget of the build, not 33"):
        model.run(1, 4000, budget=33)
    with pytest.raises(ValueError, match="at most 0"):
        PassModel.of_program(load_board("kv260").config, [], 1).run(1, 0, budget=1)
