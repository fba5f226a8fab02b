"""The option ``--kv``: of a model that is compiled, of one that was, and of sizes alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from hwgen.sw.cli.main import main

from .calls import SMALL, call

FOUR = [*SMALL, "--set", "int4_kv=yes"]


def test_models_are_run_with_it(capsys: pytest.CaptureFixture[str], model_directory: Path, tmp_path: Path) -> None:
    run = ["run", str(model_directory), "Once", "--device", "golden", "--max-new-tokens", "3"]
    assert main([*run, "--kv", "k8v4", *SMALL]) == 2
    assert "keeps a k8v4 cache, build 'demo' has k8v8 alone" in capsys.readouterr().err
    session = tmp_path / "s"
    assert call(capsys, *run, "--kv", "k8v4", "--session", str(session), *FOUR)[0] == 0
    assert main([*run, "--session", str(session), *FOUR]) == 2
    assert "has a k8v4 cache, 'small' a k8v8 one" in capsys.readouterr().err
    assert call(capsys, *run, "--kv", "k8v4", "--session", str(session), *FOUR)[0] == 0


@pytest.mark.parametrize("kv", ["k8v8", "k8v4", "k4v4"])
def test_keys_without_centers_are_told(
    capsys: pytest.CaptureFixture[str], model_directory: Path, tmp_path: Path, kv: str
) -> None:
    """Whoever asks for keys of 4 bits hears, once, that they lose more than they need to; in every command that takes --kv."""
    words, copy = "has no centers of keys", tmp_path / "copy"
    shutil.copytree(model_directory, copy)
    (tmp_path / "text").write_text("the cat sat")
    run = ["run", str(copy), "--prompt", "Once", "--device", "golden", "--max-new-tokens", "1", "--kv", kv, *FOUR]
    for arguments in (run, ["compile", str(copy), "--out", str(tmp_path / "m.hwimage"), "--kv", kv, *FOUR],
                      ["perplexity", str(copy), str(tmp_path / "text"), "--tokens", "4", "--kv", kv, *FOUR]):
        assert main([*arguments]) == 0
        said = capsys.readouterr().err
        assert said.count(words) == (kv == "k4v4") and said.count(f"hwgen model center {copy} --text FILE") == (kv == "k4v4")
    assert main(["model", "center", str(copy), "--text", str(tmp_path / "text"), "--tokens", "4"]) == 0
    assert main(run) == 0 and words not in capsys.readouterr().err


def test_an_image_has_one(capsys: pytest.CaptureFixture[str], model_directory: Path, tmp_path: Path) -> None:
    image = str(tmp_path / "m.hwimage")
    _, result = call(capsys, "compile", str(model_directory), "--board", "demo", "--out", image, "--kv", "k4v4", *FOUR)
    assert result["kv"] == "k4v4"
    run = ["run", image, "Once", "--device", "golden", "--max-new-tokens", "2"]
    assert main([*run, "--kv", "k8v8"]) == 2
    assert "has a k4v4 cache, not k8v8" in capsys.readouterr().err
    assert main([*run, "--json"]) == 0 and json.loads(capsys.readouterr().out)["text"] is not None


def test_the_estimate_reads_less(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["estimate", "--shape", "bitnet-0.73b", "--prompt", "0", "--decode", "1", "--cached", "2000", "--set",
                 "int4_kv=yes"]
    by_kv = {kv: call(capsys, *arguments, "--kv", kv)[1] for kv in ("k8v8", "k8v4", "k4v4")}
    assert [row["kv"] for row in by_kv.values()] == list(by_kv)
    read = [row["decode"]["bytes_per_token"] for row in by_kv.values()]
    rate = [row["decode"]["tok_s"] for row in by_kv.values()]
    assert read == sorted(read, reverse=True) and rate == sorted(rate)
    # 24 layers of 16 heads, 63 blocks of 2 + 48 + 48 beats; a quarter of these falls away each time, as they are padded to even
    # of keys of 4 bits there is a row in bfloat16 a layer
    assert read[0] - read[1] == read[1] - read[2] + 24 * 1536 * 2 == 24 * 16 * 63 * 24 * 64
