"""Loads of reset nets, on netlists by hand."""

from __future__ import annotations

from typing import Any

from hwgen.sw.analysis.reset_loads import widest_reset


def register(data: int, output: int, reset: int | str = "0", enable: int | str = "1") -> list[Any]:
    return ["FDRE", {}, {"C": [1], "CE": [enable], "R": [reset], "D": [data], "Q": [output]}]


#: Two registers with a reset that comes in at a port; another port that is data.
LANE: dict[str, Any] = {
    "ports": {"clk": [1], "reset": [2], "data": [3], "out": [4, 5]},
    "cells": {"a": register(3, 4, reset=2), "b": register(3, 5, reset=2)},
    "names": {"reset": [2]},
}
#: A reset register, two lanes behind it, an own register that it clears, and a look-up table that it enters.
UNIT: dict[str, Any] = {
    "ports": {"clk": [1], "root": [2], "data": [3]},
    "cells": {
        "leaf": register(2, 10),
        "lane_0": ["lane", {}, {"clk": [1], "reset": [10], "data": [3], "out": [11, 12]}],
        "lane_1": ["lane", {}, {"clk": [1], "reset": [10], "data": [11], "out": [13, 14]}],
        "own": register(12, 15, reset=10),
        "busy": ["LUT2", {}, {"I0": [10], "I1": [15], "O": [16]}],
    },
    "names": {"rst": [10], "a_longer_name": [10]},
}
TOP: dict[str, Any] = {
    "ports": {"clk": [1], "data": [2]},
    "cells": {
        # many loads, and no reset among them
        **{f"copy_{i}": register(2, 100 + i, enable=2) for i in range(20)},
        "root": register(2, 3),
        "first": ["unit", {}, {"clk": [1], "root": [3], "data": [2]}],
        "second": ["unit", {}, {"clk": [1], "root": [3], "data": [2]}],
    },
    "names": {"root": [3]},
}


def test_a_reset_is_counted_through_ports() -> None:
    assert widest_reset({"lane": LANE, "unit": UNIT, "top": TOP}, "top") == {"loads": 6, "module": "unit", "net": "rst"}


def test_a_reset_that_units_share_counts_all_of_them() -> None:
    # the leaf is taken out: the units hang at one register
    shared = {**UNIT, "cells": {k: v for k, v in UNIT["cells"].items() if k != "leaf"}, "ports": {**UNIT["ports"], "root": [10]}}
    assert widest_reset({"lane": LANE, "unit": shared, "top": TOP}, "top") == {"loads": 12, "module": "top", "net": "root"}


def test_no_reset() -> None:
    plain = {"ports": {"clk": [1]}, "cells": {"a": register(2, 3)}, "names": {}}
    assert widest_reset({"top": plain}, "top") == {"loads": 0, "module": "", "net": ""}
