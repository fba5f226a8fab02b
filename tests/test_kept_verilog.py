"""Verilog is kept by all that it follows from."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from amaranth.hdl import Fragment, Module
from amaranth.lib import wiring

from hwgen.config import BuildConfig
from hwgen.hw.linear.tables import TableBuilder
from hwgen.hw.vector.unit import VectorUnit
from tests.cocotb_runner import to_verilog
from tests.hw.attention.bench import AttentionBench, tiny_config
from tests.hw.linear.test_int4_dot import BothForms
from tests.kept_verilog import digest_of, name_of, verilog_of

CONFIG = BuildConfig()


class Elsewhere(wiring.Component):
    """A unit of no folder whose sources are known."""

    def elaborate(self, platform: object) -> Module:
        return Module()


def test_every_argument_counts() -> None:
    units = [
        (partial(VectorUnit, CONFIG), "top"), (partial(VectorUnit, CONFIG), "other"), (partial(VectorUnit, config=CONFIG), "top"),
        (partial(VectorUnit, replace(CONFIG, lanes=CONFIG.lanes + 1)), "top"), (partial(AttentionBench, CONFIG), "top"),
        (partial(AttentionBench, tiny_config()), "top"), (partial(BothForms, CONFIG, 4), "top"),
        (partial(BothForms, CONFIG, 8), "top"), (partial(BothForms, CONFIG, 8.0), "top"), (partial(BothForms, CONFIG, [8]), "top"),
        (partial(BothForms, CONFIG, (8,)), "top"), (partial(BothForms, CONFIG, True), "top"),
        (partial(BothForms, CONFIG, {8: 1}), "top"),
    ]
    names = [name_of(*unit) for unit in units]
    assert None not in names and len(set(names)) == len(names)
    assert [name_of(*unit) for unit in units] == names
    assert name_of(partial(VectorUnit, BuildConfig.from_dict(CONFIG.to_dict())), "top") == names[0]


def test_what_may_say_more_has_no_name() -> None:
    class Local(wiring.Component):
        pass

    def function(config: Any) -> VectorUnit:
        return VectorUnit(config)

    for unit in (
        partial(Elsewhere, {}), partial(Local, {}), partial(function, CONFIG), partial(VectorUnit, object()),
        partial(VectorUnit, lambda: CONFIG), partial(VectorUnit, config=BuildConfig), partial(VectorUnit, [Path()]),
    ):
        assert name_of(unit, "top") is None


def test_sources_count(tmp_path: Path) -> None:
    unit, bench, names = partial(VectorUnit, CONFIG), partial(AttentionBench, CONFIG), []
    for path, text in (
        ("hw/unit.py", "1"), ("hw/unit.py", "2"), ("hw/part/unit.py", "2"), ("hwgen/config.py", "2"),
        ("tests/hw/part/bench.py", "2"), ("tests/runner.py", "2"), ("sw/compiler.py", "2"),
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
        digest_of.cache_clear()
        names.append((name_of(unit, "top", tmp_path), name_of(bench, "top", tmp_path)))
    assert len({first for first, _ in names}) == 4 and len({second for _, second in names}) == 6
    assert names[3][0] == names[6][0] and names[5] == names[6]


def test_what_is_kept_is_what_is_made(tmp_path: Path) -> None:
    tables = 2
    unit = partial(TableBuilder, tables)
    made: list[Any] = []

    def convert(design: Any) -> str:
        made.append(design)
        return to_verilog(design)

    texts = [verilog_of(unit, "top", tmp_path, convert) for _ in range(2)]
    assert texts == [to_verilog(TableBuilder(tables))] * 2 and len(made) == 1
    assert len(list(tmp_path.iterdir())) == 1

    def other(design: Any) -> str:
        Fragment.get(design, None)
        return "text"

    assert [verilog_of(partial(Elsewhere, {}), "top", tmp_path, other) for _ in range(2)] == ["text"] * 2
    assert len(list(tmp_path.iterdir())) == 1
