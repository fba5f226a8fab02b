"""The table of memory ports against the documents, in literals."""

from __future__ import annotations

import pytest

from hwgen.boards import board_names, load_board
from hwgen.errors import HwgenError
from hwgen.memory_ports import MEMORY_PORTS, AxiWidths, afi_settings, design_settings, memory_port


def test_pins() -> None:
    """PG201 and UG585: every port of a family has the same pins."""
    assert {p.widths for p in MEMORY_PORTS["zynq_ultra_ps_e"]} == {AxiWidths(id=6, address=49, user=1)}
    assert {p.widths for p in MEMORY_PORTS["processing_system7"]} == {AxiWidths(id=6, address=32, user=0)}
    assert {p.protocol for p in MEMORY_PORTS["zynq_ultra_ps_e"]} == {"AXI4"}
    assert {p.protocol for p in MEMORY_PORTS["processing_system7"]} == {"AXI3"}


@pytest.mark.parametrize(
    ("name", "afi", "used", "clock"),
    [
        # UG1085, table 35-2, and UG1087: HPC0 has AFIFM0 ... HP3 AFIFM5; PG201: HPC0 is GP0 ... HP3 GP5.
        ("S_AXI_HPC0_FPD", 0xFD360000, "PSU__USE__S_AXI_GP0", "saxihpc0_fpd_aclk"),
        ("S_AXI_HPC1_FPD", 0xFD370000, "PSU__USE__S_AXI_GP1", "saxihpc1_fpd_aclk"),
        ("S_AXI_HP0_FPD", 0xFD380000, "PSU__USE__S_AXI_GP2", "saxihp0_fpd_aclk"),
        ("S_AXI_HP1_FPD", 0xFD390000, "PSU__USE__S_AXI_GP3", "saxihp1_fpd_aclk"),
        ("S_AXI_HP2_FPD", 0xFD3A0000, "PSU__USE__S_AXI_GP4", "saxihp2_fpd_aclk"),
        ("S_AXI_HP3_FPD", 0xFD3B0000, "PSU__USE__S_AXI_GP5", "saxihp3_fpd_aclk"),
        # UG585, appendix B: axi_hp0 ... axi_hp3.
        ("S_AXI_HP0", 0xF8008000, "PCW_USE_S_AXI_HP0", "S_AXI_HP0_ACLK"),
        ("S_AXI_HP3", 0xF800B000, "PCW_USE_S_AXI_HP3", "S_AXI_HP3_ACLK"),
    ],
)
def test_names_and_addresses(name: str, afi: int, used: str, clock: str) -> None:
    port = memory_port("zynq_ultra_ps_e" if name.endswith("FPD") else "processing_system7", name)
    assert (port.afi, port.used, port.clock) == (afi, used, clock)


def test_settings_of_the_fifo() -> None:
    fields = afi_settings("zynq_ultra_ps_e", ["S_AXI_HP1_FPD"], 128)
    assert [(f.address, f.mask, f.value) for f in fields] == [
        (0xFD390000, 0xF, 0), (0xFD390004, 0xF, 7), (0xFD390008, 0xF, 0),
        (0xFD390014, 0x100F, 0), (0xFD390018, 0xF, 7), (0xFD39001C, 0xF, 0),
    ]
    assert [f.value for f in afi_settings("zynq_ultra_ps_e", ["S_AXI_HPC0_FPD"], 32)][::3] == [2, 2]
    assert [f.value for f in afi_settings("zynq_ultra_ps_e", ["S_AXI_HPC0_FPD"], 64)][::3] == [1, 1]
    assert [f.value for f in afi_settings("processing_system7", ["S_AXI_HP1"], 32)][::3] == [1, 1]
    fields = afi_settings("processing_system7", ["S_AXI_HP0", "S_AXI_HP2"], 64)
    assert [(f.address, f.mask, f.value) for f in fields[6:]] == [
        (0xF800A000, 0x3, 0), (0xF800A004, 0x7, 7), (0xF800A008, 0xF, 0),
        (0xF800A014, 0x3, 0), (0xF800A018, 0x7, 7), (0xF800A01C, 0xF, 0),
    ]


@pytest.mark.parametrize("one", [1, "1"])
def test_settings_of_a_design(one: object) -> None:
    """Of the ports that its parameters say are used, each with its own width; others may be there, and off, or not be named."""
    parameters = {
        "PSU__USE__S_AXI_GP2": one, "PSU__SAXIGP2__DATA_WIDTH": 128, "PSU__USE__S_AXI_GP5": one, "PSU__SAXIGP5__DATA_WIDTH": "32",
        "PSU__USE__S_AXI_GP3": "0", "PSU__SAXIGP3__DATA_WIDTH": "64", "PSU__USE__S_AXI_GP4": 11,
    }
    expected = afi_settings("zynq_ultra_ps_e", ["S_AXI_HP0_FPD"], 128) + afi_settings("zynq_ultra_ps_e", ["S_AXI_HP3_FPD"], 32)
    assert design_settings("zynq_ultra_ps_e", parameters) == expected and len(expected) == 12
    assert [f.text.partition(",")[0] for f in expected[::6]] == ["S_AXI_HP0_FPD", "S_AXI_HP3_FPD"]
    assert design_settings("processing_system7", {"PCW_USE_S_AXI_HP0": "0"}) == ()


@pytest.mark.parametrize("board", [b for b in board_names() if load_board(b).platform])
def test_ports_of_the_boards(board: str) -> None:
    platform = load_board(board).platform
    assert platform is not None
    for name in platform.memory_ports:
        assert platform.memory_port_bits in memory_port(platform.processor, name).data_bits


def test_an_unknown_port() -> None:
    with pytest.raises(HwgenError, match="zynq_ultra_ps_e has no memory port S_AXI_HP0"):
        memory_port("zynq_ultra_ps_e", "S_AXI_HP0")


def test_every_port_of_a_processing_system() -> None:
    """UG1085 and UG585: data widths, and the names by which tools know clocks, segments and parameters."""
    for processor, widths in (("zynq_ultra_ps_e", (32, 64, 128)), ("processing_system7", (32, 64))):
        assert {port.data_bits for port in MEMORY_PORTS[processor]} == {widths}
    rows = [(p.name, p.short, p.block, p.used, p.width, p.afi) for p in MEMORY_PORTS["zynq_ultra_ps_e"]]
    shorts = ["HPC0", "HPC1", "HP0", "HP1", "HP2", "HP3"]
    assert rows == [
        (f"S_AXI_{short}_FPD", short, f"SAXIGP{n}", f"PSU__USE__S_AXI_GP{n}", f"PSU__SAXIGP{n}__DATA_WIDTH", 0xFD360000 + 65536 * n)
        for n, short in enumerate(shorts)
    ]
    rows = [(p.name, p.short, p.block, p.used, p.width, p.afi) for p in MEMORY_PORTS["processing_system7"]]
    assert rows == [
        (f"S_AXI_HP{n}", f"HP{n}", f"S_AXI_HP{n}", f"PCW_USE_S_AXI_HP{n}", f"PCW_S_AXI_HP{n}_DATA_WIDTH", 0xF8008000 + n * 0x1000)
        for n in range(4)
    ]
