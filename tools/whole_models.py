"""Whole models of published sizes in RTL, at the memory of their board: runs them, and makes the tables of docs/results.md.

    python tools/whole_models.py                  what there is to run, and what it took
    python tools/whole_models.py --run NAME ...   runs these one after the other, minutes each, into docs/data; "all" is every one
    python tools/whole_models.py --write          puts the tables into docs/results.md

A table has what docs/data has, and tests hold it to that.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE, DATA = ROOT / "docs" / "results.md", ROOT / "docs" / "data"

#: The pessimistic end of the band of the board's memory; without it the default, 320 ns and nothing beside.
SLOW = "--latency-ns 480 --cpu-bytes-per-s 1e9"
DECODE = "--prompt 0 --cached 128 --decode 1"
LONG = "--prompt 0 --cached 4000 --decode 1"
#: A build that chooses 32 blocks of the cache, and steps that do.
BUDGET = "--set kv_budget=32 --kv-budget 32"


@dataclass(frozen=True)
class Run:
    """One ``hwgen bench``: its name in docs/data, what it shows, and its options."""

    name: str
    what: str
    options: str

    @property
    def path(self) -> Path:
        return DATA / f"bench-{self.name}.json"

    @property
    def command(self) -> str:
        return f"hwgen bench {self.options}"

    def result(self) -> dict[str, Any] | None:
        """What the bench printed, if it was run with these options."""
        if not self.path.exists():
            return None
        result: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
        return result if result["command"] == f"{self.command} --json" else None


def _run(name: str, what: str, options: str) -> Run:
    return Run(name, what, f"--board kv260 {options}")


BITNET, LARGE, LLAMA = "--shape bitnet-0.73b", "--shape bitnet-2b4t --head shortlist", "--shape llama-1b"

#: Decode of one answer: the default memory, and the pessimistic end.
DECODES = (
    _run("bitnet-0.73b", "0.73B, exact head, context 128", f"{BITNET} {DECODE}"),
    _run("bitnet-0.73b-context-1024", "0.73B, exact head, context 1024", f"{BITNET} --prompt 0 --cached 1024 --decode 1"),
    _run("bitnet-0.73b-context-4000", "0.73B, exact head, context 4000", f"{BITNET} {LONG}"),
    _run("bitnet-0.73b-context-4000-k4v4", "0.73B, exact head, context 4000, 4-bit keys and values",
         f"{BITNET} --kv k4v4 {LONG}"),
    _run("bitnet-0.73b-context-4000-budget-32", "0.73B, exact head, context 4000, 32 cached blocks chosen, build with a budget",
         f"{BITNET} {BUDGET} {LONG}"),
    _run("bitnet-0.73b-context-4000-budget-32-k4v4",
         "0.73B, exact head, context 4000, 32 cached blocks chosen, 4-bit keys and values, build with a budget",
         f"{BITNET} --kv k4v4 {BUDGET} {LONG}"),
    _run("bitnet-2b4t", "2B4T, short-list head, context 128", f"{LARGE} {DECODE}"),
    _run("llama-1b", "Llama-3.2-1B shape, INT4 engine, context 128", f"{LLAMA} {DECODE}"),
    _run("bonsai-1.7b", "Bonsai-1.7B shape, ternary with scales of groups, context 128", f"--shape bonsai-1.7b {DECODE}"),
    _run("smollm2-135m", "SmolLM2-135M, INT4 engine, context 128", f"--shape smollm2-135m {DECODE}"),
    Run("pynq-z2", "0.73B, short-list head, context 128, PYNQ-Z2 at 125 MHz",
        f"--board pynq-z2 --shape bitnet-0.73b --head shortlist {DECODE}"),
)
SLOW_DECODES = tuple(Run(f"{run.name}-slow", run.what, f"{run.options} {SLOW}") for run in DECODES if run.name in (
    "bitnet-0.73b", "bitnet-2b4t", "llama-1b",
))

PROMPTS = (
    _run("bitnet-0.73b-prompt-128", "0.73B, 128 tokens", f"{BITNET} --prompt 128 --decode 0"),
    _run("bitnet-2b4t-prompt-128", "2B4T, 128 tokens", f"{LARGE} --prompt 128 --decode 0"),
    _run("llama-1b-prompt-16", "Llama-3.2-1B shape, INT4 engine, 16 tokens", f"{LLAMA} --prompt 16 --decode 0"),
)

#: Answers that share a pass.
SHARED = tuple(
    _run(f"{name}-sequences-{count}", what, f"{options} {DECODE} --sequences {count}")
    for name, what, options, counts in (
        ("bitnet-2b4t", "2B4T, short-list head", LARGE, (6, 12, 24)),
        ("bitnet-0.73b", "0.73B, exact head", BITNET, (6, 12, 24)),
        ("llama-1b", "Llama-3.2-1B shape, INT4 engine", LLAMA, (4, 8, 16)),
    )
    for count in counts
)
RUNS = (*DECODES, *SLOW_DECODES, *PROMPTS, *SHARED)


def _rate(run: Run | None) -> str:
    """Tokens a second of a decode, and the share of cycles with a beat."""
    result = run.result() if run else None
    if result is None:
        return "*not run*" if run else ""
    decode = result["decode"]
    return f"{decode['tok_s']:.2f} tok/s, {decode['port_utilisation']:.1%}"


def _headed(*headings: str) -> list[str]:
    return [f"| {' | '.join(headings)} |", "|---" * len(headings) + "|"]


def decode_table() -> str:
    """Tokens a second, and the share of cycles in which a beat comes, at both ends of the band of the memory."""
    slow = {run.what: run for run in SLOW_DECODES}
    lines = _headed("decode, simulated", "480 ns, 1 GB/s beside", "320 ns, alone", "command")
    for run in DECODES:
        lines.append(f"| {run.what} | {_rate(slow.get(run.what))} | {_rate(run)} | `{run.command}` |")
    return "\n".join([*lines, "", f"First column: with `{SLOW}`."])


def prompt_table() -> str:
    """Time to the first token."""
    lines = _headed("prompt, simulated, 320 ns", "to the first token", "tokens a second", "multipliers in use", "command")
    for run in PROMPTS:
        result = run.result()
        cells = ["*not run*", "", ""]
        if result is not None:
            prefill = result["prefill"]
            cells = [f"{prefill['ttft_s']:.4f} s", f"{prefill['tok_s']:.1f}", f"{prefill['mac_utilisation']:.1%}"]
        lines.append(f"| {run.what} | {' | '.join(cells)} | `{run.command}` |")
    return "\n".join(lines)


def shared_table() -> str:
    """Tokens a second of all answers together."""
    lines = _headed("answers in a pass, simulated, 320 ns", "answers", "tokens a second, all", "each", "command")
    for run in SHARED:
        result, count = run.result(), run.name.rpartition("-")[2]
        cells = ("*not run*", "") if result is None else (
            f"{result['decode']['tok_s']:.1f}", f"{result['decode']['tok_s_each']:.2f}"
        )
        lines.append(f"| {run.what} | {count} | {' | '.join(cells)} | `{run.command}` |")
    return "\n".join(lines)


def cycles_table() -> str:
    """What the engine does in a prompt and in a decoded token, in shares of all cycles."""
    phases = ((PROMPTS[0], "prefill", "cycles"), (DECODES[0], "decode", "cycles_per_token"))
    shares: list[dict[str, float] | None] = []
    for run, phase, total in phases:
        result = run.result()
        stalls = result and {cause: cycles / result[phase][total] for cause, cycles in result[phase]["stalls"].items()}
        shares.append(stalls and {"busy": 1 - sum(stalls.values()), **stalls})
    lines = _headed("0.73B, of all cycles", "prefill of 128 tokens", "decode at context 128")
    for what, causes in (
        ("engine takes beats", ("busy",)),
        ("engine waits for the ring", ("rows",)),
        ("attention runs instead", ("idle_attention",)),
        ("norm, drain, rotation run instead", ("idle_vector",)),
        ("first tables of a panel, pipeline", ("tables", "pipeline")),
        ("gains, embeddings and others run instead", ("idle_loader", "idle_other")),
    ):
        cells = ("*not run*" if of is None else f"{sum(of[cause] for cause in causes):.1%}" for of in shares)
        lines.append(f"| {what} | {' | '.join(cells)} |")
    return "\n".join(lines)


def sections() -> dict[str, str]:
    """Parts of docs/results.md by their marks."""
    return {"decode": decode_table(), "prompt": prompt_table(), "shared": shared_table(), "cycles": cycles_table()}


def written(page: str) -> str:
    """``page`` with its marked parts as they are now."""
    for mark, table in sections().items():
        before, opening, rest = page.partition(f"<!-- {mark} -->\n")
        _, closing, behind = rest.partition(f"<!-- /{mark} -->")
        page = f"{before}{opening}{table}\n{closing}{behind}"
    return page


def measure(run: Run) -> None:
    """Run it, and keep what it printed; nothing is kept of one that fails or differs from golden."""
    print(f"{run.name}: {run.command}", flush=True)
    command = [sys.executable, "-m", "hwgen.sw.cli.main", *run.command.split()[1:], "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{run.name}: exit code {done.returncode}")
    result = json.loads(done.stdout)
    if result["mismatches"] or result["layers"] != result["layers_full"]:
        sys.exit(f"{run.name}: {result['mismatches']} mismatches in {result['layers']} of {result['layers_full']} layers")
    run.path.write_text(json.dumps({"command": f"{run.command} --json", **result}, indent=1) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--run", nargs="+", default=[], metavar="NAME", choices=[*(run.name for run in RUNS), "all"])
    parser.add_argument("--write", action="store_true", help="the tables of docs/results.md")
    options = parser.parse_args(arguments)
    for run in RUNS:
        if run.name in options.run or "all" in options.run:
            measure(run)
    if options.write:
        PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    if not options.run and not options.write:
        for run in RUNS:
            result = run.result()
            took = "not run" if result is None else f"{result['wall_s']:.0f} s"
            print(f"{run.name:34} {took:>8}  {run.command}")


if __name__ == "__main__":
    main()
