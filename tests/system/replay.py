"""What goes in and out at the pins of the machine in a pass under Verilator, and the same inputs on a second, four-state simulator:
Icarus Verilog, for the generated Verilog and for a netlist of it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pywellen

from hwgen.hw.accelerator import TOP

__all__ = ["HAS_ICARUS", "Pin", "Recording", "differences", "pins_of", "read_waves", "run_icarus", "without_first_values"]

HAS_ICARUS = shutil.which("iverilog") is not None

#: Of a cycle in waves, and of the moment before the rising edge at which inputs and outputs are settled.
PERIOD, SETTLED = 4000, 2000

_PORT = re.compile(r"^  (input|output) (?:\[(\d+):0\] )?(\w+);$", re.MULTILINE)
_FIRST_VALUE = re.compile(r"^(  reg (?:\[\d+:0\] )?(?:\\\S+ |\w+)) ?= \d+'[bdh][0-9a-f]+;$", re.MULTILINE)

_BENCH = """\
`timescale 1ns/1ps
module bench;
  reg [{inputs}-1:0] stimulus [0:{cycles}-1];
  reg [{inputs}-1:0] in;
  wire [{outputs}-1:0] out;
  reg clk = 1'b0;
  integer cycle, file;
  {top} dut ({connections});
  initial begin
    $readmemb("stimulus.txt", stimulus);
    file = $fopen("answers.txt", "w");
    for (cycle = 0; cycle < {cycles}; cycle = cycle + 1) begin
      in = stimulus[cycle];
      clk = 1'b0;
      #2 $fwrite(file, "%b\\n", out);
      clk = 1'b1;
      #2 ;
    end
    $fclose(file);
    $finish;
  end
endmodule
"""


@dataclass(frozen=True)
class Pin:
    """A port of the top module other than its clock."""

    name: str
    is_input: bool
    bits: int


@dataclass(frozen=True)
class Recording:
    """Bits of every pin by cycle, as text, the highest first."""

    pins: tuple[Pin, ...]
    values: dict[str, list[str]]

    @property
    def cycles(self) -> int:
        return len(next(iter(self.values.values())))


def pins_of(verilog: str) -> tuple[Pin, ...]:
    body = verilog[verilog.index(f"module {TOP}(") :]
    body = body[: body.index("endmodule")]
    return tuple(
        Pin(name, way == "input", int(high or 0) + 1) for way, high, name in _PORT.findall(body) if name != "clk"
    )


def without_first_values(verilog: str) -> str:
    """Registers begin unknown."""
    return _FIRST_VALUE.sub(r"\1;", verilog)


def read_waves(path: Path, pins: Sequence[Pin], first: int, cycles: int) -> Recording:
    """The pins in so many cycles of a simulation, from its waves."""
    signals = {variable.full_name: variable.signal for variable in pywellen.Waveform(str(path)).all_vars()}
    return Recording(tuple(pins), {
        pin.name: [
            format(int(signals[f"TOP.{pin.name}"].value_at((first + cycle) * PERIOD + SETTLED)), f"0{pin.bits}b")
            for cycle in range(cycles)
        ]
        for pin in pins
    })


def run_icarus(recording: Recording, sources: Sequence[Path], folder: Path) -> dict[str, list[str]]:
    """The outputs of the design in ``sources`` by cycle, given the recorded inputs; x and z are what they are."""
    folder.mkdir(parents=True, exist_ok=True)
    inputs = [pin for pin in recording.pins if pin.is_input]
    outputs = [pin for pin in recording.pins if not pin.is_input]
    connections, places = [".clk(clk)"], []
    for way, pins in (("in", inputs), ("out", outputs)):
        at = sum(pin.bits for pin in pins)
        for pin in pins:
            at -= pin.bits
            connections.append(f".{pin.name}({way}[{at} +: {pin.bits}])")
    for pin in outputs:
        start = places[-1][2] if places else 0
        places.append((pin.name, start, start + pin.bits))
    rows = zip(*(recording.values[pin.name] for pin in inputs), strict=True)
    (folder / "stimulus.txt").write_text("\n".join("".join(row) for row in rows) + "\n")
    (folder / "bench.v").write_text(_BENCH.format(
        inputs=sum(pin.bits for pin in inputs), outputs=sum(pin.bits for pin in outputs), cycles=recording.cycles, top=TOP,
        connections=", ".join(connections),
    ))
    build = ["iverilog", "-g2012", "-o", "bench.vvp", "-s", "bench", "bench.v", *map(str, sources)]
    for command in (build, ["vvp", "-n", "bench.vvp"]):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise AssertionError(f"{command[0]}: {(done.stderr or done.stdout)[-2000:]}")
    lines = (folder / "answers.txt").read_text().split()
    return {name: [line[start:end] for line in lines] for name, start, end in places}


def differences(recording: Recording, answers: dict[str, list[str]]) -> Iterator[str]:
    """Outputs that are not as recorded from the end of the first reset on: those that say whether others count, in every cycle; the
    others where they do.
    """
    begin = recording.values["rst"].index("0")
    for pin in (pin for pin in recording.pins if not pin.is_input):
        counts = _valid_of(pin.name, recording)
        for cycle, (was, now) in enumerate(zip(recording.values[pin.name], answers[pin.name], strict=True)):
            if cycle < begin:
                continue
            parts = "1" if counts is None else counts[cycle]
            size = pin.bits // len(parts)
            for part, valid in enumerate(parts):
                of = slice(part * size, (part + 1) * size)
                if valid == "1" and was[of] != now[of]:
                    yield f"cycle {cycle}: {pin.name} is {now}, not {was}"
                    break


def _valid_of(name: str, recording: Recording) -> list[str] | None:
    """By cycle, which equal parts of a pin count; None where it always does."""
    if name.endswith(("valid", "ready")) or name == "irq":
        return None
    if probe := re.fullmatch(r"(probe_\w+)_(addr|index|data)", name):
        valid = recording.values[f"{probe[1]}_valid"]
        return valid if probe[2] == "data" else ["1" if "1" in bits else "0" for bits in valid]
    channel = re.fullmatch(r"(\w+_axi_(?:ar|aw|w|r|b))\w+", name)
    assert channel, name
    valid = recording.values[f"{channel[1]}valid"]
    if name.endswith("wdata"):
        strobes = recording.values[f"{channel[1]}strb"]
        return [strobe if there == "1" else "0" * len(strobe) for there, strobe in zip(valid, strobes, strict=True)]
    return valid
