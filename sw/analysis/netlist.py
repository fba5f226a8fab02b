"""Hierarchy of generated Verilog: which modules there are, who contains whom, and which are the same."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field

__all__ = ["Instance", "VerilogModule", "black_box", "merge_equal", "parse_modules"]

_MODULE = re.compile(r"^module (\\\S+|\w+) ?\((.*?)\);$", re.MULTILINE | re.DOTALL)
_INSTANCE = re.compile(r"^  (\\\S+|\w+)\s+(\\\S+|\w+)\s+\($", re.MULTILINE)
_NUMBER = re.compile(r"\$\d+")
_INSTANCE_BLOCK = re.compile(r"^  (\\\S+|\w+)\s+(?:\\\S+|\w+)\s+\(\n.*?^  \);$", re.MULTILINE | re.DOTALL)
#: An escaped identifier; the group is a dot in front of it: the port of an instance.
_IDENTIFIER = re.compile(r"(\.?)\\\S+ ")
#: Yosys writes a dummy register a module to start its processes; its number counts over all modules.
_TRIGGER = re.compile(r"dump_module\$\d+")
_NUMBERED_PORT = re.compile(r"\\\S*\$\d\S* ")


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
    """Modules by name, in the order of the text, which has a parent before its children.

    Generated port names carry numbers that differ from one lane to the next; they are replaced by their place in the port list.
    """
    modules: dict[str, VerilogModule] = {}
    ports: dict[str, dict[str, str]] = {}
    for part in re.split(r"(?<=^endmodule\n)", verilog, flags=re.MULTILINE):
        head = _MODULE.search(part)
        if head:
            ports[head[1]] = {
                old: f"\\port_{i} " for i, old in enumerate(dict.fromkeys(_NUMBERED_PORT.findall(head[2])))
            }
            modules[head[1]] = VerilogModule(head[1], "", part)

    def connections(match: re.Match[str]) -> str:
        renamed = ports.get(match[1], {})
        return re.sub(r"^(    \.)(\\\S+ )", lambda m: m[1] + renamed.get(m[2], m[2]), match[0], flags=re.MULTILINE)

    for module in modules.values():
        own = ports[module.name]
        # names inside first, then those of the ports of its instances
        text = _IDENTIFIER.sub(lambda m: m[0] if m[1] else own.get(m[0], m[0]), module.text)  # noqa: B023 (called in this turn of the loop)
        module.text = _INSTANCE_BLOCK.sub(connections, text)
        head = _MODULE.search(module.text)
        module.ports = head[2] if head else ""
        module.instances = [
            Instance(m[1], m[2].lstrip("\\")) for m in _INSTANCE.finditer(module.text) if m[1] in modules
        ]
    return modules


def black_box(module: VerilogModule) -> str:
    """The module without contents, for the synthesis of what contains it."""
    head = module.text[: module.text.index(";") + 1]
    ports = [line for line in module.text.split("\n") if line.startswith(("  input ", "  output "))]
    return "\n".join(["(* blackbox *)", head.lstrip(), *ports, "endmodule\n"])


def canonical_text(body: str) -> str:
    """The body of a module with generated numbers in order of use. Declarations come sorted by number: sorted anew."""
    numbers: dict[str, str] = {}

    def renumber(text: str) -> str:
        return _NUMBER.sub(lambda m: numbers.setdefault(m[0], f"${len(numbers)}"), text)

    lines = _TRIGGER.sub("dump_module", body).split("\n")
    declared = [line.startswith(("  wire ", "  reg ")) for line in lines]
    logic = renumber("\n".join(line for line, d in zip(lines, declared, strict=True) if not d))
    declarations = sorted(renumber(line) for line, d in zip(lines, declared, strict=True) if d)
    return "\n".join([logic, *declarations])


def merge_equal(modules: dict[str, VerilogModule], top: str) -> tuple[dict[str, str], dict[str, str]]:
    """``(representative of every module, Verilog of every representative)``.

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
        canonical = canonical_text(rename(module.text[module.text.index(";") :]))
        key = (module.ports, hashlib.sha256(canonical.encode()).hexdigest())
        representative[name] = by_key.setdefault(key, name)

    visit(top)
    kept = sorted(set(representative.values()), key=list(modules).index)
    return representative, {name: rename(modules[name].text) for name in kept}
