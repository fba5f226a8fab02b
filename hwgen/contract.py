"""The contract between image, hardware and host: its version, its hash, and the check that both sides have the same one."""

from __future__ import annotations

import hashlib
import json

from .config import BuildConfig
from .descriptors import layout_signature
from .errors import HwgenError
from .registers import map_signature

__all__ = ["CONTRACT_VERSION", "check_contract", "contract_hash"]

#: Raised whenever a layout or a numeric step changes.
CONTRACT_VERSION = 9


def contract_hash(config: BuildConfig) -> int:
    """64-bit hash of the contract version, the descriptor layout and every field that shapes data in memory.

    Image and hardware both carry it; the host refuses to run one on the other when they differ.
    """
    values = config.to_dict()
    for name in ("name", "clock_mhz", "probe"):
        values.pop(name)
    text = json.dumps([CONTRACT_VERSION, values, layout_signature(), map_signature(config)], sort_keys=True)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def check_contract(config: BuildConfig, version: int, found_hash: int, what: str) -> None:
    """Refuse ``what`` (an image, a device) when it was made for another contract than ``config`` has."""
    if version != CONTRACT_VERSION:
        raise HwgenError(
            "contract",
            f"{what} has contract version {version}, this hwgen has version {CONTRACT_VERSION}",
            "build hardware and image with the same version of hwgen",
        )
    expected = contract_hash(config)
    if found_hash != expected:
        raise HwgenError(
            "contract",
            f"{what} has contract hash {found_hash:016x}, configuration {config.name!r} has {expected:016x}",
            "build hardware and image from the same configuration",
        )
