"""Float weights given to a command: made 4-bit while they are read, and that is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hwgen.decoder import LLAMA
from hwgen.golden.float_llama import FloatLlama
from hwgen.golden.perplexity import perplexity
from hwgen.sw.cli.main import main
from hwgen.sw.compiler.image_file import load_image
from hwgen.sw.models.open import open_model
from hwgen.sw.verification.perplexity import encode_file
from hwgen.weights import random_weights

from ..models.llama_files import SHAPE, write_gguf

SAID = "14 matrices (14 of F16) made 4-bit to nearest in groups of 32 with scale and midpoint: relative error of the weights"


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("HWGEN_CACHE", str(tmp_path / "cache"))
    write_gguf(tmp_path / "m.gguf", random_weights(SHAPE, 2, LLAMA, "int4"), "F16")
    return str(tmp_path / "m.gguf")


def test_every_command(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What run answers is what chat answers; the compiled model is the same one; matrices are made once."""
    options = ["--prompt", "The cat", "--max-new-tokens", "4", "--device", "golden", "--json"]
    answers = []
    for number, command in enumerate((["run", "--chat", model, *options], ["chat", model, *options])):
        assert main(command) == 0
        captured = capsys.readouterr()
        assert SAID in captured.err and ("14 of them from" in captured.err) == (number > 0)
        answers.append(json.loads(captured.out))
    assert answers[1]["turns"][0]["tokens"] == answers[0]["tokens"]
    image = tmp_path / "m.hwimage"
    assert main(["compile", model, "--out", str(image), "--board", "demo", "--json"]) == 0
    assert SAID in capsys.readouterr().err
    assert main(["run", "--chat", str(image), *options]) == 0
    assert json.loads(capsys.readouterr().out)["tokens"] == answers[0]["tokens"]
    assert load_image(image).image.engine == "int4"


def test_perplexity_of_both(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Beside the machine's stands that of the float weights, not of the rounded ones."""
    text = tmp_path / "text.txt"
    text.write_text("Once upon a time there was a cat. The cat sat. " * 3)
    assert main(["perplexity", model, str(text), "--tokens", "60", "--json"]) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    loaded = open_model(model)
    expected = perplexity(FloatLlama(loaded.weights), encode_file(loaded.tokenizer, text, 60)[0], result["window"])
    assert SAID in captured.err and result["float"]["perplexity"] == pytest.approx(expected, rel=1e-6)
    assert result["bit_exact"]["perplexity"] != pytest.approx(expected, rel=1e-4)
