"""Simulated bitstreams: a ``.bit`` file with a real header whose payload names the design instead of configuring gates."""

from __future__ import annotations

import json
import struct

from ...config import BuildConfig
from ...contract import CONTRACT_VERSION, contract_hash

__all__ = ["make_bitstream", "parse_bitstream"]

_MAGIC = b"HWGENSIM"


def make_bitstream(config: BuildConfig, handoff: str, part: str = "") -> bytes:
    """Contents of the ``.bit`` file that belongs to the hardware hand-off ``handoff``.

    PYNQ keeps metadata by the hash of the ``.bit`` file alone. The text of the hand-off is therefore part of the
    payload's identity: another hand-off makes another bitstream.
    """
    import hashlib

    values = {
        "contract_version": CONTRACT_VERSION,
        "contract_hash": f"{contract_hash(config):016x}",
        "configuration": config.name,
        "handoff_sha256": hashlib.sha256(handoff.encode()).hexdigest(),
    }
    payload = _MAGIC + json.dumps(values, sort_keys=True).encode()
    payload += bytes(-len(payload) % 4)
    # PYNQ turns the words of a .bit file round on their way to the FPGA manager; they arrive as they are here.
    payload = b"".join(payload[i : i + 4][::-1] for i in range(0, len(payload), 4))
    header = struct.pack(">h", 9) + bytes.fromhex("0ff00ff00ff00ff000") + struct.pack(">h", 1)
    for key, text in ((b"a", f"{config.name};SIMULATED"), (b"b", part or "none"), (b"c", "none"), (b"d", "none")):
        field = text.encode("ascii", "replace") + b"\0"
        header += key + struct.pack(">h", len(field)) + field
    return header + b"e" + struct.pack(">i", len(payload)) + payload


def parse_bitstream(firmware: bytes) -> dict[str, object]:
    """What a simulated bitstream states about its design; ``firmware`` is the payload as the FPGA manager gets it."""
    if not firmware.startswith(_MAGIC):
        raise ValueError("this is not a simulated bitstream; a virtual board cannot load one made by Vivado")
    values: dict[str, object] = json.loads(firmware[len(_MAGIC) :].rstrip(b"\0"))
    return values
