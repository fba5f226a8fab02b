"""The Tcl commands of block designs, answered from a `BlockDesign`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..catalogue import Definition
from .design import BlockDesign
from .tcl import CommandError, Word

__all__ = ["BlockDesignCommands", "options", "paths"]


def options(words: Sequence[Word], values: str = "", flags: str = "") -> tuple[list[Word], dict[str, Word], set[str]]:
    """Positional words, options with a value, and flags; an option that is neither is an error."""
    positional: list[Word] = []
    given: dict[str, Word] = {}
    seen: set[str] = set()
    rest = iter(words)
    for word in rest:
        if word in values.split():
            value = next(rest, None)
            if value is None:
                raise CommandError(f"option {word} needs a value")
            given[str(word)] = value
        elif word in flags.split():
            seen.add(str(word))
        elif re.match(r"-[a-zA-Z]", word):
            raise CommandError(f"unknown option {word}")
        else:
            positional.append(word)
    return positional, given, seen


def paths(word: Word) -> list[str]:
    """Objects of the block design in a word, without their leading slash."""
    items = [item.removeprefix("/") for item in word.items]
    if not items:
        raise CommandError("expected at least one object")
    return items


class BlockDesignCommands:
    """``do_<command>`` answers a command; unknown objects and options are errors."""

    def __init__(self) -> None:
        self.design: BlockDesign | None = None
        #: ``{VLNV: definition}``; None stands for a core of AMD, whose definition depends on its parameters.
        self.catalogue: dict[str, Definition | None] = {}

    def created(self, name: str) -> None:
        """A block design was created."""

    def validated(self) -> None:
        """The block design was found free of faults."""

    def _bd(self) -> BlockDesign:
        if self.design is None:
            raise CommandError("no block design is open")
        return self.design

    def do_create_bd_design(self, words: Sequence[Word]) -> str:
        (name,), _, _ = options(words)
        self.design = BlockDesign(str(name))
        self.created(str(name))
        return str(name)

    def do_create_bd_cell(self, words: Sequence[Word]) -> str:
        (name,), given, _ = options(words, "-type -vlnv")
        vlnv = str(given["-vlnv"])
        if given["-type"] != "ip" or vlnv not in self.catalogue:
            raise CommandError(f"core {vlnv} is not in the catalogue")
        self._bd().add(str(name), vlnv.split(":")[2], self.catalogue[vlnv])
        return f"/{name}"

    def do_apply_bd_automation(self, words: Sequence[Word]) -> str:
        (target,), given, _ = options(words, "-rule -config")
        items = given["-config"].items
        for cell in paths(target):
            self._bd().automate(cell, str(given["-rule"]), dict(zip(items[::2], items[1::2], strict=True)))
        return ""

    def do_get_bd_cells(self, words: Sequence[Word]) -> str:
        for name in (path for word in words for path in paths(word)):
            self._bd().cell(name)
        return " ".join(f"/{path}" for word in words for path in paths(word))

    def do_get_bd_pins(self, words: Sequence[Word]) -> str:
        for path in (path for word in words for path in paths(word)):
            self._bd().pin(path)
        return " ".join(f"/{path}" for word in words for path in paths(word))

    def do_get_bd_intf_pins(self, words: Sequence[Word]) -> str:
        for path in (path for word in words for path in paths(word)):
            self._bd().interface(path)
        return " ".join(f"/{path}" for word in words for path in paths(word))

    def do_connect_bd_net(self, words: Sequence[Word]) -> str:
        self._bd().connect_pins([path for word in words for path in paths(word)])
        return ""

    def do_connect_bd_intf_net(self, words: Sequence[Word]) -> str:
        one, two = (path for word in words for path in paths(word))
        self._bd().connect_interfaces(one, two)
        return ""

    def do_get_bd_addr_spaces(self, words: Sequence[Word]) -> str:
        (path,) = paths(words[0])
        if path not in self._bd().spaces():
            raise CommandError(f"no address space {path}")
        return f"/{path}"

    def do_get_bd_addr_segs(self, words: Sequence[Word]) -> str:
        found = self._bd().matching_segments(paths(words[0])[0])
        if not found:
            raise CommandError(f"no address segment {words[0]}")
        return " ".join(f"/{path}" for path in found)

    def do_assign_bd_address(self, words: Sequence[Word]) -> str:
        (segment,), given, _ = options(words, "-offset -range -target_address_space", "-force")
        base, size = (int(given[name], 0) if name in given else None for name in ("-offset", "-range"))
        for path in paths(segment):
            self._bd().assign(paths(given["-target_address_space"])[0], path, base, size)
        return ""

    def do_exclude_bd_addr_seg(self, words: Sequence[Word]) -> str:
        (segment,), given, _ = options(words, "-target_address_space")
        for path in paths(segment):
            self._bd().exclude(paths(given["-target_address_space"])[0], path)
        return ""

    def do_validate_bd_design(self, words: Sequence[Word]) -> str:
        problems = self._bd().problems()
        if problems:
            raise CommandError("block design: " + "; ".join(problems))
        self.validated()
        return ""
