"""A netlist by hand, as `hwgen.sw.analysis.arcs.compact_netlist` makes them of Yosys's."""

from __future__ import annotations

from typing import Any


def netlist_of(cells: dict[str, list[Any]], names: dict[str, list[int]]) -> dict[str, Any]:
    """A module ``top`` without ports."""
    return {"top": {"ports": {}, "cells": cells, "names": names}}


def register(data: int, output: int) -> list[Any]:
    return ["FDRE", {}, {"C": [1], "CE": ["1"], "R": ["0"], "D": [data], "Q": [output]}]
