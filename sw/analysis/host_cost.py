"""What the host does around a pass, in instructions: ``python -m hwgen.sw.analysis.host_cost``.

The scheduler, the engine and the sampler run as ever, on a device that answers at once; its logits are those of a vocabulary of
128,256 tokens. Valgrind counts every instruction of the process between two marks. Numpy is held to vectors of 128 bits, which a
Cortex-A53 has too; the instructions are those of x86 all the same, and stand for those of the other processor.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...boards import load_board
from ...config import BuildConfig
from ...contract import CONTRACT_VERSION, contract_hash
from ...published import published_model
from ...registers import CHOSEN_TOKENS, MAGIC, Control, Status, register_map
from ..compiler.image import Image
from ..devices.device import Allocator, Bytes
from ..runtime.drafts import Drafter
from ..runtime.engine import Engine
from ..runtime.generation import Generation
from ..runtime.jobs import Job
from ..runtime.kv_arrays import with_cache_tokens
from ..runtime.pages import Session
from ..runtime.running_loop import LOOP_PASSES
from ..runtime.sampling import Sampling
from ..runtime.scheduler import Scheduler
from .estimate import planned_image
from .host_share import MEASURED, SEQUENCES

__all__ = ["WAYS", "main"]

#: Tokens of the vocabulary: those of BitNet b1.58 2B4T and Llama 3.
VOCABULARY = 128_256

#: Ways to choose a token, by what a line calls them.
WAYS = {
    "greedy": Sampling(),
    "temperature": Sampling(temperature=0.8),
    "top-k": Sampling(temperature=0.8, top_k=40),
    "top-p": Sampling(temperature=0.8, top_p=0.95),
    "penalties": Sampling(temperature=0.8, repetition_penalty=1.1, presence_penalty=0.5, frequency_penalty=0.5),
}

#: Tokens of a prompt, passes before counting begins, and passes of all answers together that are counted: looks at logits are
#: few or many by chance.
PROMPT, BEFORE, COUNTED = 128, 2, 360

#: Passes before the same tokens come again: `instant_engine` is there once for all ways to choose.
PASSES = 2000

#: Bits of registers, as numbers: flags are slow, and what stands for the machine is counted with the host.
_START, _DONE = int(Control.START), int(Status.DONE)

#: Instructions a second that CPU time is multiplied with where nothing counts them: a guess for the computers this was written on.
GUESSED_RATE = 4e9


def peaked_logits(count: int, seed: int) -> npt.NDArray[np.float32]:
    """As of a language model that knows what comes: the token of rank r is r^-1.5 as likely as the best (which has 38%)."""
    random = np.random.default_rng(seed)
    logits = (10 - 1.5 * np.log(np.arange(1, count + 1))).astype(np.float32)
    return random.permutation(logits)


class NoEmbedding:
    """Rows of zeros in place of an embedding."""

    def __init__(self, hidden: int) -> None:
        self._hidden = hidden

    def gather(self, tokens: Sequence[int]) -> npt.NDArray[np.uint16]:
        return np.zeros((len(tokens), self._hidden), np.uint16)


class InstantDevice:
    """Computes nothing and answers at once. Every wanted token of every pass has the same logits, of other tokens each time: what
    comes does not repeat, and no draft is right.
    """

    name = "instant"
    simulated = True

    def __init__(self, config: BuildConfig, logits: npt.NDArray[np.float32], rows: int, row_bytes: int) -> None:
        self.config = config
        self._allocator = Allocator(Allocator.STEP, 1 << 40)
        registers = {row.name: row for row in register_map(config)}
        self._offsets = {name: row.offset for name, row in registers.items()}
        #: Registers: a list, since what stands for the machine is counted with the host.
        self._words = [0] * (max(row.offset + row.count * row.step for row in registers.values()) // 4)
        code = contract_hash(config)
        identity = {"MAGIC": MAGIC, "VERSION": CONTRACT_VERSION, "HASH_LOW": code & 0xFFFFFFFF, "HASH_HIGH": code >> 32}
        for name, value in identity.items():
            self._words[self._offsets[name] // 4] = value
        #: The logits twice, one behind the other, and where those of a pass and row begin.
        self._logits, self._row_bytes = np.concatenate((logits, logits)).view(np.uint8), row_bytes
        self._begins = np.random.default_rng(0).integers(0, logits.size, (PASSES, rows))
        best = np.argsort(-logits, kind="stable")[: config.topk]
        tokens = (best - self._begins[..., None]) % logits.size
        scores = np.broadcast_to(logits[best].view(np.uint32), tokens.shape)
        #: Behind the wanted tokens of every pass, as TOPK has them.
        self._candidates = np.stack((tokens.astype(np.uint32), scores), -1).reshape(PASSES, -1)
        self._loop, self._control, self._status, self._count = (
            self._offsets[name] for name in ("LOOP", "CONTROL", "STATUS", "CHOSEN_COUNT")
        )
        self._places = range(self._offsets["CHOSEN"], self._offsets["CHOSEN"] + 4 * CHOSEN_TOKENS, 4)
        self._topk, self._address = self._offsets["TOPK"], self._offsets["LOGITS_LOW"] // 4
        #: Passes that are still to come, the one that was last, its runs, what was chosen, and the best tokens of every pass.
        self._left = self._pass = self._runs = 0
        self._chosen: list[int] = []
        self._best: list[list[int]] = tokens[..., 0].tolist()

    def allocate(self, size: int) -> int:
        return self._allocator.allocate(size)

    def clear(self) -> None:
        self._allocator.clear()

    def write(self, address: int, data: Bytes) -> None:
        data.copy()  # what a board does with it

    def fill(self, address: int, size: int, read: Callable[[Bytes], None]) -> None:
        return

    def read(self, address: int, size: int) -> Bytes:
        return self.view(address, size).copy()

    def view(self, address: int, size: int) -> Bytes:
        low, high = self._words[self._address : self._address + 2]
        base = high << 32 | low
        first = 4 * self._begins[self._pass, (address - base) // self._row_bytes]
        return self._logits[first : first + size]

    def write_register(self, offset: int, value: int) -> None:
        if offset == self._loop:  # of one that runs too
            self._left = min(self._left, value)
        elif offset == self._control:
            if value == _START:
                self._left, self._chosen = max(1, self._words[self._loop // 4]), []
                self._runs = self._words[self._offsets["RUNS"] // 4]
            value, offset = _DONE if value == _START else 0, self._status
        self._words[offset // 4] = value

    def read_register(self, offset: int) -> int:
        return len(self._chosen) if offset == self._count else self._words[offset // 4]

    def read_registers(self, offset: int, count: int) -> list[int]:
        if offset in self._places:
            first = self._places.index(offset)
            return self._chosen[first : first + count]
        if offset == self._topk:
            candidates: list[int] = self._candidates[self._pass, :count].tolist()
            return candidates
        return self._words[offset // 4 : offset // 4 + count]

    def wait(self, timeout: float, look: Callable[[], bool] | None = None) -> bool:
        while self._left:
            self._left -= 1
            self._pass = (self._pass + 1) % PASSES
            self._chosen += self._best[self._pass][: self._runs]
            if self._left and look is not None and look():
                return False
        return True

    def stop(self) -> None:
        return


@cache
def instant_engine(sequences: int) -> Engine:
    """2B4T's sizes on kv260, with pages for so many answers."""
    published = published_model("bitnet-2b4t")
    config = load_board("kv260").for_engine(published.engine).config
    image: Image = planned_image(config, replace(published.shape, layers=1), published.engine)
    costs = ([1, image.chunk], [1e6, 2e6], [1e6, 2e6], 1e3)  # as an image file has them: their sizes do not matter here
    image = replace(image, embedding=NoEmbedding(published.shape.hidden), stored_costs=costs)
    image = with_cache_tokens(image, max(image.context, 256 * sequences))
    return Engine(InstantDevice(config, peaked_logits(image.shape.vocab, 0), image.chunk, image.logits_bytes), image)


def mark() -> None:
    """Where a count ends and the next begins: valgrind is told to look out for this call."""
    os.getsid(0)


def count(sampling: Sampling, sequences: int, marked: Callable[[], None]) -> int:
    """Run answers with ``marked`` called around the passes that are counted; the tokens they give."""
    engine = instant_engine(sequences)
    scheduler = Scheduler(engine, max_running=sequences, loop_passes=LOOP_PASSES)
    tokens = [0]

    def on_token(item: object) -> None:
        tokens[0] += 1

    for number in range(sequences):
        prompt = np.random.default_rng(number).integers(0, VOCABULARY, PROMPT).tolist()
        session = Session()
        engine.adopt(session, prompt[:-1])
        generation = Generation(
            engine, prompt[-1:], 1000, replace(sampling, seed=number), session=session, drafter=Drafter(engine.costs)
        )
        scheduler.submit(Job(generation, on_token, lambda error: None))
    for _ in range(BEFORE):
        scheduler.step()
    first = tokens[0]
    marked()
    while tokens[0] - first < COUNTED:
        scheduler.step()
    marked()
    scheduler.close()
    return tokens[0] - first


def cases() -> list[tuple[str, int]]:
    """Way to choose, answers at a time."""
    return [(way, sequences) for way in WAYS for sequences in SEQUENCES]


def inside() -> None:
    """All cases, with marks; the tokens of each as JSON."""
    print(json.dumps([count(WAYS[way], sequences, mark) for way, sequences in cases()]))


def counted_by_valgrind() -> list[float]:
    """Instructions a token of every case."""
    wider = import_module("numpy.core._multiarray_umath").__cpu_dispatch__
    # a copy by "rep movsb" would count as an instruction a byte
    environment = {
        **os.environ, "GLIBC_TUNABLES": "glibc.cpu.x86_rep_movsb_threshold=1000000000", "OPENBLAS_NUM_THREADS": "1",
        "NPY_DISABLE_CPU_FEATURES": " ".join(wider),
    }
    with tempfile.TemporaryDirectory() as directory:
        command = [
            "valgrind", "--tool=callgrind", "--dump-before=getsid", f"--callgrind-out-file={directory}/out",
            sys.executable, "-W", "ignore", "-m", "hwgen.sw.analysis.host_cost", "--inside",
        ]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        tokens = json.loads(done.stdout.splitlines()[-1])
        dumps = [total_of(Path(directory) / f"out.{2 * (i + 1)}") for i in range(len(tokens))]
    return [instructions / number for instructions, number in zip(dumps, tokens, strict=True)]


def total_of(path: Path) -> int:
    """Instructions of one dump."""
    lines = [line for line in path.read_text().splitlines() if line.startswith(("totals:", "summary:"))]
    return int(lines[-1].split()[1])


def guessed() -> list[float]:
    """CPU time of every case, the shortest of a few, at a guessed rate."""
    def measure(way: str, sequences: int) -> float:
        times: list[float] = []
        tokens = count(WAYS[way], sequences, lambda: times.append(time.process_time()))
        return GUESSED_RATE * (times[1] - times[0]) / tokens

    return [min(measure(*case) for _ in range(5)) for case in cases()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--write", action="store_true", help="keep the counts for `hwgen estimate --host`")
    parser.add_argument("--time", action="store_true", help="in place of counting: CPU time at a guessed rate")
    options = parser.parse_args()
    if options.inside:
        inside()
        return
    valgrind = shutil.which("valgrind") is not None and not options.time
    found = counted_by_valgrind() if valgrind else guessed()
    how = "counted by valgrind" if valgrind else f"CPU time at a guessed {GUESSED_RATE / 1e9:g} G instructions a second"
    result: dict[str, Any] = {"how": how, "vocabulary": VOCABULARY, "counts": {}}
    print(f"instructions a token, {VOCABULARY:,} tokens, {how}")
    for (way, sequences), instructions in zip(cases(), found, strict=True):
        print(f"{way:12} {sequences:3} sequences {instructions:12,.0f}")
        result["counts"].setdefault(way, {})[str(sequences)] = round(instructions)
    if options.write:
        MEASURED.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
