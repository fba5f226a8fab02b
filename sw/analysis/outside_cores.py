"""What a block design has in the fabric beside the accelerator: AMD's cores, by figures of others and assumptions.

No synthesis of ours sees them, and AMD gives their figures on a web page alone (PG247, PG099, PG164 point to it). So a figure is
either measured by others, with its source, or assumed, on the high side.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...boards import RESOURCES, Board
from ...memory_ports import memory_port

__all__ = ["OutsideCore", "describe_outside", "outside_cores", "outside_resources"]


@dataclass(frozen=True)
class OutsideCore:
    """A core of AMD. Look-up tables and flip-flops are as Vivado counts them; no other resources are taken."""

    core: str
    what: str
    count: int
    lut: int
    ff: int
    source: str


#: One SmartConnect before a memory port of Zynq-7000.
_CONVERTER = (910, 904)
_CONVERTER_SOURCE = "Vivado 2023.1 on a Zynq-7000, github.com/analogdevicesinc/hdl/pull/1054"


def outside_cores(board: Board) -> list[OutsideCore]:
    """The cores beside the accelerator; none for a board that is only simulated."""
    if board.platform is None:
        return []
    names = board.platform.memory_ports[: board.config.ports]
    converters = sum(memory_port(board.platform.processor, name).protocol != "AXI4" for name in names)
    cores = [
        # PG247, "Low Area Mode": it has neither buffers nor register slices where all slaves are AXI4-Lite.
        OutsideCore("smartconnect", "SmartConnect of the control port", 1, *_CONVERTER,
                    "assumed: at most what one of full performance takes"),
        OutsideCore("axi_intc", "interrupt controller, one input", 1, 150, 150, "assumed"),
        OutsideCore("proc_sys_reset", "processor system reset", 1, 25, 40, "assumed"),
    ]
    if converters:
        cores.append(OutsideCore("smartconnect", "SmartConnect before a memory port", converters, *_CONVERTER, _CONVERTER_SOURCE))
    return cores


def outside_resources(board: Board) -> dict[str, int]:
    """Their sum by kind."""
    total = dict.fromkeys(RESOURCES, 0)
    for core in outside_cores(board):
        total["lut"] += core.count * core.lut
        total["ff"] += core.count * core.ff
    return total


def describe_outside(board: Board) -> list[str]:
    """Where the figures come from, a line a core."""
    lines = [f"{c.what}{f' x {c.count}' if c.count > 1 else ''}: {c.lut} LUT, {c.ff} FF ({c.source})" for c in outside_cores(board)]
    if lines and len([c for c in outside_cores(board) if c.core == "smartconnect"]) == 1:
        lines.append("memory ports connect to the processing system directly, without a SmartConnect")
    return lines
