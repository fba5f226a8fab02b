"""Reference of registers and descriptors, rendered from the contract: JSON, C header, Markdown."""

from __future__ import annotations

import enum
import inspect
import re
from typing import Any

from ...config import BuildConfig
from ...contract import CONTRACT_VERSION, contract_hash
from ...descriptors import CHECK_SUM, DESCRIPTOR_BYTES, Buffers, Descriptor, Fetch, Flag, Opcode, field_bits
from ...registers import WINDOW_BYTES, PassFlag, register_map

__all__ = ["c_header", "descriptor_markdown", "reference_markdown", "register_json", "register_markdown"]

_ACCESS = {"ro": "read-only", "rw": "read-write", "wo": "write-only"}


def documented_members(owner: type) -> dict[str, str]:
    """``{name: text}`` of the ``#:`` comments above the members of a class, in order."""
    texts: dict[str, str] = {}
    pending: list[str] = []
    for line in inspect.getsource(owner).splitlines():
        comment = re.match(r"\s*#:\s?(.*)", line)
        member = re.match(r"\s+([A-Za-z_]\w*)\s*(?::[^=]+)?=", line)
        if comment:
            pending.append(comment[1].strip())
        elif member and pending:
            texts[member[1]] = " ".join(pending)
            pending = []
        else:
            pending = []
    return texts


def register_json(config: BuildConfig) -> dict[str, Any]:
    """Register map with access rights and fields, for other tools."""
    return {
        "contract_version": CONTRACT_VERSION,
        "contract_hash": f"{contract_hash(config):016x}",
        "window_bytes": WINDOW_BYTES,
        "registers": [
            {
                "name": r.name,
                "offset": r.offset,
                "size": 32,
                "access": _ACCESS[r.access],
                "description": r.description,
                "count": r.count,
                "step": r.step,
                "fields": [
                    {"name": f.name, "bit_offset": f.first, "bit_width": f.width, "description": f.description}
                    for f in r.fields
                ],
            }
            for r in register_map(config)
        ],
    }


def c_header(config: BuildConfig) -> str:
    """Offsets, field masks and operator codes as C macros."""
    lines = [
        "/* Register map of the hwgen accelerator; generated, do not edit. */",
        "#ifndef HWGEN_REGISTERS_H",
        "#define HWGEN_REGISTERS_H",
        "",
        f"#define HWGEN_CONTRACT_VERSION {CONTRACT_VERSION}",
        f"#define HWGEN_CONTRACT_HASH 0x{contract_hash(config):016x}ULL",
        f"#define HWGEN_WINDOW_BYTES 0x{WINDOW_BYTES:x}",
        f"#define HWGEN_DESCRIPTOR_BYTES {DESCRIPTOR_BYTES}",
        "",
    ]
    for r in register_map(config):
        lines.append(f"/* {r.description} ({_ACCESS[r.access]}) */")
        lines.append(f"#define HWGEN_{r.name} 0x{r.offset:04x}")
        if r.count > 1:
            lines.append(f"#define HWGEN_{r.name}_WORDS {r.count}")
        lines += [f"#define HWGEN_{r.name}_{f.name}_MASK 0x{(1 << f.width) - 1 << f.first:x}" for f in r.fields]
    for members in (Opcode, Fetch, Flag, Buffers):
        lines.append("")
        lines += [
            f"#define HWGEN_{members.__name__.upper()}_{m.name} {m.value}"
            for m in members
            if m.value or not issubclass(members, enum.IntFlag)
        ]
    return "\n".join([*lines, "", "#endif", ""])


def register_markdown(config: BuildConfig) -> str:
    """Register reference for people."""
    lines = [
        "## Registers",
        "",
        f"AXI4-Lite, 32 bits, a window of {WINDOW_BYTES:#x} bytes. Counts are those of configuration `{config.name}`.",
        "",
        "| offset | name | access | description |",
        "|---|---|---|---|",
    ]
    for r in register_map(config):
        end = f" .. {r.offset + (r.count - 1) * r.step:#06x}" if r.count > 1 else ""
        name = f"{r.name}[{r.count}]" if r.count > 1 else r.name
        lines.append(f"| {r.offset:#06x}{end} | `{name}` | {_ACCESS[r.access]} | {r.description} |")
        for f in r.fields:
            bits = f"{f.first}" if f.width == 1 else f"{f.first + f.width - 1}:{f.first}"
            lines.append(f"| | `{r.name}.{f.name}` | bits {bits} | {f.description} |")
    return "\n".join([*lines, ""])


def _members_markdown(members: type[enum.IntEnum] | type[enum.IntFlag]) -> list[str]:
    texts = documented_members(members)
    rows = [f"| {m.value} | `{m.name}` | {texts[str(m.name)]} |" for m in members if m.name in texts]
    return [f"### {members.__name__}", "", "| value | name | meaning |", "|---|---|---|", *rows, ""]


def descriptor_markdown() -> str:
    """Descriptor reference for people."""
    texts = documented_members(Descriptor) | {"check": f"Makes the XOR of all 16-bit words 0x{CHECK_SUM:X}."}
    lines = [
        "## Descriptors",
        "",
        f"{DESCRIPTOR_BYTES} bytes, little endian. A program is a list of descriptors ended by `END`.",
        "",
        "| bits | field | meaning |",
        "|---|---|---|",
    ]
    for name, (first, width) in field_bits().items():
        lines.append(f"| {first + width - 1}:{first} | `{name}` | {texts[name]} |")
    lines.append("")
    for members in (Opcode, Fetch, Flag, Buffers, PassFlag):
        lines += _members_markdown(members)
    return "\n".join(lines)


def reference_markdown(config: BuildConfig) -> str:
    """The whole reference of a build as one page."""
    title = f"# Registers and descriptors of configuration `{config.name}`"
    note = f"Contract version {CONTRACT_VERSION}, hash `{contract_hash(config):016x}`. Generated; do not edit."
    return f"{title}\n\n{note}\n\n{register_markdown(config)}\n{descriptor_markdown()}".replace("``", "`")


if __name__ == "__main__":
    print(reference_markdown(BuildConfig(name="demo")), end="")
