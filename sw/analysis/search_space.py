"""The space that ``hwgen explore`` searches: points of it, their configurations and neighbours."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from itertools import product
from typing import Any

from ...boards import Board
from ...config import TRITS_PER_BYTE, BuildConfig, ConfigError
from ...layout import KV_FORMATS, vectors_of
from ...rounding import align, ceil_div
from ...shape import ModelShape
from ..compiler.placement import maxima_of, token_vectors
from .area_model import CEILINGS, estimate_resources
from .outside_cores import outside_resources

__all__ = ["VALUES", "Point", "Workload", "build_of", "excess", "neighbours", "point_of", "seeds"]


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What is timed: ``prompt`` tokens to the first new one, then one token at that context. An answer has ``new_tokens``."""

    shape: ModelShape
    prompt: int = 128
    new_tokens: int = 128
    head: str = "exact"
    #: Keys and values of the cache; 4 bits are timed in builds that have them.
    kv: str = "k8v8"
    #: Blocks that the build may choose, and the new tokens do where their cache has more; 0: builds without a budget.
    kv_budget: int = 0
    #: Models that the configuration must hold beside the one that is timed.
    also: tuple[ModelShape, ...] = ()
    #: Maxima of the board that are larger than the models need are kept.
    keep_maxima: bool = False

    @property
    def shapes(self) -> tuple[ModelShape, ...]:
        return self.shape, *self.also


@dataclass(frozen=True, kw_only=True)
class Point:
    """The parameters that are searched."""

    groups: int
    lanes: int
    rows: int
    beat_vectors: int
    #: Tables that one builder fills: ``tables / builders``.
    turns: int
    query_lanes: int
    kv_block: int
    chunk: int
    ring_beats: int
    panel_rows: int


#: Values of every parameter, ascending.
VALUES: dict[str, tuple[int, ...]] = {
    "groups": (1, 2, 4, 8),
    "lanes": (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32),
    "rows": (1, 2, 4, 8, 16),
    "beat_vectors": (1, 2, 4),
    "turns": (1, 3, 7, 9, 14, 18, 27),
    "query_lanes": (1, 2, 4, 8),
    "kv_block": (4, 8, 16, 32, 64, 128),
    "chunk": (1, 2, 4, 6, 8, 10, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64),
    "ring_beats": (512, 1024, 2048, 4096, 8192, 16384),
    "panel_rows": (256, 512, 1024, 2048, 4096),
}


def sized_for(base: BuildConfig, work: Workload, changes: dict[str, Any]) -> dict[str, Any]:
    """``changes`` and the maxima that the models need in a build with them; :class:`ConfigError` where that is illegal."""
    width = base.beat_bytes // 4 // changes["beat_vectors"]
    for shape in work.shapes:
        if width < 1 or shape.head_dim % (2 * width):
            raise ConfigError(f"beat_vectors must make vectors of which head_dim {shape.head_dim} is an even number, not {width}")
    step = math.lcm(width // math.gcd(width, changes["rows"]), changes["groups"]) * changes["rows"]
    needed = {name: max(maxima_of(shape)[name] for shape in work.shapes) for name in maxima_of(work.shape)}
    if work.keep_maxima:
        needed = {name: max(value, getattr(base, name)) for name, value in needed.items()}
    steps = {"max_inputs": width, "max_query": 2 * width, "max_head_dim": 2 * width}
    maxima = {name: align(value, steps.get(name, 1)) for name, value in needed.items()}
    return {**changes, "panel_rows": align(changes["panel_rows"], step), **maxima}


def memories_of(config: BuildConfig, shape: ModelShape) -> tuple[int, int]:
    """Scratch and parameter vectors that hold ``chunk`` tokens, and the gains of two norms of any width."""
    widest = vectors_of(config, max(shape.hidden, shape.q_rows, shape.ffn))
    return config.chunk * token_vectors(config, shape), config.chunk * vectors_of(config, shape.head_dim) + 2 * widest


def excess(resources: dict[str, float], available: dict[str, int], kinds: Iterable[str] = CEILINGS) -> float:
    """Largest share of its ceiling that a resource needs; above 1 it does not fit."""
    return max(
        resources[kind] / (CEILINGS[kind] * available[kind]) if available.get(kind) else math.inf if resources[kind] else 0.0
        for kind in kinds
    )


def build_of(board: Board, work: Workload, point: Point) -> BuildConfig | None:
    """The configuration of a point with its memories where they fit best; None where it is illegal or too large."""
    base = board.config
    changes = {item.name: getattr(point, item.name) for item in fields(Point) if item.name != "turns"}
    try:
        changes = sized_for(base, work, changes)
        tables = ceil_div(TRITS_PER_BYTE * base.beat_bytes // changes["rows"], 3)
        if tables % point.turns:
            return None
        kv_budget = max(2, work.kv_budget) if work.kv_budget else 0  # no build chooses one block
        plain = replace(
            base, builders=tables // point.turns, scratch_vectors=1 << 20, param_vectors=1 << 20, kv_budget=kv_budget,
            int4_kv=base.int4_kv or bool(KV_FORMATS[work.kv]), **changes,
        )
    except ConfigError:
        return None
    scratch, param = (max(sizes) for sizes in zip(*(memories_of(plain, shape) for shape in work.shapes), strict=True))
    best: tuple[float, float, BuildConfig] | None = None
    outside = outside_resources(board)
    kinds = ("block", "ultra") if board.available.get("uram") else ("block",)
    sizes = dict.fromkeys((align(param, 64), align(param, 512)))
    # A few parameter vectors beyond a block RAM's depth lie in look-up tables, or fill another row of block RAMs.
    for ring, store, activation, parameters in product(kinds, kinds, kinds, sizes):
        config = replace(
            plain, ring_memory=ring, scratch_memory=store, activation_memory=activation,
            # What a column of the memory holds anyway.
            scratch_vectors=align(scratch, 4096 if store == "ultra" else 512), param_vectors=parameters,
        )
        resources = {kind: value + outside[kind] for kind, value in estimate_resources(config).total.items()}
        full = excess(resources, board.available)
        rank = full, excess(resources, board.available, ("bram36", "uram"))
        if full <= 1 and (best is None or rank < best[:2]):
            best = *rank, config
    return best[2] if best else None


def point_of(config: BuildConfig) -> Point:
    """The point of a configuration."""
    values = {item.name: getattr(config, item.name) for item in fields(Point) if item.name != "turns"}
    return Point(turns=config.tables // config.builders, **values)


def _chunks(point: Point) -> tuple[int, ...]:
    """Values of ``chunk``: those of every point, and whole rounds of the tokens of this one."""
    tokens = point.groups * point.lanes
    values = {*VALUES["chunk"], *range(tokens, point.kv_block + 1, tokens)}
    return tuple(sorted(v for v in values if v <= point.kv_block and (v == 1 or v % 2 == 0)))


def _in_rounds(point: Point) -> Iterator[Point]:
    """The point, and with chunks of whole rounds next to its own: more lanes are idle if the chunk stays behind."""
    tokens = point.groups * point.lanes
    rounds = {point.chunk // tokens * tokens, align(point.chunk, tokens), point.kv_block // tokens * tokens, point.chunk}
    for chunk in sorted(rounds):
        if chunk in _chunks(point):
            yield replace(point, chunk=chunk)


def neighbours(point: Point) -> Iterator[Point]:
    """Points that differ in one parameter by one step. The number of tables goes with ``rows``, so turns follow; the tokens of the
    engine go with ``groups`` and ``lanes``, so ``chunk`` follows."""
    for name, values in VALUES.items():
        own = getattr(point, name)
        if name == "chunk":
            values = _chunks(point)
        steps = [max((v for v in values if v < own), default=None), min((v for v in values if v > own), default=None)]
        for value in steps if name != "turns" else values:
            if value is None or value == own:
                continue
            changed = replace(point, **{name: value})
            if name == "rows":
                yield from (replace(changed, turns=turns) for turns in VALUES["turns"])
            elif name in ("groups", "lanes", "kv_block"):
                yield from _in_rounds(changed)
            else:
                yield changed
    # The same lanes in other groups.
    if point.groups > 1:
        yield replace(point, groups=point.groups // 2, lanes=point.lanes * 2)
    if point.lanes % 2 == 0:
        yield replace(point, groups=point.groups * 2, lanes=point.lanes // 2)


def seeds(board: Board) -> list[Point]:
    """The board's own configuration and a coarse grid around it."""
    own = point_of(board.config)
    grid = [
        replace(own, groups=groups, lanes=lanes, rows=rows, beat_vectors=beat_vectors, turns=turns, query_lanes=query_lanes)
        for groups, lanes, rows, beat_vectors, turns, query_lanes in product((1, 2, 4), (1, 4), (4, 8), (1, 2), (7, 9), (1, 4))
    ]
    return [own, *grid]
