"""Boards: build configuration, device resources and addresses, each in ``boards/<name>/board.json``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from .config import BuildConfig, ConfigError
from .errors import HwgenError

__all__ = ["Board", "board_names", "load_board"]

#: Packages are mapped, so the boards are a package of their own that holds data alone.
_PACKAGE = "hwgen.board_data"

RESOURCES = ("lut", "lutram", "ff", "bram36", "uram", "dsp")


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
        )
    except ConfigError as error:
        raise HwgenError(
            "configuration", f"{path.name} of board {str(name)!r}: {error}", "correct the configuration"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise HwgenError(
            "configuration", f"{path} is damaged: {error!r}", "compare it with a shipped board.json"
        ) from error
