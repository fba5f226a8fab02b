"""Builds of real, small Verilog: the linter sees accelerator and wrapper together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hwgen.boards import load_board
from hwgen.errors import HwgenError
from hwgen.sim.toolchain import find_toolchain
from hwgen.sw.packaging import checks
from hwgen.sw.packaging.build import build_board
from hwgen.sw.packaging.checks import check_directory, lint, lint_boundary, run_scripts
from hwgen.sw.packaging.core import Core, accelerator_core, wrapper_verilog
from hwgen.sw.packaging.vivado.tcl import find_tcl

from .builds import small_board, write_build


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("build") / "pynq-z2"
    result = build_board(small_board("pynq-z2"), out)
    assert result["checks"]["lint"] == "clean"
    assert result["checks"]["scripts"] == "clean" or find_tcl() is None
    return out


def test_a_small_build_is_clean(built: Path) -> None:
    manifest = json.loads((built / "manifest.json").read_text())
    assert manifest["vlnv"] == "hwgen:hwgen:accelerator:1.0" and manifest["tools"]["amaranth"] != "unknown"
    assert {p.name for p in built.iterdir()} >= {"component.xml", "hwgen.hwh", "Makefile", "build.tcl", "hwgen_accelerator.v"}
    assert not (built / "work").exists()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("    .m00_axi_araddr(m00_axi_araddr),\n", ""),
        ("    .irq(irq)", "    .interrupt(irq)"),
        ("output wire [39:0] m01_axi_awaddr", "output wire [31:0] m01_axi_awaddr"),
        ("input wire aresetn", "input wire areset"),
    ],
)
def test_the_linter_finds_a_wrapper_that_does_not_fit(built: Path, tmp_path: Path, old: str, new: str) -> None:
    for name in ("hwgen_accelerator.v", "hwgen_ip.v"):
        (tmp_path / name).write_text((built / name).read_text())
    text = (tmp_path / "hwgen_ip.v").read_text()
    assert old in text
    (tmp_path / "hwgen_ip.v").write_text(text.replace(old, new, 1))
    with pytest.raises(HwgenError, match="the Verilog is not clean: %"):
        lint_boundary(find_toolchain(), tmp_path)


def hollow(described: Core, inside: str = "") -> str:
    """A module with the accelerator's ports, as the generator writes it."""
    lines = [f"module hwgen_accelerator({', '.join([*described.inner, 'clk', 'rst'])});", "  input clk;", "  input rst;"]
    for name, p in described.inner.items():
        width = f"[{p.width - 1}:0] " if p.width > 1 else ""
        lines += [f"  output {width}{name};", f"  wire {width}{name};"] if p.output else [f"  input {width}{name};"]
    return "\n".join([*lines, inside, "endmodule", ""])


@pytest.mark.parametrize("name", ["kv260", "pynq-z2"])
def test_wrappers_of_both_families_are_clean(name: str, tmp_path: Path) -> None:
    described = accelerator_core(small_board(name))
    (tmp_path / "hwgen_ip.v").write_text(wrapper_verilog(described, "hwgen_accelerator"))
    (tmp_path / "hwgen_accelerator.v").write_text(hollow(described))
    lint_boundary(find_toolchain(), tmp_path)


def test_the_linter_finds_a_fault_inside(tmp_path: Path) -> None:
    described = accelerator_core(small_board("pynq-z2"))
    (tmp_path / "hwgen_ip.v").write_text(wrapper_verilog(described, "hwgen_accelerator"))
    latch = "  reg latch;\n  always @* if (clk) latch = rst;\n  assign irq = latch;"
    (tmp_path / "hwgen_accelerator.v").write_text(hollow(described, latch))
    lint_boundary(find_toolchain(), tmp_path)
    with pytest.raises(HwgenError, match="the Verilog is not clean: %"):
        lint(tmp_path)


@pytest.mark.skipif(find_tcl() is None, reason="no Tcl interpreter: apt-get install tcl")
def test_faulty_scripts_are_an_error(tmp_path: Path) -> None:
    script = write_build(load_board("zcu104"), tmp_path)
    assert run_scripts(tmp_path) == "clean"
    before = sorted(p.name for p in tmp_path.iterdir())
    script.write_text(script.read_text().replace("source [file join $here design.tcl]", "source [file join $here designs.tcl]"))
    with pytest.raises(HwgenError, match="the build scripts fail: .*designs.tcl"):
        run_scripts(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_missing_tools_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hwgen.sim import toolchain

    def missing() -> None:
        raise toolchain.ToolMissing("no C++ compiler: 'g++' was not found", "apt-get install g++")

    monkeypatch.setattr(toolchain, "find_toolchain", missing)
    monkeypatch.setattr(checks, "find_tcl", lambda: None)
    (tmp_path / "build.tcl").write_text("")
    found = check_directory(tmp_path)
    assert found["lint"] == "skipped: no C++ compiler: 'g++' was not found"
    assert found["scripts"].startswith("skipped: there is no Tcl interpreter")
