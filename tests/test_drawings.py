"""Pictures of the documents: what is committed is what their scripts draw, of components and operators that exist."""

from __future__ import annotations

import ast
from xml.etree import ElementTree

from hwgen.descriptors import Opcode
from hwgen.operators import OPERATORS
from tools import draw_machine, draw_peers


def test_block_diagram_is_of_the_code() -> None:
    for block in draw_machine.BLOCKS:  # read, not imported: generators import Amaranth
        module, _, name = block.component.partition(":")
        source = draw_machine.PICTURE.parents[1] / "hw" / (module.replace(".", "/") + ".py")
        assert name in {node.name for node in ast.parse(source.read_text()).body if isinstance(node, ast.ClassDef)}, block.title
    named = {word for block in draw_machine.BLOCKS if block.unit is not None for word in block.subtitle.split(", ")}
    assert named == {opcode.name for opcode in OPERATORS} == {o.name for o in Opcode if o is not Opcode.END}


def test_pictures_are_current() -> None:
    for tool in (draw_machine, draw_peers):
        committed = tool.PICTURE.read_text(encoding="utf-8")
        assert committed == tool.draw(), f"run python {tool.__file__}"
        ElementTree.fromstring(committed)


def test_only_ours_are_simulated() -> None:
    for bars in draw_peers.charts().values():
        assert [bar.who for bar in bars if not bar.measured] == ["hwgen"]
