"""What opening an image file takes: ``python -m hwgen.sw.analysis.image_load``.

A model of published size with random weights is written to an image file. Then a process of its own puts it into buffers, anonymous
memory that stands for the contiguous memory of a board, with the code that does so for every device. Printed are its memory beside
the buffers and its time, against that of ``cat FILE > /dev/null``; before every reading the file is dropped from the page cache.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from ...boards import load_board
from ...published import PUBLISHED, published_model
from ..compiler.compile import HEADS, plan_image
from ..compiler.image_file import load_image, save_image
from ..devices.device import Bytes, windows
from ..models.open import IMAGE_SUFFIX
from ..models.random_model import RandomModel
from ..runtime.image_memory import ImageMemory

__all__ = ["HostBuffers", "describe", "load", "main", "measure"]


class HostBuffers:
    """The memory of a device, and nothing else of it: every buffer is anonymous memory of this process."""

    def __init__(self) -> None:
        self._buffers: dict[int, Bytes] = {}
        self._next = 4096
        #: Bytes of all buffers, and seconds that the kernel took to make them.
        self.bytes, self.seconds = 0, 0.0

    def allocate(self, size: int) -> int:
        address, self._next = self._next, self._next + (size + 4095) // 4096 * 4096
        begin = time.monotonic()
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE  # there at once, as contiguous memory is
        self._buffers[address] = np.frombuffer(mmap.mmap(-1, size, flags), np.uint8)
        self.seconds += time.monotonic() - begin
        self.bytes += size
        return address

    def fill(self, address: int, size: int, read: Callable[[Bytes], None]) -> None:
        for window in windows(self._buffers[address][:size]):
            read(window)

    def write(self, address: int, data: Bytes) -> None:
        self._buffers[address][: data.size] = data.reshape(-1)


def load(path: Path) -> dict[str, Any]:
    """Open an image and fill the buffers in this process: seconds without those that the kernel took to make them, and most bytes
    of memory beside them.
    """
    begin = time.monotonic()
    buffers, image = HostBuffers(), load_image(path).image
    memory = ImageMemory(buffers, image)  # type: ignore[arg-type]  # memory is all that is asked of a device
    memory.write_rows([0] * image.chunk)
    seconds = time.monotonic() - begin - buffers.seconds
    peak = 1024 * int(re.findall(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)[0])
    return {"seconds": seconds, "beside_bytes": peak - buffers.bytes, "constants_bytes": image.constants.bytes,
            "contiguous_bytes": image.contiguous_bytes}


def _forget(path: Path) -> None:
    """Drop a file from the page cache."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _cat(path: Path) -> float:
    """Seconds that ``cat`` takes for a file."""
    _forget(path)
    begin = time.monotonic()
    subprocess.run(["cat", str(path)], stdout=subprocess.DEVNULL, check=True)
    return time.monotonic() - begin


def _load_elsewhere(path: Path) -> dict[str, Any]:
    """:func:`load` in a process of its own."""
    _forget(path)
    command = [sys.executable, "-m", "hwgen.sw.analysis.image_load", "--load", str(path)]
    return dict(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def measure(path: Path, pairs: int = 9) -> dict[str, Any]:
    """Times and memory of opening an image file that is there. Opening it and ``cat`` take turns, and which is first does too: on a
    busy machine only neighbours can be compared. The medians of times, and of the shares of pairs.
    """
    runs, cats = [], []
    for number in range(pairs):
        if number % 2:
            cats.append(_cat(path))
        runs.append(_load_elsewhere(path))
        if not number % 2:
            cats.append(_cat(path))
    size, constants = path.stat().st_size, runs[0]["constants_bytes"]
    rates, plain = [constants / run["seconds"] for run in runs], [size / seconds for seconds in cats]
    return {
        **runs[0], "pairs": pairs, "file_bytes": size,
        "seconds": median(run["seconds"] for run in runs), "cat_seconds": median(cats),
        "bytes_per_s": median(rates), "cat_bytes_per_s": median(plain),
        "share": median(rate / beside for rate, beside in zip(rates, plain, strict=True)),
        "beside_bytes": max(run["beside_bytes"] for run in runs),
    }


def describe(result: dict[str, Any]) -> list[str]:
    """The result for people."""
    rate, plain = result["bytes_per_s"] / 1e6, result["cat_bytes_per_s"] / 1e6
    return [
        f"{result['shape']} for {result['board']}, random weights: file of {result['file_bytes']:,} bytes, written in "
        f"{result['write_s']:.0f} s; contiguous memory {result['contiguous_bytes'] / 1e6:,.0f} MB",
        f"opened, and buffers filled with {result['constants_bytes']:,} bytes, in {result['seconds']:.2f} s: {rate:,.0f} MB/s; "
        f"cat {plain:,.0f} MB/s: {result['share']:.0%} of it (medians of {result['pairs']} pairs)",
        f"memory beside the buffers: {result['beside_bytes'] / 1e6:.0f} MB at most",
    ]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m hwgen.sw.analysis.image_load", description=__doc__)
    parser.add_argument("--board", default="kv260", help="shipped name or path of a board.json")
    parser.add_argument("--shape", default="bitnet-2b4t", choices=PUBLISHED, help="published sizes")
    parser.add_argument("--head", default="shortlist", choices=HEADS)
    parser.add_argument("--context", type=int, default=2048, metavar="N")
    parser.add_argument("--directory", type=Path, help="where the file is written, and removed at the end")
    parser.add_argument("--load", type=Path, metavar="FILE", help="only open this image, in this process")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    if options.load is not None:
        print(json.dumps(load(options.load)))
        return 0
    model = published_model(options.shape)
    board = load_board(options.board).for_engine(model.engine)
    weights: Any = RandomModel(replace(model.shape, max_context=options.context), model.layer, model.engine)
    with tempfile.TemporaryDirectory(dir=options.directory) as folder:
        path, begin = Path(folder) / f"{options.shape}{IMAGE_SUFFIX}", time.monotonic()
        image = plan_image(board.config, weights, name=options.shape, head=options.head)
        save_image(path, image, None, board, options.head, lambda text: print(text, file=sys.stderr, flush=True))
        result = {"shape": options.shape, "board": board.name, "write_s": time.monotonic() - begin, **measure(path)}
    if options.json:
        print(json.dumps(result))
        return 0
    for line in describe(result):
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
