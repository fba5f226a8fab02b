"""What goes in and out at the pins of the machine in a pass under Verilator, and the same inputs on a second, four-state simulator:
Icarus Verilog.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hwgen.hw.accelerator import TOP

__all__ = ["HAS_ICARUS", "RECORD", "Pin", "Recording", "differences", "pins_of", "read_recording", "run_icarus", "with_recorder"]

HAS_ICARUS = shutil.which("iverilog") is not None

#: What a machine with a recorder writes, in the working directory.
RECORD = "pins.txt"

_PORT = re.compile(r"^  (input|output) (?:\[(\d+):0\] )?(\w+);$", re.MULTILINE)

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
    """Bits of every pin in front of every rising edge, as text, the highest first."""

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


def with_recorder(verilog: str) -> str:
    """The design, which writes a line of `RECORD` in every cycle."""
    start = verilog.index(f"module {TOP}(")
    end = verilog.index("endmodule", start)
    names = ", ".join(pin.name for pin in pins_of(verilog))
    recorder = (
        f'  integer recorder;\n  initial recorder = $fopen("{RECORD}", "w");\n'
        f'  always @(posedge clk) begin $fwrite(recorder, "%b\\n", {{ {names} }}); $fflush(recorder); end\n'
    )
    return verilog[:end] + recorder + verilog[end:]


def read_recording(path: Path, pins: Sequence[Pin]) -> Recording:
    """What a recorder wrote of these pins."""
    values: dict[str, list[str]] = {pin.name: [] for pin in pins}
    for line in path.read_text().split():
        at = 0
        for pin in pins:
            values[pin.name].append(line[at : at + pin.bits])
            at += pin.bits
        assert at == len(line)
    return Recording(tuple(pins), values)


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
    begin = recording.values["rst"].index("1")
    begin = recording.values["rst"].index("0", begin)
    for cycle in range(begin, recording.cycles):
        for pin in (pin for pin in recording.pins if not pin.is_input):
            was, now = recording.values[pin.name][cycle], answers[pin.name][cycle]
            if was == now:
                continue
            parts = _counting(pin.name, recording, cycle)
            size = pin.bits // len(parts)
            counted = (slice(i * size, (i + 1) * size) for i, counts in enumerate(parts) if counts == "1")
            if any(was[part] != now[part] for part in counted):
                yield f"cycle {cycle}: {pin.name} is {now}, not {was}"


def _counting(name: str, recording: Recording, cycle: int) -> str:
    """Which equal parts of a pin count in a cycle, a digit each."""
    if name.endswith(("valid", "ready")) or name == "irq":
        return "1"
    if probe := re.fullmatch(r"(probe_\w+)_(addr|index|data)", name):
        valid = recording.values[f"{probe[1]}_valid"][cycle]
        return valid if probe[2] == "data" else "1" if "1" in valid else "0"
    channel = re.fullmatch(r"(\w+_axi_(?:ar|aw|w|r|b))\w+", name)
    assert channel, name
    valid = recording.values[f"{channel[1]}valid"][cycle]
    if name.endswith("wdata"):
        strobes = recording.values[f"{channel[1]}strb"][cycle]
        return strobes if valid == "1" else "0" * len(strobes)
    return valid
