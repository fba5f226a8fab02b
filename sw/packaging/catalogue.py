"""What block designs use of AMD's cores: interfaces, pins and addresses, as far as the parameters of a cell switch them.

Facts from the product guides (processing systems PG201 and PG082, SmartConnect PG247, interrupt controller PG099, reset PG164).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ...memory_ports import MEMORY_PORTS, AxiWidths, MemoryPort

__all__ = ["CATALOGUE", "Definition", "Interface", "Pin", "SegmentOf"]

Settings = Mapping[str, str]


@dataclass(frozen=True)
class Pin:
    """A pin outside the interfaces. ``kind`` is "clk", "rst", "intr" or "". A required input may not be left open."""

    name: str
    output: bool
    width: int = 1
    kind: str = ""
    required: bool = False


@dataclass(frozen=True)
class SegmentOf:
    """An address range behind a slave interface. ``base`` is None where the design chooses it."""

    name: str
    bytes: int
    base: int | None = None


@dataclass(frozen=True)
class Interface:
    """An interface pin. ``kind`` is "aximm", or "external" for pins of the device. ``width`` 0 adapts to its peer."""

    name: str
    kind: str
    master: bool
    protocol: str = "AXI4"
    width: int = 0
    clock: str = ""
    #: Path of the segments below the cell, as in "SAXIGP2".
    address_block: str = ""
    segments: tuple[SegmentOf, ...] = ()
    #: Address space of a master, below the cell.
    space: str = ""
    address_bits: int = 0
    #: Widths of its other pins; None where it adapts to its peer or has AXI4-Lite.
    widths: AxiWidths | None = None


@dataclass(frozen=True)
class Definition:
    interfaces: tuple[Interface, ...]
    pins: tuple[Pin, ...]


def enabled(settings: Settings, name: str) -> bool:
    return settings.get(name, "0") in ("1", "true", "TRUE")


def ultrascale_segments(port: MemoryPort) -> tuple[SegmentOf, ...]:
    """What a memory port of Zynq UltraScale+ reaches; the high memory is that of a board with 4 GB."""
    return (
        SegmentOf(f"{port.short}_DDR_LOW", 0x8000_0000, 0x0),
        SegmentOf(f"{port.short}_DDR_HIGH", 0x8000_0000, 0x8_0000_0000),
        SegmentOf(f"{port.short}_QSPI", 0x2000_0000, 0xC000_0000),
        SegmentOf(f"{port.short}_LPS_OCM", 0x100_0000, 0xFF00_0000),
    )


def zynq7000_segments(port: MemoryPort) -> tuple[SegmentOf, ...]:
    return (SegmentOf(f"{port.short}_DDR_LOWOCM", 0x2000_0000, 0x0),)


def memory_interfaces(
    processor: str, settings: Settings, segments: Callable[[MemoryPort], tuple[SegmentOf, ...]]
) -> tuple[list[Interface], list[Pin]]:
    """Memory ports that are switched on, and their clocks."""
    interfaces, pins = [], []
    for port in MEMORY_PORTS[processor]:
        if enabled(settings, port.used):
            width = int(settings.get(port.width, str(max(port.data_bits))))
            interfaces.append(Interface(port.name, "aximm", False, port.protocol, width, port.clock, port.block, segments(port),
                                        widths=port.widths))
            pins.append(Pin(port.clock, False, 1, "clk", True))
    return interfaces, pins


def ultrascale(settings: Settings) -> Definition:
    interfaces, pins = [], []
    for number, name in enumerate(("M_AXI_HPM0_FPD", "M_AXI_HPM1_FPD", "M_AXI_HPM0_LPD")):
        if enabled(settings, f"PSU__USE__M_AXI_GP{number}"):
            clock = f"maxi{name.removeprefix('M_AXI_').lower()}_aclk"
            width = int(settings.get(f"PSU__MAXIGP{number}__DATA_WIDTH", "128"))
            interfaces.append(Interface(name, "aximm", True, "AXI4", width, clock, space="Data", address_bits=40))
            pins.append(Pin(clock, False, 1, "clk", True))
    memory, clocks = memory_interfaces("zynq_ultra_ps_e", settings, ultrascale_segments)
    interfaces += memory
    pins += clocks
    if enabled(settings, "PSU__FPGA_PL0_ENABLE"):
        pins.append(Pin("pl_clk0", True, 1, "clk"))
    if enabled(settings, "PSU__USE__FABRIC__RST"):
        pins.append(Pin("pl_resetn0", True, 1, "rst"))
    if enabled(settings, "PSU__USE__IRQ0"):
        pins.append(Pin("pl_ps_irq0", False, 1, "intr"))
    return Definition(tuple(interfaces), tuple(pins))


def zynq7000(settings: Settings) -> Definition:
    interfaces = [Interface(name, "external", True) for name in ("DDR", "FIXED_IO")]
    pins = []
    for number in range(2):
        if enabled(settings, f"PCW_USE_M_AXI_GP{number}"):
            name = f"M_AXI_GP{number}"
            interfaces.append(Interface(name, "aximm", True, "AXI3", 32, f"{name}_ACLK", space="Data", address_bits=32))
            pins.append(Pin(f"{name}_ACLK", False, 1, "clk", True))
    memory, clocks = memory_interfaces("processing_system7", settings, zynq7000_segments)
    interfaces += memory
    pins += clocks
    if enabled(settings, "PCW_EN_CLK0_PORT"):
        pins.append(Pin("FCLK_CLK0", True, 1, "clk"))
    if enabled(settings, "PCW_EN_RST0_PORT"):
        pins.append(Pin("FCLK_RESET0_N", True, 1, "rst"))
    if enabled(settings, "PCW_USE_FABRIC_INTERRUPT") and enabled(settings, "PCW_IRQ_F2P_INTR"):
        pins.append(Pin("IRQ_F2P", False, 1, "intr"))
    return Definition(tuple(interfaces), tuple(pins))


def smartconnect(settings: Settings) -> Definition:
    slaves, masters = int(settings.get("NUM_SI", "2")), int(settings.get("NUM_MI", "1"))
    interfaces = [Interface(f"S{i:02d}_AXI", "aximm", False, "", 0, "aclk") for i in range(slaves)]
    interfaces += [Interface(f"M{i:02d}_AXI", "aximm", True, "", 0, "aclk") for i in range(masters)]
    return Definition(tuple(interfaces), (Pin("aclk", False, 1, "clk", True), Pin("aresetn", False, 1, "rst", True)))


def interrupt_controller(settings: Settings) -> Definition:
    interface = Interface("s_axi", "aximm", False, "AXI4LITE", 32, "s_axi_aclk", "S_AXI", (SegmentOf("Reg", 0x1_0000),))
    pins = (
        Pin("s_axi_aclk", False, 1, "clk", True),
        Pin("s_axi_aresetn", False, 1, "rst", True),
        Pin("intr", False, 1, "intr", True),
        Pin("irq", True, 1, "intr"),
    )
    return Definition((interface,), pins)


def reset(settings: Settings) -> Definition:
    inputs = (
        Pin("slowest_sync_clk", False, 1, "clk", True),
        Pin("ext_reset_in", False, 1, "rst", True),
        Pin("aux_reset_in", False, 1, "rst"),
        Pin("mb_debug_sys_rst", False, 1, "rst"),
        Pin("dcm_locked", False),
    )
    outputs = (
        Pin("mb_reset", True, 1, "rst"),
        Pin("bus_struct_reset", True, 1, "rst"),
        Pin("peripheral_reset", True, 1, "rst"),
        Pin("interconnect_aresetn", True, 1, "rst"),
        Pin("peripheral_aresetn", True, 1, "rst"),
    )
    return Definition((), (*inputs, *outputs))


#: ``{name of the core: its definition with given parameters}``, all of them xilinx.com:ip.
CATALOGUE: dict[str, Callable[[Settings], Definition]] = {
    "zynq_ultra_ps_e": ultrascale,
    "processing_system7": zynq7000,
    "smartconnect": smartconnect,
    "axi_intc": interrupt_controller,
    "proc_sys_reset": reset,
}
