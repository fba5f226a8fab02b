"""``hwgen run``."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hwgen.sw.cli.main import main

from .calls import SMALL, call


def test_run(capsys: pytest.CaptureFixture[str], model_directory: Path) -> None:
    code, result = call(
        capsys,
        "run",
        str(model_directory),
        "--prompt",
        "the cat",
        "--device",
        "golden",
        "--max-new-tokens",
        "5",
        *SMALL,
    )
    assert code == 0
    assert {
        "model",
        "device",
        "board",
        "prompt_tokens",
        "tokens",
        "text",
        "stop_reason",
        "clock_mhz",
        "simulated",
        "prefill",
        "decode",
        "port_utilisation",
        "wall",
    } <= set(result)
    assert set(result["prefill"]) == {"tokens", "cycles", "ttft_s"} and set(result["decode"]) == {
        "tokens",
        "cycles",
        "tok_s",
    }
    assert {"build_s", "prefill_s", "decode_s", "decode_tok_s"} == set(result["wall"])
    assert result["prompt_tokens"][0] == 0 and result["prefill"]["tokens"] == len(result["prompt_tokens"])
    assert len(result["tokens"]) <= 5 and result["model"] == "small" and result["board"] == "demo"


def test_run_for_people_streams_text_and_statistics(capsys: pytest.CaptureFixture[str], model_directory: Path) -> None:
    assert (
        main(
            ["run", str(model_directory), "--prompt", "the cat", "--device", "golden", "--max-new-tokens", "4", *SMALL]
        )
        == 0
    )
    out = capsys.readouterr().out
    assert out.startswith("the cat") and "4 tokens (stopped by" in out and "wall" in out


def test_energy_where_there_is_a_sensor(
    capsys: pytest.CaptureFixture[str], model_directory: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from hwgen.sw.devices import power

    arguments = ["run", str(model_directory), "--prompt", "the cat", "--device", "golden", "--max-new-tokens", "4", *SMALL]
    code, result = call(capsys, *arguments)
    assert code == 0 and result["energy"] is None  # golden is no board
    monkeypatch.setattr(power, "HWMON", tmp_path)
    monkeypatch.setattr("hwgen.sw.devices.golden.GoldenDevice.is_here", True, raising=False)
    monkeypatch.setattr("hwgen.sw.devices.golden.GoldenDevice.simulated", False)
    assert main(arguments) == 0
    assert "energy   not measured: no power sensor" in capsys.readouterr().out
    (tmp_path / "hwmon3").mkdir()
    (tmp_path / "hwmon3" / "name").write_text("ina260_u14\n")
    (tmp_path / "hwmon3" / "power1_input").write_text("5000000\n")
    code, result = call(capsys, *arguments)
    energy = result["energy"]
    assert energy["joules"] == pytest.approx(5 * energy["seconds"]) and energy["seconds"] > 0
    assert energy["joules_per_token"] == energy["joules"] / len(result["tokens"])
    assert main(arguments) == 0
    assert "J a new token, prompt included (ina260_u14: 5 V rail" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("file", "kind"),
    [("config.json", "checkpoint"), ("model.safetensors", "checkpoint"), ("tokenizer.json", "tokenizer")],
)
def test_missing_file(
    capsys: pytest.CaptureFixture[str], model_directory: Path, tmp_path: Path, file: str, kind: str
) -> None:
    shutil.copytree(model_directory, tmp_path / "m")
    (tmp_path / "m" / file).unlink()
    code, result = call(capsys, "run", str(tmp_path / "m"), "--prompt", "x")
    assert code == 2 and result["error"]["kind"] == kind


def test_missing_compiler(
    capsys: pytest.CaptureFixture[str], model_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr("hwgen.sw.devices.verilator.cached_verilog", lambda *a: "module hwgen_accelerator; endmodule")
    code, result = call(capsys, "run", str(model_directory), "--prompt", "x")
    assert code == 2 and result["error"]["kind"] == "tool" and "no-such-compiler" in result["error"]["message"]
    assert "apt-get install" in result["error"]["fix"]
    code, result = call(capsys, "doctor")
    failed = {c["name"]: c for c in result["checks"] if not c["ok"]}
    assert code == 1 and failed["g++"]["fix"] == "sudo apt-get install g++"


def test_several_answers(capsys: pytest.CaptureFixture[str], model_directory: Path, tmp_path: Path) -> None:
    several = [
        "run", str(model_directory), "the cat", "--device", "golden", "--max-new-tokens", "3", "--temperature", "1.5", *SMALL
    ]
    code, result = call(capsys, *several, "--n", "3")
    assert code == 0 and len(result["answers"]) == 3 and result["text"] == result["answers"][0]["text"]
    assert [set(a) for a in result["answers"]] == [{"tokens", "text", "stop_reason"}] * 3
    _, best = call(capsys, *several, "--n", "2", "--best-of", "3")
    assert len(best["answers"]) == 2 and all(a in result["answers"] for a in best["answers"])
    _, first = call(capsys, *several, "--n", "3", "--first-finish", "--draft", "none")
    assert len(first["answers"]) == 1 and first["answers"][0] in result["answers"] and first["drafts"] is None
    code, refused = call(capsys, *several, "--n", "2", "--session", str(tmp_path / "s"))
    assert code == 2 and "one answer" in refused["error"]["message"]


def test_drafts_are_told(capsys: pytest.CaptureFixture[str], model_directory: Path) -> None:
    one = ["run", str(model_directory), "the cat the cat the cat", "--device", "golden", "--max-new-tokens", "9", *SMALL]
    _, with_drafts = call(capsys, *one, "--logprobs", "2")
    scores = with_drafts["logprobs"]
    assert [score["token"] for score in scores] == with_drafts["tokens"] == [score["top"][0][0] for score in scores]
    assert all(score["logprob"] == score["top"][0][1] < 0 and len(score["top"]) == 2 for score in scores)
    _, without = call(capsys, *one, "--draft", "none")
    assert with_drafts["tokens"] == without["tokens"] and without["drafts"] is None
    assert set(with_drafts["drafts"]) == {"proposed", "accepted", "tokens_per_pass"}
