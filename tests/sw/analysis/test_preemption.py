"""Estimated waits of a decoding session behind another's prompt, for models of both families."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hwgen.boards import load_board
from hwgen.published import published_model
from hwgen.sw.analysis.preemption import estimate_waits, main


@pytest.mark.parametrize(("name", "head"), [("bitnet-0.73b", "exact"), ("bitnet-2b4t", "shortlist"), ("smollm2-135m", "exact")])
def test_a_slice_is_one_operator(name: str, head: str) -> None:
    engine = published_model(name).engine
    shape = replace(published_model(name).shape, layers=2)
    config = load_board("kv260").for_engine(engine).config
    waits = estimate_waits(config, shape, context=256, head=head, engine=engine, logits=False)
    assert {part.kind for part in waits.slices} == {"embed", "linear", "attention"}
    assert sum(part.kind == "attention" for part in waits.slices) == shape.layers
    assert waits.longest.cycles < waits.whole / 4
    assert waits.sliced >= waits.whole


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--shape", "llama-1b", "--head", "exact"]) == 0
    assert capsys.readouterr().out.startswith("llama-1b on kv260, exact head, 512 tokens cached")
    assert main(["--shape", "llama-1b", "--head", "exact", "--board", "pynq-z2"]) == 1
    assert "no configuration with engine 'int4'" in capsys.readouterr().err
