"""What a phase of an answer took."""

from __future__ import annotations

from dataclasses import dataclass

from .runs import PassResult

__all__ = ["Phase"]


@dataclass
class Phase:
    """Sums over the passes of prefill or of decode. A pass that others share counts whole: that long the answer took."""

    tokens: int = 0
    cycles: int = 0
    stream_beats: int = 0
    wall_s: float = 0.0

    def add(self, result: PassResult, tokens: int, wall_s: float) -> None:
        self.tokens += tokens
        self.cycles += result.cycles
        self.stream_beats += result.stream_beats
        self.wall_s += wall_s

    def seconds(self, clock_mhz: float) -> float | None:
        """Time at the fabric clock; None where no cycles were counted."""
        return self.cycles / (clock_mhz * 1e6) if self.cycles else None

    def rate(self, clock_mhz: float) -> float | None:
        """Tokens a second at the fabric clock."""
        seconds = self.seconds(clock_mhz)
        return self.tokens / seconds if seconds else None

    @property
    def port_utilisation(self) -> float:
        """Share of the cycles in which the ring took a beat."""
        return self.stream_beats / self.cycles if self.cycles else 0.0
