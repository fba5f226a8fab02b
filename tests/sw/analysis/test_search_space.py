from __future__ import annotations

from dataclasses import replace

from hwgen.config import BuildConfig
from hwgen.published import PUBLISHED
from hwgen.sw.analysis.search_space import Workload, build_of, neighbours, point_of

from .test_explore import KV260, WORK


def test_no_ultraram_on_a_board_without() -> None:
    board = replace(KV260, available={**KV260.available, "uram": 0, "bram36": 2000})
    config = build_of(board, WORK, point_of(replace(KV260.config, lanes=1, chunk=8)))
    assert config is not None
    assert {config.ring_memory, config.scratch_memory, config.activation_memory} == {"block"}


MAXIMA = ("max_inputs", "max_query", "max_heads", "max_kv_heads", "max_shared", "max_head_dim")


def test_maxima_are_those_of_the_models_or_of_the_board() -> None:
    def built(work: Workload) -> BuildConfig:
        config = build_of(KV260, work, point_of(replace(KV260.config, lanes=1, chunk=8)))
        assert config is not None
        return config

    def maxima(config: BuildConfig) -> tuple[int, ...]:
        return tuple(getattr(config, name) for name in MAXIMA)

    other = PUBLISHED["bitnet-0.73b"].shape
    alone, both = built(WORK), built(replace(WORK, also=(other,)))
    assert maxima(alone) == (2816, 1024, 8, 4, 2, 128)
    assert maxima(both) == (4096, 1536, 16, 16, 2, 128)
    # Each model has room for its tokens.
    assert both.scratch_vectors > alone.scratch_vectors and both.param_vectors > alone.param_vectors
    assert maxima(built(replace(WORK, keep_maxima=True))) == maxima(KV260.config)


def test_builds_have_the_budget_of_the_workload() -> None:
    """Its lists take block RAM, which is what is short."""
    point = point_of(replace(KV260.config, lanes=1, chunk=8))
    plain, *budgets = (build_of(KV260, replace(WORK, kv_budget=budget), point) for budget in (0, 1, 32))
    assert plain is not None and plain.kv_budget == 0
    assert [config and config.kv_budget for config in budgets] == [2, 32], "no build chooses one block"
    # The lists of 24 tokens and 16 heads beside all that the board's own build has are too large.
    own = Workload(shape=PUBLISHED["bitnet-0.73b"].shape, keep_maxima=True)
    assert build_of(KV260, own, point_of(KV260.config)) is not None
    assert build_of(KV260, replace(own, kv_budget=64), point_of(KV260.config)) is None


def test_chunk_follows_the_lanes() -> None:
    point = point_of(replace(KV260.config, chunk=12, lanes=6))
    more = [p for p in neighbours(point) if p.lanes == 8 and p.groups == 2]
    assert {p.chunk for p in more} == {12, 16, 32}
    assert all(p.chunk <= p.kv_block and (p.chunk == 1 or p.chunk % 2 == 0) for p in neighbours(point))
