"""Digests of the golden model: there for every shipped board, and those that it gives."""

from __future__ import annotations

import subprocess
import sys

import pytest

from hwgen.boards import load_board
from hwgen.sw.verification.recorded_answers import ANSWER_KEYS, answers_of, expected_answers, model_image, shipped_configurations

RECORD = "run python -m hwgen.sw.verification.recorded_answers"


def test_every_shipped_board_has_answers() -> None:
    for config, engine in shipped_configurations():
        found = expected_answers(config, engine)
        assert found is not None and found.keys() == ANSWER_KEYS.keys(), f"{config.name}: {RECORD}"


@pytest.mark.parametrize("engine", ["ternary", "int4"])
def test_they_are_the_golden_model_s(engine: str) -> None:
    pytest.importorskip("torch", reason="the golden model needs torch")
    from hwgen.sw.devices.golden import GoldenDevice

    config = load_board("demo").for_engine(engine).config
    device = GoldenDevice(config, memory_bytes=model_image(config, engine).memory_bytes())
    assert answers_of(device, engine) == expected_answers(config, engine), RECORD


def test_a_board_needs_neither_torch_nor_amaranth() -> None:
    code = """
import sys
for name in ("torch", "amaranth", "cocotb", "pynq"):
    sys.modules[name] = None
from hwgen.boards import load_board
from hwgen.sw.cli import selftest
from hwgen.sw.verification.recorded_answers import expected_answers, model_image
config = load_board("demo").config
assert model_image(config, "ternary").name == "stories" and expected_answers(config, "ternary")
"""
    subprocess.run([sys.executable, "-c", code], check=True)
