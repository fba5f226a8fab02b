"""Hierarchy of generated Verilog: which modules there are, who contains whom, and which are the same."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field

__all__ = ["Instance", "VerilogModule", "merge_equal", "parse_modules"]

_MODULE = re.compile(r"^module (\\\S+|\w+) ?\((.*?)\);$", re.MULTILINE | re.DOTALL)
_INSTANCE = re.compile(r"^  (\\\S+|\w+)\s+(\\\S+|\w+)\s+\($", re.MULTILINE)
_NUMBER = re.compile(r"\$\d+")


@dataclass(frozen=True)
class Instance:
    """A submodule."""

    module: str
    name: str


@dataclass
class VerilogModule:
    """One module as Amaranth writes it."""

    name: str
    ports: str
    #: Text from ``module`` to ``endmodule``.
    text: str
    instances: list[Instance] = field(default_factory=list)


def parse_modules(verilog: str) -> dict[str, VerilogModule]:
    """Modules by name, in the order of the text, which has a parent before its children."""
    modules: dict[str, VerilogModule] = {}
    for part in re.split(r"(?<=^endmodule\n)", verilog, flags=re.MULTILINE):
        head = _MODULE.search(part)
        if head:
            modules[head[1]] = VerilogModule(head[1], head[2], part)
    for module in modules.values():
        module.instances = [Instance(m[1], m[2].lstrip("\\")) for m in _INSTANCE.finditer(module.text) if m[1] in modules]
    return modules


def merge_equal(modules: dict[str, VerilogModule], top: str) -> tuple[dict[str, str], str]:
    """``(representative of every module, Verilog with the representatives alone)``.

    Lanes of an array come out as a module each; two are equal when only the numbers inside generated names differ.
    """
    representative: dict[str, str] = {}
    by_key: dict[tuple[str, str], str] = {}

    def rename(text: str) -> str:
        return _INSTANCE.sub(lambda m: m[0].replace(m[1], representative.get(m[1], m[1]), 1), text)

    def visit(name: str) -> None:
        if name in representative:
            return
        module = modules[name]
        for instance in module.instances:
            visit(instance.module)
        numbers: dict[str, str] = {}
        body = rename(module.text[module.text.index(";") :])
        canonical = _NUMBER.sub(lambda m: numbers.setdefault(m[0], f"${len(numbers)}"), body)
        key = (module.ports, hashlib.sha256(canonical.encode()).hexdigest())
        representative[name] = by_key.setdefault(key, name)

    visit(top)
    kept = sorted(set(representative.values()), key=list(modules).index)
    return representative, "".join(rename(modules[name].text) for name in kept)
