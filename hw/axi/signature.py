"""AXI4 and AXI4-Lite signatures, and the flat port names that tools and simulators expect of them."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Value, ValueCastable
from amaranth.lib.wiring import Flow, In, Out, PureInterface, Signature

from ...registers import WINDOW_BYTES
from ..interfaces import ADDRESS_BITS

__all__ = ["BOUNDARY", "BURST_INCR", "ID_BITS", "LITE_ADDRESS_BITS", "RESPONSE_OKAY", "Axi4", "Axi4Lite", "Axi4Read", "Axi4Write",
           "flat_ports"]

#: Bits of a transaction ID.
ID_BITS = 1

#: Address bits of the register window.
LITE_ADDRESS_BITS = (WINDOW_BYTES - 1).bit_length()

#: A burst stays inside an aligned block of this many bytes.
BOUNDARY = 4096

#: ``axburst`` of an incrementing burst.
BURST_INCR = 1

#: ``xresp`` of a successful transaction.
RESPONSE_OKAY = 0


def address_channel() -> Signature:
    return Signature({
        "valid": Out(1), "ready": In(1),
        "addr": Out(ADDRESS_BITS), "id": Out(ID_BITS), "len": Out(8), "size": Out(3), "burst": Out(2),
    })


def Axi4Read(data_bits: int) -> Signature:
    """Read channels of an AXI4 master: ``ar`` and ``r``. ``len`` is the number of words less one."""
    return Signature({
        "ar": Out(address_channel()),
        "r": In(Signature({
            "valid": Out(1), "ready": In(1), "data": Out(data_bits), "id": Out(ID_BITS), "resp": Out(2), "last": Out(1),
        })),
    })


def Axi4Write(data_bits: int) -> Signature:
    """Write channels of an AXI4 master: ``aw``, ``w`` and ``b``."""
    return Signature({
        "aw": Out(address_channel()),
        "w": Out(Signature({
            "valid": Out(1), "ready": In(1), "data": Out(data_bits), "strb": Out(data_bits // 8), "last": Out(1),
        })),
        "b": In(Signature({"valid": Out(1), "ready": In(1), "id": Out(ID_BITS), "resp": Out(2)})),
    })


def Axi4(data_bits: int) -> Signature:
    """All five channels of an AXI4 master."""
    return Signature({**dict(Axi4Read(data_bits).members.items()), **dict(Axi4Write(data_bits).members.items())})


def Axi4Lite() -> Signature:
    """AXI4-Lite master with 32-bit data; a slave takes ``In`` of it."""
    address = Signature({"valid": Out(1), "ready": In(1), "addr": Out(LITE_ADDRESS_BITS)})
    return Signature({
        "aw": Out(address),
        "w": Out(Signature({"valid": Out(1), "ready": In(1), "data": Out(32), "strb": Out(4)})),
        "b": In(Signature({"valid": Out(1), "ready": In(1), "resp": Out(2)})),
        "ar": Out(address),
        "r": In(Signature({"valid": Out(1), "ready": In(1), "data": Out(32), "resp": Out(2)})),
    })


def flat_ports(prefix: str, interface: PureInterface) -> dict[str, tuple[Value, Flow]]:
    """Verilog ports of an AXI interface: ``{"<prefix>_axi_araddr": (signal, direction)}``, as seen from its component."""
    ports: dict[str, tuple[Value, Flow]] = {}
    signature: Any = interface.signature
    for path, member, value in signature.flatten(interface):
        signal = value.as_value() if isinstance(value, ValueCastable) else value
        ports[f"{prefix}_axi_{path[-2]}{path[-1]}"] = (signal, member.flow)
    return ports
