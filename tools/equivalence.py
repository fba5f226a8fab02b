"""Whether a planted fault is harmless: proven by signal correspondence and property-directed reachability (ABC, from the wheel
`pyosys`) over everything that the machine can do from its first state on.

The module is compared with itself without the fault; what comes in, and what the modules inside it answer, is free. First that
module, then the one around it with all that is in it: a value that its neighbour never looks at does not come out of that.
Memories begin with zeros, as those of an FPGA do.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from hwgen.sim.mutants import MODULE, Mutant, mutate

__all__ = ["is_harmless"]

_PORT = re.compile(r"^  (?:input|output) .*;$", re.MULTILINE)
_INSTANCE = re.compile(r"^  (\\\S+|\w+)  (?:\\\S+ |\w+) \($", re.MULTILINE)

#: Lines of Verilog of what is proven at once, at most: beyond, the prover takes longer than anybody waits.
MOST_LINES = 4000

_YOSYS = "import sys; from pyosys import libyosys; libyosys.run_pass(sys.stdin.read(), libyosys.Design())"
_SIDE = (
    "read_verilog {side}.v; read_verilog stubs.v; hierarchy -top {top}; proc; flatten; memory_map; opt_clean; {evert}"
    "opt_clean; rename {top} {side}; design -stash {side}; "
)
_BOTH = (
    "design -copy-from gold -as gold gold; design -copy-from gate -as gate gate; miter -equiv -flatten gold gate both; "
    "hierarchy -top both; opt -nodffe -nosdff; setundef -undriven -zero; setundef -init -zero; simplemap; techmap; "
    "dfflegalize -cell $_DFF_P_ 01; opt -fast -nodffe -nosdff; aigmap; write_aiger -zinit both.aig"
)


def is_harmless(verilog: str, mutant: Mutant, seconds: int = 10) -> bool:
    """Whether the machine is the same with the mutant, as far as that can be proven in about so many seconds a try."""
    modules = {match[1]: match[0] for match in MODULE.finditer(verilog)}
    wrong = {match[1]: match[0] for match in MODULE.finditer(mutate(verilog, mutant))}
    around = mutant.module.rpartition(".")[0]
    inside = [name for name in modules if name.startswith(around + ".")]
    scopes = [[mutant.module]]
    if around.count(".") > 1 and sum(modules[name].count("\n") for name in [around, *inside]) <= MOST_LINES:
        scopes.append([around, *inside])
    return any(_are_equal(modules, wrong, scope, seconds) for scope in scopes)


def _are_equal(gold: dict[str, str], gate: dict[str, str], scope: Sequence[str], seconds: int) -> bool:
    """Whether the first module of ``scope`` is the same in both, with the others of it inside."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for side, texts in (("gold", gold), ("gate", gate)):
            (folder / f"{side}.v").write_text("\n".join(texts[module] for module in scope))
        used = {module for text in scope for module in _INSTANCE.findall(gold[text])} - set(scope)
        (folder / "stubs.v").write_text("\n".join(_stub(gold[module]) for module in sorted(used)))
        # Selected by type: what is not selected stays inside.
        evert = f"expose -evert {' '.join(f't:{module}' for module in sorted(used))}; " if used else ""
        script = "".join(_SIDE.format(side=side, top=scope[0], evert=evert) for side in ("gold", "gate")) + _BOTH
        try:
            subprocess.run(
                [sys.executable, "-c", _YOSYS], input=script, cwd=folder, capture_output=True, text=True, timeout=4 * seconds,
                check=True,
            )
            done = subprocess.run(
                [_abc(), "-c", f"read_aiger both.aig; scorr; sat; pdr -T {seconds}"], cwd=folder, capture_output=True, text=True,
                timeout=3 * seconds, check=True,
            )
        except (subprocess.TimeoutExpired, subprocess.CalledProcessError):
            return False
    return "UNSATISFIABLE" in done.stdout or "Property proved" in done.stdout


def _stub(text: str) -> str:
    """A module of which only the ports are known."""
    return f"(* blackbox *)\n{text[: text.index(';') + 1]}\n" + "\n".join(_PORT.findall(text)) + "\nendmodule\n"


def _abc() -> str:
    import pyosys

    assert pyosys.__file__ is not None
    return str(Path(pyosys.__file__).with_name("yosys-abc"))
