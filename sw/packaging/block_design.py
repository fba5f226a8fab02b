"""The block design of a board as data: cells, connections and addresses. Tcl and hand-off are both rendered from it.

The control port of the processing system reaches the accelerator and an interrupt controller through a SmartConnect. Memory
ports connect directly where they speak AXI4 (Zynq UltraScale+): the core then has their pins, bit for bit (`core.py`). Where they
speak AXI3 (Zynq-7000) a SmartConnect each converts protocol, ID and address. One clock and one reset serve everything.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ...boards import Board, Platform
from ...errors import HwgenError
from ...memory_ports import MEMORY_PORTS, MemoryPort, memory_port
from ...registers import WINDOW_BYTES
from ...vlnv import NAME, VLNV
from .core import CLOCK, INTERRUPT, RESET
from .ipxact import BLOCK, MEMORY_MAP

__all__ = ["Address", "Cell", "Design", "describe_design", "needs_platform"]

#: Name of the block design, of the bitstream and of the hand-off.
DESIGN = "hwgen"

#: Address range of the interrupt controller.
INTERRUPT_CONTROLLER_BYTES = 0x1_0000


@dataclass(frozen=True)
class Cell:
    """An instance. Cores of AMD carry no version: the newest of the catalogue is taken."""

    name: str
    vlnv: str
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def core(self) -> str:
        return self.vlnv.split(":")[2]


@dataclass(frozen=True)
class Address:
    """A segment in an address space. ``fixed`` says that the segment itself has the address."""

    space: str
    segment: str
    base: int
    bytes: int
    fixed: bool = False


@dataclass(frozen=True)
class Design:
    part: str
    board_part: str
    board_files: str
    processor: str
    cells: tuple[Cell, ...]
    #: Pairs of interface pins, the master first.
    interfaces: tuple[tuple[str, str], ...]
    #: Nets, ``(driver, sinks)``.
    nets: tuple[tuple[str, tuple[str, ...]], ...]
    addresses: tuple[Address, ...]
    #: ``(space, segments)`` patterns of what a memory port reaches and is not meant to.
    excluded: tuple[tuple[str, str], ...]
    constraints: tuple[str, ...]


def needs_platform(board: Board) -> Platform:
    """The platform of a board, checked against its configuration."""
    platform, config = board.platform, board.config
    if platform is None:
        raise HwgenError(
            "configuration", f"board {board.name} has no platform, so there is nothing to connect", "use a real board"
        )
    if config.ports > len(platform.memory_ports):
        raise HwgenError(
            "configuration",
            f"ports must be at most {len(platform.memory_ports)} on {board.name}, not {config.ports}",
            f"set ports to {len(platform.memory_ports)}",
        )
    if config.port_bits != platform.memory_port_bits:
        raise HwgenError(
            "configuration",
            f"port_bits must be {platform.memory_port_bits} on {board.name}, not {config.port_bits}",
            f"set port_bits to {platform.memory_port_bits}",
        )
    for port in used_ports(board, platform):
        if config.port_bits not in port.data_bits:
            widths = ", ".join(map(str, port.data_bits))
            raise HwgenError(
                "configuration", f"{port.name} of {board.name} has {widths} bits, not {config.port_bits}", "correct board.json"
            )
    return platform


def used_ports(board: Board, platform: Platform) -> list[MemoryPort]:
    """Ports of the processing system that the ports of the accelerator take, in their order."""
    return [memory_port(platform.processor, name) for name in platform.memory_ports[: board.config.ports]]


@dataclass(frozen=True)
class _Processor:
    """Names of a processing system."""

    clock: str
    reset: str
    interrupt: str
    #: Clock pin of the control port.
    control_clock: str
    #: Settings of the control port, the interrupt, the clock and its reset.
    settings: dict[str, str]
    #: Name of the setting of the clock in MHz.
    frequency: str

    def all_settings(self, board: Board, platform: Platform) -> dict[str, str]:
        """What the board's configuration asks of the processing system, the platform's own settings over it."""
        used = used_ports(board, platform)
        return {
            **self.settings,
            self.frequency: f"{board.config.clock_mhz:g}",
            **{port.used: "1" if port in used else "0" for port in MEMORY_PORTS[platform.processor]},
            **{port.width: str(platform.memory_port_bits) for port in used},
            **platform.processor_settings,
        }


_PROCESSORS = {
    "zynq_ultra_ps_e": _Processor(
        "pl_clk0", "pl_resetn0", "pl_ps_irq0", "maxihpm0_fpd_aclk",
        {
            "PSU__USE__M_AXI_GP0": "1",
            "PSU__MAXIGP0__DATA_WIDTH": "32",
            "PSU__USE__M_AXI_GP1": "0",
            "PSU__USE__M_AXI_GP2": "0",
            "PSU__USE__IRQ0": "1",
            "PSU__USE__FABRIC__RST": "1",
            "PSU__FPGA_PL0_ENABLE": "1",
        },
        "PSU__CRL_APB__PL0_REF_CTRL__FREQMHZ",
    ),
    "processing_system7": _Processor(
        "FCLK_CLK0", "FCLK_RESET0_N", "IRQ_F2P", "M_AXI_GP0_ACLK",
        {
            "PCW_USE_M_AXI_GP0": "1",
            "PCW_USE_M_AXI_GP1": "0",
            "PCW_USE_FABRIC_INTERRUPT": "1",
            "PCW_IRQ_F2P_INTR": "1",
            "PCW_EN_CLK0_PORT": "1",
            "PCW_EN_RST0_PORT": "1",
        },
        "PCW_FPGA0_PERIPHERAL_FREQMHZ",
    ),
}


def describe_design(board: Board) -> Design:
    """The block design around an accelerator."""
    platform = needs_platform(board)
    names = _PROCESSORS[platform.processor]
    settings = names.all_settings(board, platform)
    cells = [
        Cell("ps", f"xilinx.com:ip:{platform.processor}", settings),
        Cell(NAME, VLNV),
        Cell("reset", "xilinx.com:ip:proc_sys_reset"),
        Cell("control", "xilinx.com:ip:smartconnect", {"NUM_SI": "1", "NUM_MI": "2"}),
        Cell("interrupts", "xilinx.com:ip:axi_intc", {"C_IRQ_CONNECTION": "1", "C_IRQ_IS_LEVEL": "1"}),
    ]
    interfaces = [
        (f"ps/{platform.control_port}", "control/S00_AXI"),
        ("control/M00_AXI", f"{NAME}/s_axi"),
        ("control/M01_AXI", "interrupts/s_axi"),
    ]
    clocks = [
        f"ps/{names.control_clock}", "reset/slowest_sync_clk", "control/aclk", "interrupts/s_axi_aclk", f"{NAME}/{CLOCK}",
    ]
    resets = ["control/aresetn", "interrupts/s_axi_aresetn", f"{NAME}/{RESET}"]
    addresses = [
        Address("ps/Data", f"{NAME}/{MEMORY_MAP}/{BLOCK}", platform.registers, WINDOW_BYTES),
        Address("ps/Data", "interrupts/S_AXI/Reg", platform.interrupt_controller, INTERRUPT_CONTROLLER_BYTES),
    ]
    excluded = []
    for number, port in enumerate(used_ports(board, platform)):
        master = f"{NAME}/m{number:02d}_axi"
        if port.protocol == "AXI4":
            interfaces.append((master, f"ps/{port.name}"))
        else:
            cells.append(Cell(f"memory_{number}", "xilinx.com:ip:smartconnect", {"NUM_SI": "1", "NUM_MI": "1"}))
            interfaces += [(master, f"memory_{number}/S00_AXI"), (f"memory_{number}/M00_AXI", f"ps/{port.name}")]
            clocks.append(f"memory_{number}/aclk")
            resets.append(f"memory_{number}/aresetn")
        clocks.append(f"ps/{port.clock}")
        block = f"ps/{port.block}"
        addresses += [
            Address(master, f"{block}/{port.short}_{m.name}", m.base, m.bytes, fixed=True) for m in platform.memory
        ]
        excluded.append((master, f"{block}/*"))
    nets = [
        (f"ps/{names.clock}", tuple(clocks)),
        (f"ps/{names.reset}", ("reset/ext_reset_in",)),
        ("reset/peripheral_aresetn", tuple(resets)),
        (f"{NAME}/{INTERRUPT}", ("interrupts/intr",)),
        ("interrupts/irq", (f"ps/{names.interrupt}",)),
    ]
    return Design(
        part=board.part,
        board_part=platform.board_part,
        board_files=platform.board_files,
        processor=platform.processor,
        cells=tuple(cells),
        interfaces=tuple(interfaces),
        nets=tuple(nets),
        addresses=tuple(addresses),
        excluded=tuple(excluded),
        constraints=platform.constraints,
    )
