"""The components that decide area and clock, one of each: small enough to synthesize, place and route by itself."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ...config import BuildConfig
from ...errors import HwgenError
from ...hw.verilog import collector_paused
from ...packages import needs

__all__ = ["MAIN_UNITS", "MainUnit", "find_main_units", "main_units_of", "unit_verilog"]


@dataclass(frozen=True)
class MainUnit:
    """A component of the accelerator that is looked at by itself."""

    name: str
    #: One line for people.
    description: str
    #: The component of a configuration.
    build: Callable[[BuildConfig], Any]
    #: Linear engine that it is part of; none for what every build has.
    engine: str = ""


# The generators are imported when they are needed: a board install has no Amaranth.
def _trit_decoder(config: BuildConfig) -> Any:
    from ...hw.linear.trits import TritDecoder

    return TritDecoder(config)


def _table_builder(config: BuildConfig) -> Any:
    from ...hw.linear.schedule import rounds_of
    from ...hw.linear.tables import TableBuilder

    return TableBuilder(rounds_of(config))


def _ternary_lane(config: BuildConfig) -> Any:
    from ...hw.linear.lane import TernaryLane

    return TernaryLane(config)


def _int4_lane(config: BuildConfig) -> Any:
    from ...hw.linear.int4_lane import Int4Lane
    from ...hw.linear.int4_loader import LONGEST_CHAIN, Int4Shape

    return Int4Lane(config, Int4Shape(config, LONGEST_CHAIN))


def _vector_lane(config: BuildConfig) -> Any:
    from ...hw.vector.lane import Lane

    return Lane(config, 0)


def _softmax_lane(config: BuildConfig) -> Any:
    from ...hw.attention.softmax import OnlineSoftmax

    return OnlineSoftmax(replace(config, query_lanes=1))


def _port_reader(config: BuildConfig) -> Any:
    from ...hw.memory.port import PortReader

    return PortReader(config)


def _sequencer(config: BuildConfig) -> Any:
    from ...hw.control.sequencer import Sequencer

    return Sequencer(config)


MAIN_UNITS = (
    MainUnit("trit_decoder", "weight bytes of a beat to table codes", _trit_decoder, "ternary"),
    MainUnit("table_builder", "one builder of a lane's look-up tables", _table_builder, "ternary"),
    MainUnit("ternary_lane", "one token lane of the linear engine: tables, adder trees, accumulators", _ternary_lane, "ternary"),
    MainUnit("int4_lane", "one token lane of the INT4 engine: products, scaling, accumulators", _int4_lane, "int4"),
    MainUnit("vector_lane", "one float32 element of the vector unit", _vector_lane),
    MainUnit("softmax_lane", "online softmax of the attention unit for one query lane", _softmax_lane),
    MainUnit("port_reader", "one AXI4 read port", _port_reader),
    MainUnit("sequencer", "operators of a pass to units", _sequencer),
)


def main_units_of(config: BuildConfig) -> list[MainUnit]:
    """The main units that a build has."""
    there = {"": True, "ternary": config.has_ternary, "int4": config.has_int4}
    return [unit for unit in MAIN_UNITS if there[unit.engine]]


def find_main_units(names: list[str]) -> list[MainUnit]:
    """Those of ``names``, in their order; all without any."""
    by_name = {unit.name: unit for unit in MAIN_UNITS}
    for name in names:
        if name not in by_name:
            raise HwgenError("usage", f"{name!r} is not a main unit", f"use one of: {', '.join(by_name)}")
    return [by_name[name] for name in names] if names else list(MAIN_UNITS)


#: Source locations, which would make the text depend on where code stands.
_NOISE = re.compile(r'^\s*\(\* (?:src|generator) = ".*" \*\)\n|^/\* .* \*/\n', re.MULTILINE)


def unit_verilog(component: Any, *, ports: list[Any] | None = None) -> str:
    """Verilog of one component (or of a design with ``ports``): module ``top``."""
    with needs("generating Verilog", "hwgen[sim]"):
        from amaranth.back import verilog
    with collector_paused():
        return _NOISE.sub("", verilog.convert(component, name="top", ports=ports, emit_src=False))
