from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from hwgen.sw.cli import doctor
from hwgen.sw.cli.main import main

from ..conftest import CONFIG, SHAPE

SMALL = ["--set", f"max_context={CONFIG.max_context}"]


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    code = main([*arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


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


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (["run"], "usage", "--prompt"),
        (["frobnicate"], "usage", "invalid choice"),
        (["run", "nowhere", "--prompt", "x"], "checkpoint", "neither a directory"),
        (["run", "MODEL", "--prompt", "x " * 200, "--device", "golden"], "context", "longer than the context of 64"),
        (["run", "MODEL", "--prompt", "x", "--device", "abacus"], "device", "'abacus' is unknown"),
        (["run", "MODEL", "--prompt", "x", "--device", "golden", "--max-new-tokens", "0"], "usage", "at least 1"),
        (["run", "MODEL", "--prompt", "x", "--device", "golden", "--top-p", "2"], "usage", "top_p must be"),
        (["run", "MODEL", "--prompt", "x", "--device", "golden", "--chat"], "tokenizer", "no chat template"),
        (["run", "MODEL", "--prompt", "x", "--set", "lanes=0"], "configuration", "lanes must be a positive integer"),
        (["run", "MODEL", "--prompt", "x", "--set", "rows=3"], "configuration", "nearest legal value is 2"),
        (["run", "MODEL", "--prompt", "x", "--set", "lanes=many"], "configuration", "is not an int"),
        (["run", "MODEL", "--prompt", "x", "--set", "speed=1"], "configuration", "not a field"),
        (["run", "MODEL", "--prompt", "x", "--set", "max_inputs=40"], "model", "max_inputs=40"),
        (["verify", "--model", "MODEL", "--prompt-tokens", "0"], "usage", "at least 1"),
        (["verify", "--model", "MODEL", "--layers", "9"], "usage", "at most 2"),
        (["perplexity", "MODEL", "no-such-file"], "usage", "is not a file"),
        (["train", "no-such-file", "--out", "x"], "usage", "is not a file"),
        (["build", "--board", "kv261", "--out", "x"], "configuration", "'kv261' is unknown"),
    ],
)
def test_bad_input(
    capsys: pytest.CaptureFixture[str], model_directory: Path, arguments: list[str], kind: str, message: str
) -> None:
    arguments = [str(model_directory) if a == "MODEL" else a for a in arguments]
    code, result = call(capsys, *arguments)
    assert code == 2
    error = result["error"]
    assert error["kind"] == kind and message in error["message"] and error["fix"]
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    last = captured.err.strip().splitlines()[-1]
    assert last.startswith(f"hwgen: {kind}: ") and message in last


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


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    _, result = call(capsys, "doctor")
    assert all(set(c) >= {"name", "ok", "found", "fix"} for c in result["checks"])
    assert {c["name"]: c["ok"] for c in result["checks"]}["numpy"]
    assert not doctor.check_package("no-such-distribution", "sim", False).ok


def test_perplexity(capsys: pytest.CaptureFixture[str], model_directory: Path, tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text("Once upon a time there was a cat.\n<|endoftext|>\nThe cat sat upon a cat.\n")
    code, result = call(capsys, "perplexity", str(model_directory), str(file), *SMALL)
    assert code == 0 and result["bytes"] == file.stat().st_size - len("<|endoftext|>\n")
    for name in ("float", "bit_exact"):
        row = result[name]
        assert row["perplexity"] == pytest.approx(math.exp(row["nats_per_token"]))
        assert row["bits_per_byte"] * math.log(2) * result["bytes"] == pytest.approx(
            row["nats_per_token"] * result["tokens"]
        )
    assert result["gap"] == pytest.approx(result["bit_exact"]["perplexity"] / result["float"]["perplexity"] - 1)
    _, short = call(capsys, "perplexity", str(model_directory), str(file), "--tokens", "4", *SMALL)
    assert short["tokens"] == 4 and short["bytes"] < result["bytes"]


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


def test_verify_fails_with_exit_code_1(
    capsys: pytest.CaptureFixture[str], model_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hwgen.sw.verification.lock_step import Mismatch, Outcome

    wrong = Outcome(operators_compared=3, mismatches=2, first=Mismatch("LINEAR", 1, 9, 4, -3, 5, "accumulator"))
    monkeypatch.setattr("hwgen.sw.verification.lock_step.verify_model", lambda *a, **k: wrong)
    code, result = call(capsys, "verify", "--model", str(model_directory))
    assert code == 1 and result["first"]["operator"] == "LINEAR" and result["first"]["rtl"] == -3
    assert {"operators_compared", "elements_compared", "mismatches", "first"} <= set(result)
    assert {"operator", "layer", "token", "element", "rtl", "golden"} <= set(result["first"])


def test_llm(model_directory: Path) -> None:
    from hwgen import LLM

    llm = LLM(model_directory, device="golden", board=CONFIG)
    answer = llm.generate("the cat", max_new_tokens=6)
    pieces = list(answer)
    assert "".join(pieces) == answer.text == str(answer)
    assert answer.text == llm.model.tokenizer.decode(answer.generation.tokens)
    assert llm.generate(llm.model.tokenizer.encode("the cat"), max_new_tokens=6).text == answer.text
    assert llm.engine.image.shape == SHAPE
