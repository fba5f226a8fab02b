"""Fields of a model file, every one of which is accounted for: used, known to change nothing, or refused by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...errors import HwgenError

__all__ = ["Fields"]


class Fields(Mapping[str, Any]):
    """A mapping that remembers which of its names were asked for. A name whose value is None counts as absent."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self._values = {name: value for name, value in values.items() if value is not None}
        self._asked: set[str] = set()
        #: File that the fields come from, for messages.
        self.where = where

    def __getitem__(self, name: str) -> Any:
        self._asked.add(name)
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def left(self, harmless: Mapping[str, str]) -> list[str]:
        """Names that nobody asked for and that are not in ``harmless``, a table of names (or ``prefix*``) with reasons."""
        whole = {name for name in harmless if not name.endswith("*")}
        prefixes = tuple(name[:-1] for name in harmless if name.endswith("*"))
        return [n for n in self._values if n not in self._asked | whole and not (prefixes and n.startswith(prefixes))]

    def refuse_left(self, harmless: Mapping[str, str], fix: str) -> None:
        """Refuse what :meth:`left` finds, in one line."""
        names = self.left(harmless)
        if names:
            value = repr(self._values[names[0]])
            shown = value if len(value) <= 60 else value[:57] + "..."
            more = f", and {len(names) - 1} more: {', '.join(names[1:4])}" if len(names) > 1 else ""
            raise HwgenError("architecture", f"{self.where}: the field {names[0]} ({shown}) is not known{more}", fix)
