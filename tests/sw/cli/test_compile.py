"""``hwgen compile``, and the file it writes in place of a model."""

from __future__ import annotations

from pathlib import Path

import pytest

from .calls import SMALL, call


def test_compiled_runs_as_the_checkpoint_does(model_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "small.hwimage")
    code, written = call(capsys, "compile", str(model_directory), "--board", "demo", *SMALL, "--out", out, "--context", "48")
    assert code == 0 and written["bytes"] == Path(out).stat().st_size and written["context"] == 48
    assert written["contiguous_bytes"] >= sum(written["buffers"].values())
    options = ["--device", "golden", "--prompt", "the cat", "--max-new-tokens", "5"]
    _, fresh = call(capsys, "run", str(model_directory), *SMALL, *options)
    code, compiled = call(capsys, "run", out, *options)
    assert code == 0 and (compiled["tokens"], compiled["text"], compiled["board"]) == (fresh["tokens"], fresh["text"], "demo")
    code, named = call(capsys, "run", out, "--board", "demo", *SMALL, *options)
    assert code == 0 and named["tokens"] == fresh["tokens"]
    code, talk = call(capsys, "chat", out, "--prompt", "the cat", "--max-new-tokens", "5")
    assert code == 0 and talk["turns"][0]["tokens"] == fresh["tokens"]
    for change in (["--board", "kv260"], ["--head", "shortlist"], ["--set", "max_context=96"]):
        code, refused = call(capsys, "run", out, *change, *options)
        assert code == 2 and "compiled" in refused["error"]["message"] and refused["error"]["fix"]
    code, refused = call(capsys, "verify", "--model", out)
    assert code == 2 and "needs the one it was compiled from" in refused["error"]["message"]


@pytest.mark.parametrize(
    ("out", "message"), [("model.bin", "does not end with .hwimage"), ("no/such/place.hwimage", "is not a directory")]
)
def test_where_it_is_not_written(
    out: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, result = call(capsys, "compile", "stories", "--board", "demo", "--out", out)
    assert code == 2 and message in result["error"]["message"]
    assert not list(tmp_path.iterdir())


def test_nothing_is_left_of_a_file_that_failed(
    model_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*arguments: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hwgen.sw.compiler.image_file._write_model", full)
    out = tmp_path / "small.hwimage"
    out.write_bytes(b"what was there before")
    code, result = call(capsys, "compile", str(model_directory), "--board", "demo", *SMALL, "--out", str(out))
    assert code == 2 and "cannot be written: No space left" in result["error"]["message"]
    assert out.read_bytes() == b"what was there before" and list(tmp_path.iterdir()) == [out]
