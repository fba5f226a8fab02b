"""``hwgen bench --device pynq`` on a virtual board: what it states, and what stands beside it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwgen.decoder import BITNET
from hwgen.published import PUBLISHED, PublishedModel
from hwgen.sim.board.board import VirtualBoard
from hwgen.sw.analysis import board_bench
from hwgen.sw.cli.main import main
from hwgen.sw.compiler.image_file import save_image
from hwgen.sw.devices.power import find_sensor
from hwgen.sw.runtime.engine import Engine
from hwgen.sw.runtime.pages import Session
from tests.system.small import SHAPE, SmallDevice
from tests.virtual_board import BOARD, CONFIG, image, new_board, require_pynq

from ..cli.calls import call
from ..devices.test_power import sensor_at

require_pynq()

import pynq

from hwgen.sim.board.local import SimulatedDevice

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of PYNQ's own code

RUN = ["bench", "--device", "pynq", "--image", "small.hwimage", "--prompt", "8", "--decode", "3", "--cached", "5"]

SIMULATED: dict[str, Any] = {
    "shape": "small", "config": CONFIG.to_dict(), "layers": 1, "head": "exact", "cached": 5, "simulated": True,
    "prefill": {"tokens": 8, "cycles": 12345, "tok_s": 54321.0},
    "decode": {"tokens": 3, "passes": [1000, 2000, 3000], "tok_s": 777.0, "port_utilisation": 0.875},
}


@pytest.fixture(scope="module")
def board() -> VirtualBoard:
    return new_board()


@pytest.fixture(autouse=True)
def directory(board: VirtualBoard, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """The board is PYNQ's active device; the image and a simulation lie in the working directory."""
    monkeypatch.setattr(pynq.Device, "_active_device", SimulatedDevice(board), raising=False)
    monkeypatch.setitem(PUBLISHED, "small", PublishedModel("ternary", BITNET, replace(SHAPE, layers=1)))
    monkeypatch.chdir(tmp_path)
    save_image(tmp_path / "small.hwimage", image(), None, BOARD, "exact")
    (tmp_path / "simulated.json").write_text(json.dumps(SIMULATED))
    return tmp_path


def cycles_of_simulation() -> list[int]:
    """The same passes on the accelerator without a board around it: 6 and 2 prompt tokens behind 5, and one new token."""
    device = SmallDevice()
    engine, session = Engine(device, image()), Session()
    engine.adopt(session, [0] * 5)
    rng = np.random.default_rng(7)
    return [
        engine.forward(session, rng.integers(0, SHAPE.vocab, count).tolist(), write_logits=True).cycles for count in (6, 2, 1)
    ]


def test_measured_beside_estimated_and_simulated(capsys: pytest.CaptureFixture[str]) -> None:
    code, result = call(capsys, *RUN, "--simulated", "simulated.json")
    assert code == 0 and result["simulated"] and result["weights"] == "small.hwimage"
    prefill, decode, hertz = result["prefill"], result["decode"], CONFIG.clock_mhz * 1e6
    *prompt, token = cycles_of_simulation()
    assert prefill["cycles"] == pytest.approx(sum(prompt), rel=0.05) and decode["cycles"] == pytest.approx(3 * token, rel=0.05)
    assert (prefill["tokens"], decode["tokens"], result["context"]) == (8, 3, 13)
    assert decode["tok_s"] == pytest.approx(3 * hertz / decode["cycles"])
    assert 0.05 < decode["port_utilisation"] < 1
    assert prefill["wall_s"] > 0 and prefill["wall_tok_s"] is None, "the simulator's speed says nothing"
    assert prefill["energy"] is None and decode["energy"] is None
    assert result["beside"]["simulated"] == {
        "prefill": {"cycles": 12345, "tok_s": 54321.0, "port_utilisation": None},
        "decode": {"cycles": 6000, "tok_s": 777.0, "port_utilisation": 0.875},
    }
    for phase in ("prefill", "decode"):
        assert result["beside"]["estimated"][phase]["cycles"] == pytest.approx(result[phase]["cycles"], rel=0.3)


def test_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*RUN, "--simulated", "simulated.json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "a virtual board: simulated; all layers, exact head, small.hwimage" in lines[0]
    assert lines[1].split() == ["virtual", "board", "simulated", "estimated"]
    (row,) = [line for line in lines if line.startswith("decode 3: tokens/s")]
    assert row.split()[-2] == "777.00"
    assert "energy   not measured: a simulated board has no power sensor" in lines
    assert main([*RUN[:-6], "--prompt", "0", "--decode", "1"]) == 0
    text = capsys.readouterr().out
    assert "prefill" not in text and "decode 1: cycles" in text and " simulated" in text.splitlines()[0]


def test_joules_where_a_sensor_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, directory: Path
) -> None:
    sensor_at(directory / "hwmon", 0, "ina260_u14", "4000000")
    monkeypatch.setattr(board_bench, "sensor_of", lambda device: find_sensor(directory / "hwmon"))
    _, result = call(capsys, *RUN)
    for phase in ("prefill", "decode"):
        energy = result[phase]["energy"]
        assert energy["joules"] == pytest.approx(4 * energy["seconds"]) and energy["seconds"] >= result[phase]["wall_s"] > 0
        assert energy["joules_per_token"] == energy["joules"] / result[phase]["tokens"]
    assert main(RUN) == 0
    assert capsys.readouterr().out.count("(ina260_u14: 5 V rail of the module") == 2


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"head": "shortlist"}, "head shortlist, here exact"), ({"layers": 2}, "layers 2, here 1"),
        ({"cached": 4}, "tokens cached 4, here 5"),
        ({"config": {}}, "of another run: configuration"), ({"shape": "llama-1b"}, "hidden of the model 2048, here 30"),
        ({"simulated": False}, "is the result of a board"), ({"decode": 1}, "is not the result of a bench"),
        ({"prefill": {"tokens": 9}}, "prompt tokens 9, here 8"),
    ],
)
def test_another_run_is_not_put_beside(
    capsys: pytest.CaptureFixture[str], directory: Path, change: dict[str, Any], says: str
) -> None:
    (directory / "other.json").write_text(json.dumps(SIMULATED | change))
    code, result = call(capsys, *RUN, "--simulated", "other.json")
    assert code == 2 and says in result["error"]["message"] and result["error"]["fix"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--check", "full"], "--check full takes the golden model"), (["--layers", "1"], "--layers is for random weights"),
        (["--head", "shortlist"], "has the exact head, not shortlist"),
        (["--cached", "22"], "33 tokens are longer than the context"),
        (["--device", "verilator"], "--image and --simulated are for a board"), (["--device", "golden"], "counts no cycles"),
        (["--image", "a.gguf"], "is not a compiled model"), (["--simulated", "none.json"], "is not the result of a bench"),
        (["--board", "kv260"], "was compiled for small"),
    ],
)
def test_refused(capsys: pytest.CaptureFixture[str], options: list[str], says: str) -> None:
    code, result = call(capsys, *RUN, *options)
    assert code == 2 and says in result["error"]["message"] and result["error"]["fix"]
