"""The Kria app: its device tree through the compiler, and the steps of the Makefile with stand-ins for AMD's tools."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from hwgen.boards import Board, load_board
from hwgen.errors import HwgenError
from hwgen.sw.packaging.block_design import describe_design
from hwgen.sw.packaging.checks import compile_tree
from hwgen.sw.packaging.kria_app import app_files, overlay_dtsi, port_widths

from .builds import BOARDS, generated, write_build

KV260 = load_board("kv260")
needs_dtc = pytest.mark.skipif(shutil.which("dtc") is None, reason="no dtc: apt-get install device-tree-compiler")


def test_boards_with_an_app() -> None:
    assert [name for name in BOARDS if any(file.startswith("app/") for file in generated(name))] == ["kv260"]


def compiled(board: Board, directory: Path) -> dict[str, str]:
    """``{property: value}`` of the compiled overlay as dtc writes it back, nodes by their last name."""
    source, blob = directory / "hwgen.dtsi", directory / "hwgen.dtbo"
    source.write_text(overlay_dtsi(board))
    done = subprocess.run(["dtc", "-@", "-I", "dts", "-O", "dtb", "-o", str(blob), str(source)], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    back = subprocess.run(["dtc", "-q", "-I", "dtb", "-O", "dts", str(blob)], capture_output=True, text=True, check=True).stdout
    found, nodes = {}, []
    for line in map(str.strip, back.splitlines()):
        if line.endswith("{"):
            nodes.append(line.removesuffix("{").strip())
        elif line == "};":
            nodes.pop()
        elif " = " in line:
            name, _, value = line.rstrip(";").partition(" = ")
            found[f"{nodes[-1]}/{name}"] = value
    return found


@needs_dtc
def test_overlay_of_the_kv260(tmp_path: Path) -> None:
    tree = compiled(KV260, tmp_path)
    assert tree["__overlay__/firmware-name"] == '"hwgen-kv260.bit.bin"'
    assert tree["hwgen-clock/assigned-clock-rates"] == f"<0x{250_000_000:x}>"
    assert tree["accelerator@a0000000/reg"] == "<0x00 0xa0000000 0x00 0x20000>"
    assert tree["interrupt-controller@a0020000/reg"] == "<0x00 0xa0020000 0x00 0x10000>"
    assert tree["interrupt-controller@a0020000/interrupts"] == "<0x00 0x59 0x04>"  # 89: GIC 121
    assert "generic-uio" in tree["accelerator@a0000000/compatible"]
    # Labels of the running system are resolved by their names.
    assert {"fpga_full", "amba", "zynqmp_clk", "zynqmp_reset", "gic"} <= {
        key.rpartition("/")[2] for key in tree if key.startswith("__fixups__/")
    }


@needs_dtc
@pytest.mark.parametrize("mhz", [187.5, 300.0])
def test_the_clock_is_that_of_the_build(mhz: float, tmp_path: Path) -> None:
    board = replace(KV260, config=replace(KV260.config, clock_mhz=mhz))
    assert compiled(board, tmp_path)["hwgen-clock/assigned-clock-rates"] == f"<0x{round(mhz * 1e6):x}>"


def test_the_tree_says_what_the_block_design_is() -> None:
    design = describe_design(KV260)
    settings = next(c.settings for c in design.cells if c.name == "ps")
    text = overlay_dtsi(KV260, settings["PSU__MAXIGP0__DATA_WIDTH"])
    assert text == app_files(KV260)["app/hwgen.dtsi"]
    bases = {a.segment.partition("/")[0]: a.base for a in design.addresses if not a.fixed}
    assert f"accelerator@{bases['accelerator']:x}" in text and f"interrupt-controller@{bases['interrupts']:x}" in text


def test_port_widths() -> None:
    """Numbers as linux-xlnx counts them: RDCTRL of AFIFM2, HP0, is 4."""
    assert port_widths(KV260, "128") == [(0, 0), (1, 0), *((number, 0) for number in range(4, 12)), (14, 0x200)]
    assert KV260.platform is not None
    narrow = replace(KV260.platform, memory_ports=("S_AXI_HPC1_FPD", "S_AXI_HP0_FPD"), memory_port_bits=64)
    board = replace(KV260, platform=narrow, config=load_board("pynq-z2").config)
    assert port_widths(board, "32") == [(2, 1), (3, 1), (4, 1), (5, 1), (14, 0)]


def test_the_shell() -> None:
    assert json.loads(app_files(KV260)["app/shell.json"]) == {"shell_type": "XRT_FLAT", "num_slots": "1"}


@needs_dtc
def test_a_faulty_tree_is_an_error(tmp_path: Path) -> None:
    source = tmp_path / "hwgen.dtsi"
    source.write_text(overlay_dtsi(KV260))
    assert compile_tree(source) == "clean"
    source.write_text(source.read_text().replace("#clock-cells = <0>;", "#clock-cells = <0>"))
    with pytest.raises(HwgenError, match="the device tree is not clean: .*hwgen.dtsi:23"):
        compile_tree(source)


def test_a_missing_compiler_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert compile_tree(tmp_path).startswith("skipped: there is no device tree compiler")


def make(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", *arguments], cwd=directory, capture_output=True, text=True, check=False, env={**os.environ, "MAKEFLAGS": ""}
    )


@needs_dtc
@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
def test_make_app(tmp_path: Path) -> None:
    """With a stand-in for bootgen that reads the image description as bootgen does: paths from where it runs."""
    write_build(KV260, tmp_path)
    bootgen = tmp_path / "bootgen"
    bootgen.write_text(
        '#!/bin/sh\n[ "$1 $2 $3 $4 $5" = "-arch zynqmp -process_bitstream bin -image" ] || exit 9\n'
        "bit=$(sed -n 's/.*] *\\(.*bit\\)$/\\1/p' \"$6\") && cp \"$bit\" \"$bit.bin\"\n"
    )
    bootgen.chmod(0o755)
    early = make(tmp_path, "app")
    assert early.returncode == 2 and "hwgen: there is no overlay/hwgen.bit; run make first" in early.stderr
    (tmp_path / "overlay").mkdir()
    (tmp_path / "overlay" / "hwgen.bit").write_text("bits")
    missing = make(tmp_path, "app", "BOOTGEN=bootgen-of-nobody")
    assert missing.returncode == 2 and "hwgen: bootgen was not found" in missing.stderr
    done = make(tmp_path, "app", f"BOOTGEN={bootgen}")
    assert done.returncode == 0, done.stderr
    names = ["hwgen-kv260.bit.bin", "hwgen-kv260.dtbo", "shell.json"]
    assert sorted(p.name for p in (tmp_path / "overlay" / "hwgen-kv260").iterdir()) == names
    root = tmp_path / "root"
    assert make(tmp_path, "install-app", f"DESTDIR={root}").returncode == 0
    assert sorted(p.name for p in (root / "lib/firmware/xilinx/hwgen-kv260").iterdir()) == names
    assert (root / "lib/firmware/xilinx/hwgen-kv260/hwgen-kv260.bit.bin").read_text() == "bits"
