"""The way from project to bitstream: order, resuming, and what happens when timing is missed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hwgen.boards import load_board
from hwgen.sw.packaging.scripts import STEPS
from hwgen.sw.packaging.vivado.recorder import VivadoModel, run_build
from hwgen.sw.packaging.vivado.tcl import find_tcl

from .builds import write_build

pytestmark = pytest.mark.skipif(find_tcl() is None, reason="no Tcl interpreter: apt-get install tcl")

OVERLAY = ["hwgen.bit", "hwgen.hwh", "manifest.json"]


@pytest.fixture
def script(tmp_path: Path) -> Path:
    return write_build(load_board("kv260"), tmp_path)


def overlay(script: Path) -> list[str]:
    return sorted(p.name for p in (script.parent / "overlay").glob("*"))


def test_whole_build(script: Path) -> None:
    before = {p.name for p in script.parent.iterdir()}
    outcome = run_build(script)
    assert outcome.exit_code == 0
    assert [line for line in outcome.output if "step" in line] == [f"hwgen: step {name}" for name in STEPS]
    assert "hwgen: worst setup slack 0.100 ns" in outcome.output
    assert overlay(script) == OVERLAY
    assert {p.name for p in script.parent.iterdir()} - before == {"work", "overlay"}
    runs = [line for line in outcome.model.log if line.startswith("launch_runs")]
    assert runs == ["launch_runs synth_1 synthesis", "launch_runs impl_1 route_design", "launch_runs impl_1 write_bitstream"]
    # Slack is read from the routed design, before the bitstream.
    assert outcome.model.log.index("open_run impl_1") < outcome.model.log.index(runs[2])


@pytest.mark.parametrize(
    ("slack", "message"),
    [
        ({"setup": "-0.001", "hold": "0.010"}, "worst setup slack is -0.001 ns"),
        ({"setup": "0.010", "hold": "-0.100"}, "worst hold slack is -0.100 ns"),
        ({"setup": "-1", "hold": "-2"}, "worst setup slack is -1 ns, worst hold slack is -2 ns"),
        ({"hold": "0.1"}, "no setup path is constrained"),
        ({"setup": "", "hold": "0.1"}, "the worst setup path has no slack"),
    ],
)
def test_missed_timing_gives_no_bitstream(script: Path, slack: dict[str, str], message: str) -> None:
    assert run_build(script).exit_code == 0
    outcome = run_build(script, ["project", "bitstream"], VivadoModel(slack))
    assert outcome.exit_code == 1 and message in outcome.error
    # Not even that of the build before.
    assert overlay(script) == []
    assert not any("write_bitstream" in line for line in outcome.model.log)
    resumed = run_build(script, ["bitstream"], VivadoModel(slack))
    assert resumed.exit_code == 1 and message in resumed.error and overlay(script) == []


def test_slack_of_zero_is_met(script: Path) -> None:
    assert run_build(script, model=VivadoModel({"setup": "0.000", "hold": "0.000"})).exit_code == 0


def test_resuming(script: Path) -> None:
    assert run_build(script, ["project", "synthesis"]).exit_code == 0
    assert overlay(script) == []
    assert run_build(script, ["implementation", "timing"]).exit_code == 0
    assert overlay(script) == []
    outcome = run_build(script, ["bitstream"])
    assert outcome.exit_code == 0 and overlay(script) == OVERLAY
    assert [line for line in outcome.output if "step" in line] == ["hwgen: step bitstream"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["synthesis"], "hwgen.xpr does not exist"),
        (["bitstream", "project"], "cannot go from"),
        (["route"], "steps are: project design"),
    ],
)
def test_wrong_order(script: Path, arguments: list[str], message: str) -> None:
    outcome = run_build(script, arguments)
    assert outcome.exit_code == 1 and message in outcome.error


def test_steps_left_out(script: Path) -> None:
    assert run_build(script, ["project", "project"]).exit_code == 0
    assert "no top module" in run_build(script, ["synthesis"]).error
    assert run_build(script, ["design", "design"]).exit_code == 0
    assert "impl_1 needs synth_1" in run_build(script, ["implementation"]).error


def test_a_project_of_other_files_is_not_resumed(script: Path) -> None:
    """`hwgen build` has written another build since."""
    assert run_build(script, ["project", "implementation"]).exit_code == 0
    (script.parent / "manifest.json").write_text("{ }\n")
    outcome = run_build(script, ["timing"])
    assert outcome.exit_code == 1 and "of another build than the files here; run all steps: make FROM=project" in outcome.error
    assert run_build(script).exit_code == 0
    assert (script.parent / "overlay" / "manifest.json").read_text() == "{ }\n"


def run_make(script: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", *arguments], cwd=script.parent, capture_output=True, text=True, check=False,
        env={**os.environ, "MAKEFLAGS": "", **environment},
    )


def make(script: Path, *arguments: str, setup: str = "0.1") -> subprocess.CompletedProcess[str]:
    vivado = f"{sys.executable} -m hwgen.sw.packaging.vivado.recorder --setup {setup}"
    return run_make(script, f"VIVADO={vivado}", *arguments)


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
def test_makefile(script: Path) -> None:
    missed = make(script, setup="-0.2")
    assert missed.returncode != 0 and "timing is not met: worst setup slack is -0.2 ns" in missed.stderr
    assert overlay(script) == []
    done = make(script, "bitstream", "FROM=timing")
    assert done.returncode == 0, done.stderr
    assert overlay(script) == OVERLAY and "step timing" in done.stdout and "step synthesis" not in done.stdout
    assert make(script, "clean").returncode == 0
    assert not (script.parent / "work").exists() and overlay(script) == []
    assert "hwgen.xpr does not exist" in make(script, "FROM=design").stderr


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
def test_make_without_vivado_says_what_to_install(script: Path) -> None:
    failed = run_make(script, "VIVADO=vivado-of-nobody")
    assert failed.returncode == 2
    # make calls itself make[1] where the test was started by a make
    said = [line for line in failed.stderr.splitlines() if not line.startswith(("make:", "make["))]
    assert said == [
        "hwgen: vivado was not found; install AMD Vivado with the device xck26-sfvc784-2LV-c, then "
        "`source <Vivado>/settings64.sh`, or give VIVADO=/path/to/vivado"
    ]
    assert not (script.parent / "work").exists()
