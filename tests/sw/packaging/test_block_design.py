"""The block design of every board, run by a real Tcl interpreter against the recording model; then the same with faults."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from hwgen.boards import load_board
from hwgen.config import BuildConfig
from hwgen.errors import HwgenError
from hwgen.sw.packaging.block_design import describe_design
from hwgen.sw.packaging.vivado.recorder import BOARDS as INSTALLED
from hwgen.sw.packaging.vivado.recorder import Outcome, VivadoModel, run_build
from hwgen.sw.packaging.vivado.tcl import find_tcl

from .builds import BOARDS, write_build

pytestmark = pytest.mark.skipif(find_tcl() is None, reason="no Tcl interpreter: apt-get install tcl")


@pytest.mark.parametrize("name", BOARDS)
def test_design_is_complete_and_as_described(name: str, tmp_path: Path) -> None:
    board = load_board(name)
    outcome = run_build(write_build(board, tmp_path), ["project", "design"])
    assert outcome.error == "" and outcome.exit_code == 0, outcome.output
    built, design = outcome.model.design, describe_design(board)
    assert built is not None and outcome.model.project is not None
    assert outcome.model.project.board_part == design.board_part + ":1.4"  # the newest that is installed
    assert {n: c.core for n, c in built.cells.items()} == {c.name: c.core for c in design.cells}
    for cell in design.cells:
        assert cell.settings.items() <= built.cells[cell.name].settings.items()
    assert {frozenset(pair) for pair in built.links.items()} == {frozenset(pair) for pair in design.interfaces}
    for driver, sinks in design.nets:
        assert {built.nets[pin] for pin in (driver, *sinks)} == {built.nets[driver]}
    assert len(set(built.nets.values())) == len(design.nets)
    found = {(space, a.segment, a.base) for space, items in built.assigned.items() for a in items}
    assert found == {(a.space, a.segment, a.base) for a in design.addresses}
    board_platform = board.platform
    assert board_platform is not None
    linked = [p for p in built.links if re.fullmatch(r"ps/S_AXI_HP.*", p)]
    assert sorted(linked) == [f"ps/{p}" for p in board_platform.memory_ports[: board.config.ports]]


def faulty(tmp_path: Path, old: str, new: str, file: str = "design.tcl", board: str = "kv260") -> Outcome:
    """A build with ``old`` replaced by ``new`` in one of its files."""
    script = write_build(load_board(board), tmp_path)
    text = (tmp_path / file).read_text()
    assert old in text
    (tmp_path / file).write_text(text.replace(old, new, 1))
    return run_build(script)


LINE = "connect_bd_net [get_bd_pins {}] [get_bd_pins {}]\n"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (LINE.format("ps/pl_clk0", "accelerator/aclk"), "", "pin accelerator/aclk is left open"),
        (LINE.format("reset/peripheral_aresetn", "accelerator/aresetn"), "", "pin accelerator/aresetn is left open"),
        (LINE.format("accelerator/irq", "interrupts/intr"), "", "pin accelerator/irq is left open"),
        (LINE.format("interrupts/irq", "ps/pl_ps_irq0"), "", "pin ps/pl_ps_irq0 is left open"),
        (LINE.format("ps/pl_clk0", "ps/saxihp2_fpd_aclk"), "", "pin ps/saxihp2_fpd_aclk is left open"),
        ("connect_bd_intf_net [get_bd_intf_pins accelerator/m01_axi] [get_bd_intf_pins ps/S_AXI_HP1_FPD]\n", "",
         "interface pin accelerator/m01_axi is left open"),
        ("  CONFIG.PSU__USE__M_AXI_GP1 {0} \\\n", "", "interface pin ps/M_AXI_HPM1_FPD is left open"),
        ("  CONFIG.PSU__USE__S_AXI_GP3 {1} \\\n", "", "no interface pin ps/S_AXI_HP1_FPD"),
        ("CONFIG.PSU__SAXIGP3__DATA_WIDTH {128}", "CONFIG.PSU__SAXIGP3__DATA_WIDTH {64}",
         "accelerator/m01_axi is 128 bits wide and ps/S_AXI_HP1_FPD 64"),
        ("CONFIG.PSU__USE__IRQ0", "CONFIG.PSU__USE__IRQO", "zynq_ultra_ps_e has no parameter PSU__USE__IRQO"),
        ("CONFIG.NUM_MI {2}", "CONFIG.NUM_MI {3}", "interface pin control/M02_AXI is left open"),
        ("[get_bd_intf_pins control/M01_AXI] [get_bd_intf_pins interrupts/s_axi]",
         "[get_bd_intf_pins control/M01_AXI] [get_bd_intf_pins accelerator/s_axi]",
         "accelerator/s_axi is connected to control/M00_AXI already"),
        ("[get_bd_intf_pins ps/M_AXI_HPM0_FPD] [get_bd_intf_pins control/S00_AXI]",
         "[get_bd_intf_pins control/S00_AXI] [get_bd_intf_pins interrupts/s_axi]", "are both slaves"),
        ("[get_bd_intf_pins ps/M_AXI_HPM0_FPD] [get_bd_intf_pins control/S00_AXI]",
         "[get_bd_intf_pins ps/M_AXI_HPM0_FPD] [get_bd_intf_pins accelerator/s_axi]", "speaks AXI4 and accelerator/s_axi AXI4LITE"),
        ("-offset 0xA0020000", "-offset 0xA0000000",
         "segments accelerator/s_axi/registers and interrupts/S_AXI/Reg overlap in ps/Data"),
        ("-offset 0xA0020000", "-offset 0xA0021000", "segment interrupts/S_AXI/Reg in ps/Data is not aligned"),
        ("-range 0x20000", "-range 0x1000", "has a range of 0x1000 and needs 0x20000"),
        ("-range 0x20000", "-range 0x30000", "which is not a power of two"),
        ("-offset 0xA0000000 -range 0x20000", "-offset 0x10000000000 -range 0x20000", "ends beyond 40 address bits"),
        ("-offset 0xA0000000 -range 0x20000 ", "", "segment accelerator/s_axi/registers needs an offset"),
        ("[get_bd_addr_spaces accelerator/m01_axi] [get_bd_addr_segs ps/SAXIGP3/HP1_DDR_LOW]",
         "[get_bd_addr_spaces accelerator/m01_axi] [get_bd_addr_segs ps/SAXIGP2/HP0_DDR_LOW]",
         "segment ps/SAXIGP2/HP0_DDR_LOW in accelerator/m01_axi cannot be reached"),
        ("assign_bd_address -target_address_space [get_bd_addr_spaces accelerator/m00_axi] "
         "[get_bd_addr_segs ps/SAXIGP2/HP0_DDR_LOW]\n", "", "HP0_DDR_LOW is not mapped into accelerator/m00_axi"),
        ("  accelerator/m03_axi ps/SAXIGP5/*\n", "", "segment ps/SAXIGP5/HP3_QSPI is not mapped into accelerator"),
        ('apply_bd_automation -rule xilinx.com:bd_rule:zynq_ultra_ps_e -config {apply_board_preset "1"} '
         "[get_bd_cells ps]\n", "", "cell ps has no board preset"),
        ("[latest_core xilinx.com:ip:smartconnect]", "xilinx.com:ip:smartconnect:9.9", "smartconnect:9.9 is not in the"),
        ("hwgen:hwgen:accelerator:1.0", "hwgen:hwgen:accelerator:2.0", "hwgen:hwgen:accelerator:2.0 is not in the catalogue"),
        (LINE.format("ps/pl_clk0", "control/aclk"), LINE.format("ps/pl_clk0", "control/aclock"), "no pin control/aclock"),
        (LINE.format("interrupts/irq", "ps/pl_ps_irq0"), LINE.format("interrupts/irq", "ps/pl_ps_irq0")
         + LINE.format("interrupts/irq", "accelerator/irq"), "drive one net"),
        ("validate_bd_design\n", "", "no file hwgen.bd is in the project"),
        ("create_bd_design hwgen\n", "create_bd_design hwgen -quick\n", "unknown option -quick"),
    ],
)
def test_faults_are_reported(old: str, new: str, message: str, tmp_path: Path) -> None:
    outcome = faulty(tmp_path, old, new)
    assert outcome.exit_code == 1
    assert message in outcome.error
    assert not (tmp_path / "overlay").exists()


def test_zynq_7000_needs_a_converter(tmp_path: Path) -> None:
    old = "[get_bd_intf_pins accelerator/m00_axi] [get_bd_intf_pins memory_0/S00_AXI]"
    outcome = faulty(tmp_path, old, "[get_bd_intf_pins accelerator/m00_axi] [get_bd_intf_pins ps/S_AXI_HP0]", board="pynq-z2")
    assert "accelerator/m00_axi speaks AXI4 and ps/S_AXI_HP0 AXI3" in outcome.error


@pytest.mark.parametrize(
    "name", ["component.xml", "hwgen_accelerator.v", "hwgen_ip.v", "hwgen.xdc", "design.tcl", "xgui/accelerator_v1_0.tcl"]
)
def test_a_missing_file_is_reported(name: str, tmp_path: Path) -> None:
    script = write_build(load_board("kv260"), tmp_path)
    (tmp_path / name).unlink()
    outcome = run_build(script)
    assert outcome.exit_code == 1 and Path(name).name in outcome.error


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<spirit:name>hwgen_ip.v</spirit:name>", "<spirit:name>hwgen_top.v</spirit:name>", "hwgen_top.v does not exist"),
        ("<spirit:name>m00_axi_araddr</spirit:name>", "<spirit:name>m00_axi_address</spirit:name>", "maps port m00_axi_address"),
        ("s_axi:m00_axi:m01_axi", "s_axi:m00_axi", "interface m01_axi has no clock"),
        ("<spirit:version>1.0</spirit:version>", "<spirit:version>1.1</spirit:version>", "hwgen:hwgen:accelerator:1.0 is not"),
    ],
)
def test_faults_of_the_description_are_reported(old: str, new: str, message: str, tmp_path: Path) -> None:
    assert message in faulty(tmp_path, old, new, "component.xml").error


def test_a_bad_constraint_is_reported(tmp_path: Path) -> None:
    outcome = faulty(tmp_path, "BITSTREAM.GENERAL.COMPRESS", "BITSTREAM.GENERAL.COMPRES", "hwgen.xdc")
    assert "no property BITSTREAM.GENERAL.COMPRES" in outcome.error


def test_missing_board_files_say_where_they_come_from(tmp_path: Path) -> None:
    script = write_build(load_board("pynq-z2"), tmp_path)
    others = {name: part for name, part in INSTALLED.items() if "pynq" not in name}
    outcome = run_build(script, model=VivadoModel(boards=others | {"other": "xc7z020clg400-1"}))
    assert outcome.exit_code == 1
    assert "board tul.com.tw:pynq-z2:part0 is not installed (TUL's board files for the PYNQ-Z2)" in outcome.error


def test_board_files_from_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = write_build(load_board("pynq-z2"), tmp_path)
    monkeypatch.setenv("BOARD_FILES", str(tmp_path))
    outcome = run_build(script, ["project", "project"])
    assert outcome.exit_code == 0 and outcome.model.repositories == [str(tmp_path)]
    monkeypatch.setenv("BOARD_FILES", str(tmp_path / "nowhere"))
    assert "nowhere is not a folder" in run_build(script).error


def test_a_wrong_part_is_reported(tmp_path: Path) -> None:
    outcome = run_build(write_build(replace(load_board("kv260"), part="xczu7ev-ffvc1156-2-e"), tmp_path))
    assert "board xilinx.com:kv260_som:part0 carries xck26-sfvc784-2LV-c" in outcome.error


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (BuildConfig(ports=8, builders=1), "ports must be at most 4 on kv260, not 8"),
        (BuildConfig(ports=4, port_bits=64, builders=1), "port_bits must be 128 on kv260, not 64"),
    ],
)
def test_a_configuration_that_the_board_cannot_carry(config: BuildConfig, message: str) -> None:
    with pytest.raises(HwgenError, match=message):
        describe_design(replace(load_board("kv260"), config=config))


def test_a_configuration_without_a_platform() -> None:
    with pytest.raises(HwgenError, match="board demo has no platform"):
        describe_design(load_board("demo"))
