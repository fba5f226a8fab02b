"""Notebooks, executed from top to bottom on a virtual board through PYNQ itself, in a kernel of this interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hwgen.boards import board_names, load_board
from hwgen.sw.compiler.compile import plan_model
from hwgen.sw.devices.virtual_board import virtual_board
from hwgen.sw.models.open import open_model
from hwgen.sw.runtime.llm import LLM
from hwgen.sw.runtime.pages import Session
from tests.virtual_board import require_pynq

require_pynq()  # before what imports pynq, so that its absence skips this file

import nbformat
from nbclient import NotebookClient

from hwgen.sim.board.server import BoardServer
from hwgen.sw.devices.pynq import overlay_lock

#: Of the event loops of nbclient and its kernel.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

FOLDER = Path(__file__).parents[2] / "notebooks"
NAMES = ["01_live_inference", "02_inside_the_accelerator", "03_bring_your_model"]

#: Prompts and lengths of the notebook of live inference.
STORY, GOING_ON = ("Once upon a time", 32), (" But then", 12)


def read(name: str) -> Any:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


class Executed:
    """A notebook after all of its cells; further expressions can be evaluated in its kernel before that ends."""

    def __init__(self, name: str, directory: Path, expressions: dict[str, str] | None = None) -> None:
        self.notebook = read(name)
        for key, expression in (expressions or {}).items():
            source = f"import json\nprint(json.dumps({expression}))"
            self.notebook.cells.append(nbformat.v4.new_code_cell(source, id=key))
        NotebookClient(
            self.notebook, timeout=600, startup_timeout=300, kernel_name="tested", resources={"metadata": {"path": str(directory)}}
        ).execute()
        self.cells = {cell.id: cell for cell in self.notebook.cells}

    def text(self, cell: str) -> str:
        """What a cell printed."""
        return "".join(o.text for o in self.cells[cell].outputs if o.output_type == "stream" and o.name == "stdout")

    def value(self, key: str) -> Any:
        return json.loads(self.text(key))

    def pictures(self, cell: str) -> int:
        return sum("image/png" in o.get("data", {}) for o in self.cells[cell].outputs)

    def errors(self) -> str:
        """What cells wrote to standard error."""
        outputs = [o for cell in self.cells.values() for o in cell.get("outputs", [])]
        return "".join(o.text for o in outputs if o.output_type == "stream" and o.name == "stderr")


@pytest.fixture(autouse=True)
def kernel(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel called "tested" that is this interpreter; no PYNQ device is in its environment."""
    place = tmp_path_factory.mktemp("jupyter")
    spec = {
        "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "tested",
        "language": "python",
    }
    (place / "kernels" / "tested").mkdir(parents=True)
    (place / "kernels" / "tested" / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(place))
    for name in ("PYNQ_REMOTE_DEVICES", "MPLBACKEND"):
        monkeypatch.delenv(name, raising=False)


# ---- as they are stored ------------------------------------------------------------------------------------------
def test_every_notebook_is_tested() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_stored_form(name: str) -> None:
    """Format 4.5 with ids that say what a cell is for, so that changes show as they are; nothing that a run left behind."""
    notebook = read(name)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert notebook.metadata == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids) and all(i.replace("-", "").isalpha() for i in ids)
    for cell in notebook.cells:
        assert not cell.metadata
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None, f"{cell.id} has outputs: clear them"
    text = (FOLDER / f"{name}.ipynb").read_text(encoding="utf-8")
    assert text == nbformat.writes(notebook) + "\n", "not as nbformat writes it"


# ---- executed ----------------------------------------------------------------------------------------------------
def test_live_inference(tmp_path: Path) -> None:
    """What streams into the notebook is the story of the golden model, computed here."""
    run = Executed(
        "01_live_inference",
        tmp_path,
        {
            "tokens": "[story.generation.tokens, chapter.generation.tokens]",
            "kinds": "[found.simulated, type(accelerator).__mro__[1].__module__, type(overlay).__module__]",
            "counted": "[story.generation.decode.cycles, story.generation.decode.tokens]",
        },
    )
    golden = LLM("stories", "golden")
    session = Session()
    for (prompt, length), cell, number in ((STORY, "story", 0), (GOING_ON, "going-on", 1)):
        expected = golden.generate(prompt, max_new_tokens=length, session=session)
        assert run.text(cell) == prompt + expected.text
        assert run.value("tokens")[number] == expected.generation.tokens
        assert len(expected.generation.tokens) == length
        assert run.pictures(cell) == 1
    assert run.value("kinds") == [True, "pynq.overlay", "pynq.overlay"]
    cycles, tokens = run.value("counted")
    clock = load_board("demo").config.clock_mhz
    assert f"then {tokens * clock * 1e6 / cycles:,.0f} tokens/s" in run.text("summary")
    assert run.text("summary").startswith("simulated, at 250 MHz") and "virtual board demo-simulated" in run.text("find-board")
    assert "hwgen:hwgen:accelerator:1.0 is driven by AcceleratorDriver" in run.text("load-overlay")
    assert run.errors() == ""


def test_inside_the_accelerator(tmp_path: Path) -> None:
    run = Executed(
        "02_inside_the_accelerator",
        tmp_path,
        {
            "passes": "[[r.cycles, sum(r.counters[c] for c, _ in ENGINE_COUNTERS)] for r in results.values()]",
            "traced": "[len(t.entries) for t in (prefill_trace, decode_trace)]",
            "operators": "[r.counters['operators'] for r in results.values()]",
            "chosen": "[token, following]",
            "prompted": "prompt",
        },
    )
    assert run.pictures("timelines") == 2 and run.pictures("cycles") == 1
    for cycles, counted in run.value("passes"):
        assert cycles == counted > 0
    assert run.value("traced") == run.value("operators")
    answer = LLM("stories", "golden").generate(run.value("prompted"), max_new_tokens=2)
    assert answer.text and run.value("chosen") == answer.generation.tokens
    assert run.text("golden").startswith("equal in every bit: 1,024 logits")
    assert run.text("verify").endswith("elements compared, 0 differ\n")
    events = json.loads((tmp_path / "timeline.json").read_text())["traceEvents"]
    assert sum(event["ph"] == "X" for event in events) == sum(run.value("traced"))
    assert run.errors() == ""


@pytest.mark.parametrize("where", ["in process", "remote"])
def test_bring_your_model(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same cells drive a board of another process, which PYNQ is told of by its own variable."""
    expressions = {"tokens": "answer.generation.tokens", "remote": "found.device.has_capability('REMOTE')"}
    if where == "remote":
        pid = os.getpid()
        host = f"127.{1 + pid % 250}.{pid // 250 % 250}.9"  # the variable takes no port
        monkeypatch.setenv("PYNQ_REMOTE_DEVICES", host)
        monkeypatch.setenv("no_grpc_proxy", host)
        with BoardServer(virtual_board(load_board("demo"), 1 << 26), host=host), overlay_lock():
            run = Executed("03_bring_your_model", tmp_path, expressions)
    else:
        run = Executed("03_bring_your_model", tmp_path, expressions)
    assert run.value("remote") == (where == "remote")
    expected = LLM(tmp_path / "my-model", "golden").generate("Once upon a time", max_new_tokens=12)
    assert expected.text and run.value("tokens") == expected.generation.tokens
    assert "hidden_act is 'gelu'; supported:" in run.text("refused")
    assert "the model needs 1088 inputs" in run.text("too-large") and "build with max_inputs=1088" in run.text("too-large")
    assert run.text("compare") == "the same 12 tokens\n"
    assert run.errors() == ""


@pytest.mark.parametrize("name", board_names())
def test_the_story_fits_every_board(name: str) -> None:
    """So that the cells run there unchanged; the trace holds a whole pass."""
    config = load_board(name).config
    program, _ = plan_model(config, open_model("stories").weights)
    assert len(program) <= config.trace_entries


# ---- delivered ---------------------------------------------------------------------------------------------------
DELIVER = "import sys; from pynq._cli.get_notebooks import main; sys.argv[0] = 'pynq get-notebooks'; main()"


def test_pynq_delivers_them(tmp_path: Path) -> None:
    """A wheel of this tree, and `pynq get-notebooks` with it, as on a board."""
    build = [sys.executable, str(FOLDER.parent / "tools" / "build_wheel.py"), str(tmp_path)]
    wheel = Path(subprocess.run(build, check=True, capture_output=True, text=True).stdout.strip())
    installed = tmp_path / "installed"
    subprocess.run([sys.executable, "-m", "zipfile", "-e", str(wheel), str(installed)], check=True)
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    command = [sys.executable, "-W", "ignore", "-c", DELIVER, "hwgen", "--ignore-overlays", "--path", str(tmp_path / "delivered")]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    delivered = tmp_path / "delivered" / "hwgen"
    assert {path.name for path in delivered.iterdir()} == {f"{name}.ipynb" for name in NAMES}
    for path in delivered.iterdir():
        assert path.read_bytes() == (FOLDER / path.name).read_bytes()
