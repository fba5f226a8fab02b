"""The accelerator as a core of a catalogue: its ports, its bus interfaces, and the Verilog that gives it the polarity, the widths
and the sidebands that processing systems expect."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from ...boards import Board
from ...config import BuildConfig
from ...errors import HwgenError
from ...memory_ports import AxiWidths, memory_port

__all__ = ["Bus", "Core", "Port", "WRAPPER", "accelerator_core", "wrapper_verilog"]

#: Module that tools instantiate.
WRAPPER = "hwgen_ip"

CLOCK, RESET, INTERRUPT = "aclk", "aresetn", "irq"

#: Constant sidebands of a memory port, ``{channel and signal: (width, value)}``.
#: AxCACHE[1] "modifiable": a FIFO of the processing system or a SmartConnect may then widen and merge (UG1085, "AXI Interface
#: Programming"). AxCACHE[3:2] "no allocate": HP ports have no cache behind them, and HPC ports then do not snoop; the host
#: flushes and invalidates. AWCACHE[0] "not bufferable": a write is answered by the memory, not by a buffer on the way, so that
#: whoever sees the pass done sees its writes; HP ports have no early answer to lose by it. Reads have nothing to buffer: 0b0011
#: as AMD's own DMA cores. AxPROT: data, unprivileged, secure, which every memory takes. AxQOS: the FIFO's register decides
#: (`hwgen.memory_ports`), not the pins. AxUSER is the coherent port's "shareable" and stays 0; nothing is ever locked.
_SIDEBANDS = {
    "arcache": (4, 0b0011), "awcache": (4, 0b0010), "arprot": (3, 0b000), "awprot": (3, 0b000), "arqos": (4, 0), "awqos": (4, 0),
    "arlock": (1, 0), "awlock": (1, 0),
}


@dataclass(frozen=True)
class Port:
    """A port of the Verilog module."""

    name: str
    output: bool
    width: int


@dataclass(frozen=True)
class Bus:
    """Ports that tools connect together. ``kind`` is "aximm", "clock", "reset" or "interrupt"."""

    name: str
    kind: str
    master: bool
    #: ``{logical name: port}``.
    ports: dict[str, Port]
    parameters: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Core:
    #: Ports of the wrapper.
    ports: tuple[Port, ...]
    buses: tuple[Bus, ...]
    #: Ports of the accelerator inside, by name.
    inner: dict[str, Port]
    #: Address bits that the accelerator drives.
    address_bits: int


def _memory_parameters(config: BuildConfig, widths: AxiWidths) -> dict[str, str]:
    return {
        "PROTOCOL": "AXI4",
        "DATA_WIDTH": str(config.port_bits),
        "ADDR_WIDTH": str(widths.address),
        "ID_WIDTH": str(widths.id),
        "ARUSER_WIDTH": str(widths.user),
        "AWUSER_WIDTH": str(widths.user),
        "HAS_BURST": "1",
        "HAS_CACHE": "1",
        "HAS_LOCK": "1",
        "HAS_PROT": "1",
        "HAS_QOS": "1",
        "HAS_REGION": "0",
        "SUPPORTS_NARROW_BURST": "0",
        "MAX_BURST_LENGTH": str(config.burst),
        "NUM_READ_OUTSTANDING": str(config.outstanding),
        "READ_WRITE_MODE": "READ_WRITE",
    }


def _widened(inner: Port, widths: AxiWidths) -> Port:
    """A port of the accelerator as the wrapper has it: IDs and addresses as wide as those of ``widths``."""
    found = re.fullmatch(r"m\d+_axi_(a[rw]addr|a[rw]id|[rb]id)", inner.name)
    if found is None:
        return inner
    width = widths.address if found[1].endswith("addr") else widths.id
    if width < inner.width:
        raise HwgenError(
            "configuration", f"{inner.name} of the accelerator has {inner.width} bits, a memory port of the board {width}",
            "report this with the configuration",
        )
    return replace(inner, width=width)


def accelerator_core(board: Board) -> Core:
    """Ports and interfaces of a board's accelerator. Memory ports that connect to the processing system directly have the widths
    of its pins; others, and those of a board without one, have the accelerator's own.
    """
    from amaranth.hdl import Value
    from amaranth.lib.wiring import Flow

    from ...hw.accelerator import Accelerator

    config = board.config
    accelerator = Accelerator(config)
    accelerator._MustUse__silence = True  # asked for its ports alone, so never elaborated
    inner = {
        name: Port(name, flow == Flow.Out, len(Value.cast(value))) for name, (value, flow) in accelerator.ports().items()
    }
    memories = sorted({m[1] for name in inner if (m := re.match(r"(m\d+_axi)_", name))})
    address_bits = inner[f"{memories[0]}_araddr"].width
    own = AxiWidths(inner[f"{memories[0]}_arid"].width, address_bits, 0)
    widths = {name: _direct_widths(board, number) or own for number, name in enumerate(memories)}
    ports = [Port(CLOCK, False, 1), Port(RESET, False, 1)]
    ports += [_widened(p, widths[m[1]]) if (m := re.match(r"(m\d+_axi)_", p.name)) else p for p in inner.values()]
    for name in memories:
        ports += [Port(f"{name}_{signal}", True, width) for signal, (width, _) in _SIDEBANDS.items()]
        if widths[name].user:
            ports += [Port(f"{name}_a{channel}user", True, widths[name].user) for channel in "rw"]
    by_name = {p.name: p for p in ports}

    def axi(prefix: str) -> dict[str, Port]:
        return {p.name.removeprefix(prefix + "_").upper(): p for p in ports if p.name.startswith(prefix + "_")}

    lite = {"PROTOCOL": "AXI4LITE", "DATA_WIDTH": "32", "ADDR_WIDTH": str(by_name["s_axi_araddr"].width)}
    buses = [
        Bus("s_axi", "aximm", False, axi("s_axi"), lite),
        *(Bus(name, "aximm", True, axi(name), _memory_parameters(config, widths[name])) for name in memories),
        Bus(CLOCK, "clock", False, {"CLK": by_name[CLOCK]},
            {"ASSOCIATED_BUSIF": ":".join(["s_axi", *memories]), "ASSOCIATED_RESET": RESET}),
        Bus(RESET, "reset", False, {"RST": by_name[RESET]}, {"POLARITY": "ACTIVE_LOW"}),
        Bus(INTERRUPT, "interrupt", True, {"INTERRUPT": by_name[INTERRUPT]}, {"SENSITIVITY": "LEVEL_HIGH"}),
    ]
    return Core(tuple(ports), tuple(buses), inner, address_bits)


def _direct_widths(board: Board, number: int) -> AxiWidths | None:
    """Widths of the processing system's port that memory port ``number`` connects to; None where it connects to none directly."""
    if board.platform is None or number >= len(board.platform.memory_ports):
        return None
    port = memory_port(board.platform.processor, board.platform.memory_ports[number])
    return port.widths if port.protocol == "AXI4" else None


def wrapper_verilog(core: Core, top: str) -> str:
    """Module `WRAPPER` around module ``top``: reset active low, IDs and addresses with zeros above, constant sidebands."""
    declared, assigned, connected = [], [], [f".clk({CLOCK})", f".rst(~{RESET})"]
    for p in core.ports:
        bits = f" [{p.width - 1}:0]" if p.width > 1 else ""
        declared.append(f"  {'output' if p.output else 'input'} wire{bits} {p.name}")
        if p.name in (CLOCK, RESET):
            continue
        inner = core.inner.get(p.name)
        if inner is None:
            value = _SIDEBANDS.get(p.name.rpartition("_")[2], (p.width, 0))[1]
            assigned.append(f"  assign {p.name} = {p.width}'b{value:0{p.width}b};")
        elif inner.width == p.width:
            connected.append(f".{p.name}({p.name})")
        elif p.output:
            assigned.append(f"  assign {p.name}[{p.width - 1}:{inner.width}] = {p.width - inner.width}'b0;")
            connected.append(f".{p.name}({p.name}[{inner.width - 1}:0])")
        else:
            # the memory gives back the ID that it was sent, whose upper bits are zeros
            connected.append(f".{p.name}({p.name}[{inner.width - 1}:0])")
    lines = [
        "// Generated by hwgen, do not edit.",
        f"module {WRAPPER} (",
        ",\n".join(declared),
        ");",
        *assigned,
        f"  {top} accelerator (",
        ",\n".join(f"    {text}" for text in connected),
        "  );",
        "endmodule",
    ]
    return "\n".join(lines) + "\n"
