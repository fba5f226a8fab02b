"""Memory ports of the processing systems: their pins, their parameters, and the registers of the FIFO (AFI) behind each.

Pins of Zynq UltraScale+: PG201, "S_AXI_HP0_FPD" and "S_AXI_HPC0_FPD" (IDs of 6 bits, addresses of 49, one bit of AxUSER); they
speak AXI4, and the FIFO cuts every burst into 16 beats (UG1085, "PL-PS Interface Specifics"). Of Zynq-7000: UG585, chapter 5 and
appendix A (AXI3: IDs of 6 bits, addresses of 32, WID, bursts of 16).

Registers of Zynq UltraScale+: UG1087, module AFIFM, and UG1085, table 35-2, which names the module of each port. Of Zynq-7000:
UG585, appendix B, module axi_hp.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .errors import HwgenError

__all__ = ["MEMORY_PORTS", "AxiWidths", "MemoryPort", "RegisterField", "afi_settings", "design_settings", "memory_port"]


@dataclass(frozen=True)
class AxiWidths:
    """Bits of the pins that differ between AXI ports; 0 where there is no such pin."""

    id: int
    address: int
    user: int


@dataclass(frozen=True, kw_only=True)
class MemoryPort:
    """A slave port of a processing system that reaches the memory."""

    name: str
    protocol: str
    widths: AxiWidths
    #: Data widths that can be set.
    data_bits: tuple[int, ...]
    #: Short name, in front of the names of its address segments: "HP0".
    short: str
    #: Clock pin, and block of its address segments.
    clock: str
    block: str
    #: Parameters of the processing system: 1 where the port is used, and its data width.
    used: str
    width: str
    #: Address of its AFI registers.
    afi: int


@dataclass(frozen=True)
class RegisterField:
    """Bits of a register of the processing system, and what they are set to."""

    address: int
    mask: int
    value: int
    #: What is set, for people.
    text: str


def _ultrascale(short: str, number: int) -> MemoryPort:
    """Port ``number`` in the parameters' counting, which is that of the AFIFM modules too."""
    return MemoryPort(
        name=f"S_AXI_{short}_FPD", protocol="AXI4", widths=AxiWidths(6, 49, 1), data_bits=(32, 64, 128), short=short,
        clock=f"saxi{short.lower()}_fpd_aclk", block=f"SAXIGP{number}", used=f"PSU__USE__S_AXI_GP{number}",
        width=f"PSU__SAXIGP{number}__DATA_WIDTH", afi=0xFD36_0000 + 0x1_0000 * number,
    )


def _zynq7000(number: int) -> MemoryPort:
    name = f"S_AXI_HP{number}"
    return MemoryPort(
        name=name, protocol="AXI3", widths=AxiWidths(6, 32, 0), data_bits=(32, 64), short=f"HP{number}",
        clock=f"{name}_ACLK", block=name, used=f"PCW_USE_{name}", width=f"PCW_{name}_DATA_WIDTH",
        afi=0xF800_8000 + 0x1000 * number,
    )


#: ``{processor: its memory ports}``. The coherent ports HPC0 and HPC1 do not snoop what is not marked as cacheable.
MEMORY_PORTS = {
    "zynq_ultra_ps_e": tuple(_ultrascale(s, n) for n, s in enumerate(("HPC0", "HPC1", "HP0", "HP1", "HP2", "HP3"))),
    "processing_system7": tuple(_zynq7000(n) for n in range(4)),
}


def memory_port(processor: str, name: str) -> MemoryPort:
    """A port by its name; :class:`HwgenError` for one that the processor has not."""
    for port in MEMORY_PORTS[processor]:
        if port.name == name:
            return port
    known = ", ".join(p.name for p in MEMORY_PORTS[processor])
    raise HwgenError("configuration", f"{processor} has no memory port {name}", f"name ports of: {known}")


#: Read and write commands that a port issues, less one. A port accepts 8 commands and holds 128 words of data each way: eight
#: bursts of 16 words fill it, more would wait for room.
_ISSUE = 7

#: Static priority of every port, of both directions: best effort (PG201, "DDR Traffic Class": reads up to 3, writes up to 7).
#: A pass moves bulk and is no faster for it when the processor's few reads wait; "low latency is not recommended for ports with
#: a FIFO" (UG1085, "Traffic Quality of Service"), and ports of different priority end at different times.
_QOS = 0

#: Code of a port's data width in RDCTRL and WRCTRL of AFIFM, and in the control registers of axi_hp.
_WIDTH_CODES = {"zynq_ultra_ps_e": {128: 0, 64: 1, 32: 2}, "processing_system7": {64: 0, 32: 1}}


def _port_settings(processor: str, port: MemoryPort, data_bits: int) -> tuple[RegisterField, ...]:
    ultrascale = processor == "zynq_ultra_ps_e"
    width = _WIDTH_CODES[processor][data_bits]
    # Width, priority from the register and not from the pins, not paused; writes of UltraScale+ leave with their data (bit 12).
    read, write = (0xF, 0x100F) if ultrascale else (0x3, 0x3)
    issue = 0xF if ultrascale else 0x7
    rows = (
        (0x00, read, width, "reads: data width, static priority"),
        (0x04, issue, _ISSUE, "reads: commands issued at a time, less one"),
        (0x08, 0xF, _QOS, "reads: priority"),
        (0x14, write, width, "writes: data width, static priority"),
        (0x18, issue, _ISSUE, "writes: commands issued at a time, less one"),
        (0x1C, 0xF, _QOS, "writes: priority"),
    )
    return tuple(RegisterField(port.afi + offset, mask, value, f"{port.name}, {text}") for offset, mask, value, text in rows)


def afi_settings(processor: str, names: Sequence[str], data_bits: int) -> tuple[RegisterField, ...]:
    """What the FIFOs of the ports ``names``, of ``data_bits`` each, are to be set to before the fabric uses them.

    Host software writes it when it opens a design and nothing is in flight (`hwgen.sw.devices.loading`): boot firmware and
    earlier designs leave what suited them. Values are those of a reset but for the width, which is that of the port.
    """
    return tuple(
        field for name in names for field in _port_settings(processor, memory_port(processor, name), data_bits)
    )


def design_settings(processor: str, parameters: Mapping[str, object]) -> tuple[RegisterField, ...]:
    """:func:`afi_settings` of the ports that a design uses, by the parameters of its processing system in the hand-off."""
    return tuple(
        field
        for port in MEMORY_PORTS[processor]
        if str(parameters.get(port.used)) == "1"
        for field in _port_settings(processor, port, int(str(parameters[port.width])))
    )
