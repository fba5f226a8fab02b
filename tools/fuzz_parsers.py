"""Coverage-guided fuzzing of everything that reads a file of somebody else, with atheris (`pip install atheris`).

    python tools/fuzz_parsers.py --seconds 600 --out build/verify/parsers.json [gguf checkpoint centers image ...]

A file is read, or refused with a `HwgenError`; any other exception, more than two gigabytes, or ten seconds for one input is a
finding, whose input is kept in --keep. Inputs grow from small valid files.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

TARGETS = ("gguf", "checkpoint", "centers", "image", "session", "template", "board")
MEGABYTES, INPUT_SECONDS = 2048, 10


def corpus(target: str, folder: Path) -> None:
    """Small valid inputs."""
    from hwgen.boards import board_names, load_board
    from hwgen.sw.compiler.compile import compile_model
    from hwgen.sw.compiler.image_file import save_image
    from hwgen.weights import random_weights
    from tests.sw.conftest import CONFIG, SHAPE, TEMPLATE

    weights = random_weights(SHAPE, seed=3)
    if target == "gguf":
        from tests.sw.models.llama_files import SHAPE as LLAMA_SHAPE
        from tests.sw.models.llama_files import write_gguf

        write_gguf(folder / "q4_1.gguf", random_weights(LLAMA_SHAPE, 2, engine="int4"), "Q4_1")
    elif target == "checkpoint":
        import shutil

        from hwgen.sw.models.bitnet import save_model
        from hwgen.sw.training.documents import train_tokenizer

        place = folder / "model"
        tokenizer = folder / "tokenizer.json"
        train_tokenizer(["Once upon a time there was a cat. The cat sat."], SHAPE.vocab).save(str(tokenizer))  # type: ignore[attr-defined]
        save_model(weights, place, tokenizer, end_token=0)
        config = (place / "config.json").read_bytes()
        (folder / "seed").write_bytes(len(config).to_bytes(2, "little") + config + (place / "model.safetensors").read_bytes())
        shutil.rmtree(place)
        tokenizer.unlink()
    elif target == "centers":
        import numpy as np

        from hwgen.key_centers import KeyCenters
        from hwgen.sw.models.key_centers import write_centers

        rows = np.random.default_rng(1).standard_normal((2, SHAPE.layers, SHAPE.kv_rows), dtype=np.float32)
        write_centers(folder / "seed", KeyCenters(*rows))
    elif target == "image":
        save_image(folder / "small.hwimage", compile_model(CONFIG, weights), None)
    elif target == "session":
        from hwgen.sw.devices.golden import GoldenDevice
        from hwgen.sw.runtime.engine import Engine
        from hwgen.sw.runtime.pages import Session
        from hwgen.sw.runtime.session_file import save_session

        engine, session = Engine(GoldenDevice(CONFIG, memory_bytes=1 << 22), compile_model(CONFIG, weights)), Session()
        engine.prefill(session, [1, 2, 3])
        save_session(engine, session, folder / "seed.session")
    elif target == "template":
        (folder / "seed").write_text(TEMPLATE)
    else:
        for name in board_names():
            load_board(name)
            (folder / name).write_bytes((Path(__file__).parents[1] / "boards" / name / "board.json").read_bytes())


def reader(target: str, place: Path) -> Callable[[bytes], object]:
    """Reads an input as the product does."""
    path = place / f"input.{'json' if target == 'board' else target}"

    def of_file(read: Callable[[Path], object]) -> Callable[[bytes], object]:
        def run(data: bytes) -> object:
            path.write_bytes(data)
            return read(path)

        return run

    if target == "gguf":
        from hwgen.sw.models.gguf import open_gguf

        return of_file(lambda path: open_gguf(path).load())
    if target == "checkpoint":
        return checkpoint_reader(place)
    if target == "centers":
        from hwgen.sw.models.key_centers import read_centers
        from tests.sw.conftest import SHAPE

        return of_file(lambda path: read_centers(path, SHAPE))
    if target == "image":
        from hwgen.sw.compiler.image_file import load_image

        return of_file(load_image)
    if target == "session":
        from hwgen.sw.compiler.compile import compile_model
        from hwgen.sw.devices.golden import GoldenDevice
        from hwgen.sw.runtime.engine import Engine
        from hwgen.sw.runtime.session_file import load_session
        from hwgen.weights import random_weights
        from tests.sw.conftest import CONFIG, SHAPE

        engine = Engine(GoldenDevice(CONFIG, memory_bytes=1 << 22), compile_model(CONFIG, random_weights(SHAPE, seed=3)))
        return of_file(lambda path: engine.pages.close(load_session(engine, path)))
    if target == "template":
        from hwgen.sw.models.chat_template import render_chat

        messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        return lambda data: render_chat(data.decode(errors="replace"), messages, {"bos_token": "<s>"})
    from hwgen.boards import load_board

    return of_file(load_board)


def checkpoint_reader(place: Path) -> Callable[[bytes], object]:
    """An input is the length of config.json in two bytes, config.json, and the tensors."""
    from hwgen.sw.models.open import open_directory
    from hwgen.sw.training.documents import train_tokenizer
    from tests.sw.conftest import SHAPE

    train_tokenizer(["Once upon a time there was a cat. The cat sat."], SHAPE.vocab).save(str(place / "tokenizer.json"))  # type: ignore[attr-defined]

    def run(data: bytes) -> object:
        end = 2 + int.from_bytes(data[:2], "little")
        (place / "config.json").write_bytes(data[2:end])
        (place / "model.safetensors").write_bytes(data[end:])
        return open_directory(place).load()

    return run


def fuzz(target: str, seconds: int, keep: Path) -> None:
    """Never returns: libFuzzer ends the process."""
    import atheris

    warnings.simplefilter("ignore")
    with atheris.instrument_imports(include=["hwgen"]):
        import hwgen.boards
        import hwgen.sw.compiler.image_file
        import hwgen.sw.models.chat_template
        import hwgen.sw.models.config_json
        import hwgen.sw.models.gguf
        import hwgen.sw.models.key_centers
        import hwgen.sw.models.open
        import hwgen.sw.models.tensors
        import hwgen.sw.runtime.session_file  # noqa: F401  # imported to be instrumented
    from hwgen.config import ConfigError
    from hwgen.errors import HwgenError

    seeds, place = Path(tempfile.mkdtemp()), Path(tempfile.mkdtemp())
    corpus(target, seeds)
    read = reader(target, place)
    for seed in seeds.iterdir():
        read(seed.read_bytes())  # every valid input is taken

    def one(data: bytes) -> None:
        with contextlib.suppress(HwgenError, ConfigError):
            read(data)

    largest = max(seed.stat().st_size for seed in seeds.iterdir())
    atheris.Setup([
        sys.argv[0], f"-max_total_time={seconds}", f"-rss_limit_mb={MEGABYTES}", f"-timeout={INPUT_SECONDS}",
        f"-max_len={2 * largest}", f"-artifact_prefix={keep}/{target}-", "-print_final_stats=1", str(seeds),
    ], one)
    atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; all if none is named")
    parser.add_argument("--seconds", type=int, default=600, help="for each target")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--keep", type=Path, default=Path("build/verify"))
    parser.add_argument("--one", choices=TARGETS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parents[1]))
    options.keep.mkdir(parents=True, exist_ok=True)
    if options.one:
        fuzz(options.one, options.seconds, options.keep)
    rows = []
    for target in options.targets or TARGETS:
        command = [sys.executable, __file__, "--one", target, "--seconds", str(options.seconds), "--keep", str(options.keep)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        runs = re.search(r"number_of_executed_units:\s*(\d+)", done.stderr)
        covered = re.findall(r"cov: (\d+)", done.stderr)
        wrong = re.findall(r"^(?: === Uncaught Python exception: ===\n.*|==\d+== ERROR: .*)", done.stderr, re.MULTILINE)
        rows.append({
            "target": target, "seconds": options.seconds, "inputs": int(runs[1]) if runs else 0,
            "covered": int(covered[-1]) if covered else 0, "passed": done.returncode == 0, "wrong": wrong[:1],
        })
        print(json.dumps(rows[-1]), flush=True)
        if done.returncode:
            print("\n".join(done.stderr.splitlines()[-40:]), file=sys.stderr, flush=True)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps({"targets": rows}, indent=1) + "\n")
    return 0 if all(row["passed"] for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
