"""The option ``--kv-budget`` of commands that answer, and of a text that is scored."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hwgen.boards import load_board
from hwgen.errors import HwgenError
from hwgen.sw.cli.main import main
from hwgen.sw.models.open import open_model
from hwgen.sw.verification.perplexity import device_perplexity

from .calls import SMALL, call

#: Blocks so short that the small model's context has several.
SHORT_BLOCKS = [*SMALL, "--set", "kv_block=8", "--set", "kv_budget=3"]
LONG = "Once upon a time there was a cat. The cat sat. The cat sat upon a"


def test_answers_with_a_budget(capsys: pytest.CaptureFixture[str], model_directory: Path) -> None:
    run = ["run", str(model_directory), LONG, "--device", "golden", "--max-new-tokens", "5", *SHORT_BLOCKS]
    exact, budgeted, wide = (call(capsys, *run, "--kv-budget", str(n)) for n in (0, 2, 3))
    assert [code for code, _ in (exact, budgeted, wide)] == [0] * 3 and exact[1]["drafts"] is not None
    assert budgeted[1]["drafts"] is None and len(budgeted[1]["tokens"]) == 5
    _, several = call(capsys, *run, "--kv-budget", "2", "--n", "2")
    assert [row["tokens"] for row in several["answers"]] == [budgeted[1]["tokens"]] * 2
    chat = ["chat", str(model_directory), "--prompt", LONG, "--device", "golden", "--max-new-tokens", "5", *SHORT_BLOCKS]
    _, turn = call(capsys, *chat, "--kv-budget", "2")
    assert turn["turns"][0]["tokens"] == budgeted[1]["tokens"] and turn["turns"][0]["drafts"] is None


@pytest.mark.parametrize("command", ["run", "chat", "serve", "perplexity"])
def test_budgets_that_a_build_has_not(
    capsys: pytest.CaptureFixture[str], model_directory: Path, tmp_path: Path, command: str
) -> None:
    text = tmp_path / "text.txt"
    text.write_text(LONG)
    behind = {"run": ["Once"], "chat": ["--prompt", "Once"], "serve": ["--port", "0"], "perplexity": [str(text)]}[command]
    start = [command, str(model_directory), *behind, "--device", "golden"]
    for build, budget, fix in ((SMALL, "32", "build with --set kv_budget=32"), (SHORT_BLOCKS, "4", "kv_budget=3")):
        assert main([*start, *build, "--kv-budget", budget]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert lines[-1].startswith("hwgen: ") and fix in lines[-1]
    if command != "perplexity":
        assert main([*start, *SHORT_BLOCKS, "--kv-budget", "2", "--draft-model", str(model_directory)]) == 2
        assert "answers with a budget of blocks have no drafts" in capsys.readouterr().err


def test_windows_in_which_nothing_is_chosen(model_directory: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(LONG)
    model = open_model(str(model_directory))
    llm: Any = SimpleNamespace(
        model=model, image=SimpleNamespace(context=4096), engine=SimpleNamespace(config=load_board("kv260").config)
    )
    for window, budget, fix in ((512, 13, "give 12 blocks or fewer"), (96, 2, "leave the budget out")):
        with pytest.raises(HwgenError, match=f"chooses nothing in windows of {window} tokens") as error:
            device_perplexity(llm, text, None, window, kv_budget=budget)
        assert error.value.fix == fix


def test_a_text_that_is_scored(capsys: pytest.CaptureFixture[str], model_directory: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(LONG * 3)
    score = ["perplexity", str(model_directory), str(text), *SHORT_BLOCKS]
    exact, budgeted, same = (
        call(capsys, *score, *at, "--device", "golden", "--kv-budget", str(n))[1]
        for n, at in ((0, []), (2, []), (2, ["--tokens", "39"]))
    )
    assert (exact["kv_budget"], budgeted["kv_budget"]) == (0, 2) and exact["tokens"] == budgeted["tokens"] > 64
    assert exact["machine"] != budgeted["machine"]
    assert budgeted["machine"]["perplexity"] == pytest.approx(exact["machine"]["perplexity"], rel=0.5)
    _, plain = call(capsys, *score, "--tokens", "39", "--device", "golden")
    assert plain["machine"] == same["machine"], "positions that have no more blocks than the budget"
    assert main([*score, "--kv-budget", "2"]) == 2 and "add --device golden" in capsys.readouterr().err
