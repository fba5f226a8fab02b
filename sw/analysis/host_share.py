"""What the host leaves of the tokens a second: passes by the model of a pass, the host's part as `host_cost` counted it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["HOSTS", "MEASURED", "SEQUENCES", "describe_host", "host_json"]

#: What ``python -m hwgen.sw.analysis.host_cost --write`` counted.
MEASURED = Path(__file__).with_name("host_cost.json")

#: Answers at a time, in what was counted.
SEQUENCES = (1, 24)

#: Instructions a second of host processors, as a plan takes them: a Cortex-A53 of a Kria runs Python and numpy about ten times
#: slower than the computers the instructions were counted on.
HOSTS = {"a53": 0.6e9}


def between(counts: dict[str, int], sequences: int) -> float:
    """Instructions a token with so many answers, on a straight line between those that were counted."""
    one, many = SEQUENCES
    share = min(1.0, (sequences - one) / (many - one))
    return counts[str(one)] + share * (counts[str(many)] - counts[str(one)])


def host_json(host: str, sequences: int, pass_seconds: float) -> dict[str, Any]:
    """Of passes that give a token to each of ``sequences`` answers: what is left when the host works between them."""
    measured = json.loads(MEASURED.read_text(encoding="utf-8"))
    rate, ways = HOSTS[host], {}
    for way, counts in measured["counts"].items():
        instructions = between(counts, sequences)
        seconds = pass_seconds + sequences * instructions / rate
        ways[way] = {
            "instructions_per_token": round(instructions), "host_s_per_token": instructions / rate, "tok_s": sequences / seconds,
            "remains": pass_seconds / seconds,
        }
    return {"name": host, "instructions_per_s": rate, "vocabulary": measured["vocabulary"], "how": measured["how"], "ways": ways}


def describe_host(result: dict[str, Any]) -> list[str]:
    """The same for people."""
    ways = result["ways"]
    head = (
        f"host     {result['name']} at {result['instructions_per_s'] / 1e9:g} G instructions a second, {result['vocabulary']:,} "
        f"tokens ({result['how']}); tokens/s that remain:"
    )
    return [head, *(
        f"  {way:12} {row['instructions_per_token']:9,} instructions a token: {row['tok_s']:8.2f} tokens/s, {row['remains']:.1%}"
        for way, row in ways.items()
    )]
