"""Pictures of the documents: what is committed is what their scripts draw, of components and operators that exist."""

from __future__ import annotations

import ast
from xml.etree import ElementTree

from hwgen.descriptors import Opcode
from hwgen.operators import OPERATORS
from hwgen.sw.runtime.llm import LLM
from tools import draw_machine, draw_peers, draw_sequences, draw_story


def test_block_diagram_is_of_the_code() -> None:
    for block in draw_machine.BLOCKS:  # read, not imported: generators import Amaranth
        module, _, name = block.component.partition(":")
        source = draw_machine.PICTURE.parents[1] / "hw" / (module.replace(".", "/") + ".py")
        assert name in {node.name for node in ast.parse(source.read_text()).body if isinstance(node, ast.ClassDef)}, block.title
    named = {word for block in draw_machine.BLOCKS if block.unit is not None for word in block.subtitle.split(", ")}
    assert named == {opcode.name for opcode in OPERATORS} == {o.name for o in Opcode if o is not Opcode.END}


def test_pictures_are_current() -> None:
    for tool in (draw_machine, draw_peers, draw_sequences):
        committed = tool.PICTURE.read_text(encoding="utf-8")
        assert committed == tool.draw(), f"run python {tool.__file__}"
        ElementTree.fromstring(committed)


def test_story_is_what_the_machine_says() -> None:
    """The text of the picture, drawn from a run of the generated Verilog, is that of the golden machine."""
    picture = ElementTree.fromstring(draw_story.PICTURE.read_text(encoding="utf-8"))
    title = picture.findtext("{http://www.w3.org/2000/svg}title")
    golden = LLM("stories", "golden").generate(draw_story.PROMPT, max_new_tokens=24).text
    assert title is not None and title.startswith(" ".join(f"hwgen run stories: {draw_story.PROMPT}{golden}".split()))
    spans = [span.text or "" for span in picture.iter("{http://www.w3.org/2000/svg}tspan")]
    assert "".join("".join(spans).split()).count("".join(f"{draw_story.PROMPT}{golden}".split())) == 1
    assert "simulated at" in spans[-1]


def test_only_ours_are_simulated() -> None:
    """What has not been run on the present machine has no bar."""
    simulated = [[bar.who for bar in bars if not bar.measured] for bars in draw_peers.charts().values()]
    assert all(who in ([], ["hwgen"]) for who in simulated) and ["hwgen"] in simulated
