"""Steps of ``hwgen build``: each makes files of the build directory from board and configuration."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from ...boards import Board
from . import block_design, core, handoff, ipxact, kria_app, scripts
from .contract_reference import c_header, reference_markdown, register_json

__all__ = ["STEPS", "Step", "steps_of"]

#: Module of the generated Verilog.
TOP = "hwgen_accelerator"


@dataclass(frozen=True)
class Step:
    """``make(board, verilog)`` gives ``{file: text}``; ``verilog()`` is the Verilog of the board's configuration."""

    name: str
    description: str
    make: Callable[[Board, Callable[[], str]], dict[str, str]]
    #: True for steps that need a board to build for.
    platform: bool = False


def make_verilog(board: Board, verilog: Callable[[], str]) -> dict[str, str]:
    return {f"{TOP}.v": verilog()}


def make_registers(board: Board, verilog: Callable[[], str]) -> dict[str, str]:
    config = board.config
    return {
        "config.json": json.dumps(config.to_dict(), indent=2) + "\n",
        "registers.json": json.dumps(register_json(config), indent=2) + "\n",
        "hwgen_registers.h": c_header(config),
        "reference.md": reference_markdown(config),
    }


def make_core(board: Board, verilog: Callable[[], str]) -> dict[str, str]:
    described = core.accelerator_core(board)
    return {
        f"{core.WRAPPER}.v": core.wrapper_verilog(described, TOP),
        "component.xml": ipxact.component_xml(board.config, described),
        ipxact.GUI_FILE: ipxact.gui_tcl(),
    }


def make_design(board: Board, verilog: Callable[[], str]) -> dict[str, str]:
    design = block_design.describe_design(board)
    return {
        "design.tcl": scripts.design_tcl(design),
        "build.tcl": scripts.build_tcl(design),
        "hwgen.xdc": scripts.constraints_xdc(design),
        "Makefile": scripts.makefile(board),
    }


def make_handoff(board: Board, verilog: Callable[[], str]) -> dict[str, str]:
    return {f"{block_design.DESIGN}.hwh": handoff.hwh_text(board)}


def make_app(board: Board, verilog: Callable[[], str]) -> dict[str, str]:
    platform = block_design.needs_platform(board)
    return kria_app.app_files(board) if platform.kria else {}


#: In the order in which they run.
STEPS = (
    Step("verilog", "the accelerator as Verilog", make_verilog),
    Step("registers", "configuration and register map as JSON, C header and Markdown", make_registers),
    Step("core", "IP-XACT description and wrapper", make_core),
    Step("design", "block design, constraints and build scripts", make_design, platform=True),
    Step("handoff", "hand-off for PYNQ", make_handoff, platform=True),
    Step("app", "Kria app, for boards that load one", make_app, platform=True),
)

#: Name of the last step, which writes nothing: the checks of what was built.
CHECK = "check"


def steps_of(board: Board) -> list[Step]:
    """Steps that write files for a board: one without a platform ends with its core."""
    return [s for s in STEPS if board.platform is not None or not s.platform]
