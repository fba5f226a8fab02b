"""What is proven, how deep, and where: quick proofs run with the tests, all of them with `make regress` and `tools/prove.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .benches import Beats, Fair, Merge, Program, Reader, Registers, Splitter, Writer
from .float_benches import LAST, Add
from .prover import Bench
from .ring_benches import Gather, Ring

__all__ = ["PROOFS", "Claim"]


@dataclass(frozen=True)
class Claim:
    """One run of the prover."""

    name: str
    bench: Callable[[], Bench]
    #: "prove" (for ever), "bmc" (so many cycles behind reset) or "cover" (the bench can do what it is about).
    mode: str
    depth: int
    #: It takes seconds.
    quick: bool = False
    #: Cover statements that must be reached.
    covers: int = 0


PROOFS = (
    Claim("merge", Merge, "prove", 3, quick=True),
    Claim("merge", Merge, "cover", 8, covers=2),
    Claim("turns", Fair, "bmc", 12, quick=True),
    Claim("turns", Fair, "cover", 6, covers=1),
    Claim("beats", Beats, "bmc", 12, quick=True),
    Claim("beats", Beats, "cover", 6, covers=1),
    Claim("gatherer", Gather, "prove", 8, quick=True),
    Claim("gatherer", Gather, "cover", 10, covers=1),
    Claim("ring", Ring, "bmc", 12, quick=True),
    Claim("ring, deeper", Ring, "bmc", 20),
    Claim("ring", Ring, "cover", 20, covers=3),
    Claim("sums of middle size", lambda: Add(100, 4), "bmc", 7),
    Claim("sums of middle size", lambda: Add(100, 4), "cover", 8, covers=2),
    Claim("sums that vanish", lambda: Add(2, 4), "bmc", 7),
    Claim("sums that overflow", lambda: Add(LAST - 3, 4), "bmc", 7),
    Claim("registers", Registers, "bmc", 12),
    Claim("registers", Registers, "cover", 8, covers=2),
    Claim("splitter", Splitter, "bmc", 14),
    Claim("splitter", Splitter, "cover", 14, covers=2),
    Claim("interleaving splitter", lambda: Splitter(2, 2), "bmc", 14),
    Claim("interleaving splitter", lambda: Splitter(2, 2), "cover", 16, covers=3),
    Claim("read port", Reader, "bmc", 12),
    Claim("read port", Reader, "cover", 20, covers=3),
    Claim("write port", Writer, "bmc", 9),
    Claim("write port", Writer, "cover", 20, covers=3),
    Claim("program reader", Program, "bmc", 12),
    Claim("program reader", Program, "cover", 20, covers=2),
)
