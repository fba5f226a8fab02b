"""The register map one register at a time, as catalogues and hand-offs list it."""

from __future__ import annotations

from dataclasses import dataclass

from .config import BuildConfig
from .registers import Field, register_map

__all__ = ["FlatRegister", "flat_registers"]

_ACCESS = {"ro": "read-only", "rw": "read-write", "wo": "write-only"}


@dataclass(frozen=True)
class FlatRegister:
    name: str
    offset: int
    access: str
    description: str
    fields: tuple[Field, ...]


def flat_registers(config: BuildConfig) -> list[FlatRegister]:
    """Every register; element ``i`` of an array ``NAME`` is called ``NAME_i``."""
    return [
        FlatRegister(
            f"{r.name}_{i}" if r.count > 1 else r.name, r.offset + i * r.step, _ACCESS[r.access], r.description, r.fields
        )
        for r in register_map(config)
        for i in range(r.count)
    ]
