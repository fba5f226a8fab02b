"""Runs every proof of tests/formal and records what was proven, how deep, and how long it took.

    python tools/prove.py --out build/verify/formal.json
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.formal.proofs import PROOFS
from tests.formal.prover import prove


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seconds", type=int, default=900, help="longest time of a proof")
    parser.add_argument("names", nargs="*", help="only these")
    options = parser.parse_args()
    rows = []
    for claim in PROOFS:
        if options.names and claim.name not in options.names:
            continue
        begin, bench = time.monotonic(), claim.bench()
        try:
            proof = prove(bench, claim.mode, claim.depth, seconds=options.seconds)
            passed, reached, text = proof.passed and proof.reached >= claim.covers, proof.reached, proof.text
        except subprocess.TimeoutExpired:
            passed, reached, text = False, 0, "out of time"
        rows.append({
            "name": claim.name, "mode": claim.mode, "depth": claim.depth, "passed": passed, "covers": reached,
            "seconds": round(time.monotonic() - begin, 1), "what": " ".join((bench.__doc__ or "").split()),
        })
        print(json.dumps({key: value for key, value in rows[-1].items() if key != "what"}), flush=True)
        if not passed:
            print(text, file=sys.stderr, flush=True)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps({"proofs": rows}, indent=1) + "\n")
    return 0 if all(row["passed"] for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
