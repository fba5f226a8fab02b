"""Name under which tools know the accelerator: vendor, library, name, version. Catalogue, block design and drivers bind by it."""

from __future__ import annotations

__all__ = ["LIBRARY", "NAME", "VENDOR", "VERSION", "VLNV"]

VENDOR = "hwgen"
LIBRARY = "hwgen"
NAME = "accelerator"
#: Major and minor version; PYNQ cannot read a version without a minor part.
VERSION = "1.0"

VLNV = f"{VENDOR}:{LIBRARY}:{NAME}:{VERSION}"
