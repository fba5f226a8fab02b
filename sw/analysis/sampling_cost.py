"""What choosing a token from all logits takes the host: ``python -m hwgen.sw.analysis.sampling_cost``."""

from __future__ import annotations

import time

import numpy as np

from ..runtime.sampling import Sampler, Sampling

__all__ = ["main", "milliseconds"]

#: Ways to choose, by what a line of the report calls them.
WAYS = {
    "temperature 0.8": Sampling(temperature=0.8),
    "top-k 40": Sampling(temperature=0.8, top_k=40),
    "top-p 0.95": Sampling(temperature=0.8, top_p=0.95),
    "min-p 0.05": Sampling(temperature=0.8, min_p=0.05),
}


def milliseconds(sampling: Sampling, vocabulary: int, repeats: int = 15) -> tuple[float, float]:
    """Of one choice among random logits (spread 3), and of sorting the same logits: the shortest of ``repeats``."""
    logits = (3 * np.random.default_rng(0).standard_normal(vocabulary)).astype(np.float32)
    sampler = Sampler(sampling)
    chosen, sorted_ = [], []
    for _ in range(repeats):
        begin = time.perf_counter()
        sampler.choose(logits, [])
        middle = time.perf_counter()
        np.argsort(-logits.astype(np.float64), kind="stable")
        chosen.append(middle - begin)
        sorted_.append(time.perf_counter() - middle)
    return 1e3 * min(chosen), 1e3 * min(sorted_)


def main() -> None:
    for vocabulary in (32_002, 128_256):
        for name, sampling in WAYS.items():
            choice, sort = milliseconds(sampling, vocabulary)
            print(f"{vocabulary:>7,} tokens, {name:<16} {choice:5.2f} ms (sorting alone {sort:5.2f} ms)")


if __name__ == "__main__":
    main()
