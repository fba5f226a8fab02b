"""``hwgen train``."""

from __future__ import annotations

from pathlib import Path

import pytest

from .calls import call


def test_train_resumes_and_exports(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Once upon a time there was a cat. The cat sat on a mat and saw a dog.\n<|endoftext|>\n" * 30)
    options = [
        "train",
        str(text),
        "--out",
        str(tmp_path / "run"),
        "--no-compile",
        "--steps",
        "2",
        "--batch",
        "2",
        "--length",
        "8",
        "--hidden",
        "16",
        "--layers",
        "1",
        "--heads",
        "1",
        "--kv-heads",
        "1",
        "--head-dim",
        "16",
        "--ffn",
        "16",
        "--vocab",
        "262",
        "--max-context",
        "32",
    ]
    code, result = call(capsys, *options, "--validation", str(text))
    assert code == 0 and result["step"] == 2 and result["held_out_bits_per_byte"] > 0
    code, result = call(capsys, *options, "--seed", "2")
    assert code == 2 and "another recipe" in result["error"]["message"]
    code, result = call(capsys, *options, "--export", str(tmp_path / "model"))
    assert code == 0 and result["export"] == str(tmp_path / "model")
    code, result = call(
        capsys, "run", str(tmp_path / "model"), "--prompt", "the", "--device", "golden", "--max-new-tokens", "2"
    )
    assert code == 0 and len(result["tokens"]) <= 2
