"""Peak memory of a command on a checkpoint of full size with random weights, each command in a process of its own.

    python tools/model_memory.py bitnet-2b4t --limit-gb 6

BitNet checkpoints are packed as that of 2B4T is, llama checkpoints hold bfloat16 (and are made 4-bit while they are read).
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
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hwgen.published import PublishedModel, published_model
from hwgen.sw.models.bitnet import GAIN_PLACES
from hwgen.sw.models.config_json import MATRIX_PLACES, config_of
from hwgen.sw.models.library import find_model
from hwgen.sw.models.tensors import write_tensors

Tensor = tuple[str, Any]


class RandomTensors(Mapping[str, Tensor]):
    """Tensors of a checkpoint, each drawn when it is asked for; the same ones again."""

    def __init__(self, model: PublishedModel) -> None:
        s, layer, packed = model.shape, model.layer, model.engine == "ternary"
        self._sizes: dict[str, tuple[str, tuple[int, ...]]] = {
            "model.embed_tokens.weight": ("BF16", (s.vocab, s.hidden)), "model.norm.weight": ("BF16", (s.hidden,)),
        }
        for i in range(s.layers):
            prefix = f"model.layers.{i}"
            for name, (rows, inputs) in layer.matrices(s).items():
                place = f"{prefix}.{MATRIX_PLACES[name]}.weight"
                self._sizes[place] = ("U8", (rows // 4, inputs)) if packed else ("BF16", (rows, inputs))
                if packed:
                    self._sizes[f"{place}_scale"] = "BF16", (1,)
            for name, size in layer.norms(s).items():
                self._sizes[f"{prefix}.{GAIN_PLACES[name][0] if packed else name}.weight"] = "BF16", (size,)

    def __len__(self) -> int:
        return len(self._sizes)

    def __iter__(self) -> Iterator[str]:
        return iter(self._sizes)

    def __getitem__(self, name: str) -> Tensor:
        kind, shape = self._sizes[name]
        rng = np.random.default_rng(len(name) + sum(map(ord, name)))
        if kind == "U8":
            digits = rng.integers(0, 81, shape, dtype=np.uint8)  # four digits of base 3
            return kind, sum((digits // 3**n % 3 << 2 * n for n in range(4)), np.zeros(shape, np.uint8))
        # magnitudes from 2^-6 to 2^-4, any sign; scales are positive
        bits = rng.integers(0, 1 << 16, shape, dtype=np.uint16)
        return kind, (bits & (0x00FF if name.endswith("_scale") else 0x80FF)) | np.uint16(0x3C80)


def write_checkpoint(out: Path, model: PublishedModel) -> None:
    bitnet = model.engine == "ternary"
    packed = {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "offline"}
    config = {
        "model_type": "bitnet" if bitnet else "llama", **config_of(model.shape),
        **({"quantization_config": packed} if bitnet else {}),
    }
    (out / "config.json").write_text(json.dumps(config))
    shutil.copy(find_model("stories") / "tokenizer.json", out / "tokenizer.json")
    write_tensors(out / "model.safetensors", RandomTensors(model))


def measure(command: list[str], cache: str) -> tuple[float, float, int]:
    """Peak memory in GB, seconds and exit code of a command."""
    begin = time.monotonic()
    child = subprocess.Popen([sys.executable, "-m", "hwgen.sw.cli.main", *command], env={**os.environ, "HWGEN_CACHE": cache})
    _, status, usage = os.wait4(child.pid, 0)
    return usage.ru_maxrss * 1024 / 1e9, time.monotonic() - begin, os.waitstatus_to_exitcode(status)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="bitnet-2b4t", help="a published size")
    parser.add_argument("--limit-gb", type=float, default=6.0, metavar="GB", help="fail above this")
    parser.add_argument("--board", default="kv260", help="to compile for")
    options = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory(prefix="hwgen-memory-") as folder:
        path = Path(folder) / options.model
        path.mkdir()
        write_checkpoint(path, published_model(options.model))
        size = (path / "model.safetensors").stat().st_size / 1e9
        print(f"{options.model}: {size:.2f} GB of random weights", flush=True)
        command = ["compile", str(path), "--out", f"{folder}/m.hwimage", "--board", options.board]
        for text in ("first time", "again"):
            peak, seconds, code = measure(command, f"{folder}/cache")
            print(f"hwgen compile, {text}: {peak:.2f} GB at most, {seconds:.0f} s, exit code {code}", flush=True)
            failed |= code != 0 or peak > options.limit_gb
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
