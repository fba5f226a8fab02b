"""Boards: build configuration, device resources and addresses, each in ``boards/<name>/board.json``."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from .config import BuildConfig, ConfigError
from .errors import HwgenError

__all__ = ["Board", "MemoryRange", "Platform", "board_names", "load_board"]

#: Packages are mapped, so the boards are a package of their own that holds data alone.
_PACKAGE = "hwgen.board_data"

#: What builds with such engines run besides: both kinds of ternary matrices, or both engines.
_RUNS = {"grouped": ("grouped", "ternary"), "both": ("both", "ternary", "int4")}

RESOURCES = ("lut", "lutram", "ff", "bram36", "uram", "dsp")


@dataclass(frozen=True)
class MemoryRange:
    """Memory of the processing system as its ports see it."""

    #: Name of the address segment behind the name of the port, as in "HP0_DDR_LOW".
    name: str
    base: int
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Platform:
    """What a block design needs to know of a board."""

    #: IP of the processing system: "zynq_ultra_ps_e" or "processing_system7".
    processor: str
    #: Board of the vendor tool, without version; its preset sets up memory, clocks and pins of the processing system.
    board_part: str
    #: Where the files of that board come from.
    board_files: str
    #: Name of the board in PYNQ.
    pynq_board: str
    #: Interface of the processing system that reaches the registers.
    control_port: str
    #: Address of the registers.
    registers: int
    #: Address of the interrupt controller.
    interrupt_controller: int
    #: Memory ports of the processing system, in the order in which the ports of the accelerator take them.
    memory_ports: tuple[str, ...]
    #: Data width of such a port.
    memory_port_bits: int
    #: The memory, for people.
    memory_text: str
    #: Kind of its chips, as the memory model names them, and width of the data bus.
    memory_chips: str
    memory_bits: int
    memory: tuple[MemoryRange, ...]
    #: True for boards whose system loads Kria apps (``xmutil loadapp``).
    kria: bool = False
    #: Parameters of the processing system beyond what every design sets.
    processor_settings: dict[str, str] = field(default_factory=dict)
    #: Constraints of the whole design, one a line.
    constraints: tuple[str, ...] = ()
    #: What is special to the board, for people.
    notes: tuple[str, ...] = ()

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Platform:
        changed = {
            "registers": int(values["registers"], 0),
            "interrupt_controller": int(values["interrupt_controller"], 0),
            "memory_ports": tuple(values["memory_ports"]),
            "memory": tuple(MemoryRange(m["name"], int(m["base"], 0), int(m["bytes"], 0)) for m in values["memory"]),
            "constraints": tuple(values.get("constraints", ())),
            "notes": tuple(values.get("notes", ())),
        }
        return cls(**{**values, **changed})


@dataclass(frozen=True, kw_only=True)
class Board:
    """A target of ``hwgen build``."""

    name: str
    #: One line for people.
    description: str
    #: Part number for synthesis; empty for a configuration that is only simulated.
    part: str
    #: Resources of the device by kind (:data:`RESOURCES`); empty where there is no device.
    available: dict[str, int]
    #: Peak bandwidth of its memory in bytes a second; 0 where there is none.
    memory_bandwidth: float
    config: BuildConfig
    #: Fields that replace those of ``config`` in a build with other linear engines, by `BuildConfig.engine`.
    variants: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: The key of the variant that ``config`` is; empty for the default configuration.
    variant: str = ""
    #: The command that chose the default configuration; empty for one made by hand.
    chosen_by: str = ""
    #: What surrounds the accelerator; None for a configuration that is only simulated.
    platform: Platform | None = None

    def for_engine(self, engine: str) -> Board:
        """The board with a configuration that has ``engine``, one of `ENGINES`."""
        if engine in _RUNS.get(self.config.engine, (self.config.engine,)):
            return self
        if engine not in self.variants:
            known = ", ".join([self.config.engine, *self.variants])
            raise HwgenError(
                "configuration", f"board {self.name!r} has no configuration with engine {engine!r}",
                f"use one of: {known}; or give --set engine={engine}",
            )
        values = {**self.config.to_dict(), **self.variants[engine], "engine": engine, "name": f"{self.name}-{engine}"}
        return replace(self, config=BuildConfig.from_dict(values), variant=engine)


def _root() -> Path:
    return Path(str(files(_PACKAGE)))


def board_names() -> list[str]:
    """Boards that ship with hwgen."""
    return sorted(p.parent.name for p in _root().glob("*/board.json"))


def load_board(name: str | Path) -> Board:
    """A shipped board by name, or any ``board.json`` by path."""
    path = _root() / str(name) / "board.json" if not str(name).endswith(".json") else Path(name)
    if not path.exists():
        raise HwgenError(
            "configuration",
            f"board {str(name)!r} is unknown",
            f"use one of: {', '.join(board_names())}; or give the path of a board.json",
        )
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        config = BuildConfig.from_dict({"name": values["name"], **values["config"]})
        return Board(
            name=values["name"],
            description=values["description"],
            part=values["part"],
            available={k: int(values["available"][k]) for k in values["available"]},
            memory_bandwidth=float(values["memory_bandwidth"]),
            config=config,
            variants=dict(values.get("variants", {})),
            chosen_by=str(values.get("chosen_by", "")),
            platform=Platform.from_dict(values["platform"]) if "platform" in values else None,
        )
    except ConfigError as error:
        raise HwgenError(
            "configuration", f"{path.name} of board {str(name)!r}: {error}", "correct the configuration"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise HwgenError(
            "configuration", f"{path} is damaged: {error!r}", "compare it with a shipped board.json"
        ) from error
