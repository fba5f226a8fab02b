"""ReadMerge: two masters share a port without losing, mixing or delaying each other's words."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import cocotb

from hwgen.hw.axi.merge import ReadMerge
from tests.cocotb_runner import run_cocotb
from tests.hw.axi.bench import AxiMemory, Bench, pattern

WORD = 16


class Master:
    """Issues reads one after the other and collects the words of each."""

    def __init__(self, bench: Bench, prefix: str, requests: list[tuple[int, int]], rate: float) -> None:
        self.bench, self.requests, self.rate = bench, requests, rate
        fields = ("valid", "ready", "addr", "id", "len", "size", "burst")
        self.ar = {name: getattr(bench.dut, f"{prefix}__ar__{name}") for name in fields}
        self.r = {name: getattr(bench.dut, f"{prefix}__r__{name}") for name in ("valid", "ready", "data", "last", "resp")}
        self.offered = False
        self.issued = 0
        self.bursts: list[list[bytes]] = [[]]
        bench.agents.append(self)

    def drive(self) -> None:
        if not self.offered and self.issued < len(self.requests) and self.bench.random.random() < self.rate:
            address, words = self.requests[self.issued]
            for name, value in (("addr", address), ("len", words - 1), ("size", 4), ("burst", 1), ("id", 0)):
                self.ar[name].value = value
            self.offered = True
        self.ar["valid"].value = int(self.offered)
        self.r["ready"].value = int(self.bench.random.random() < self.rate)

    def sample(self) -> None:
        if self.offered and self.ar["ready"].value:
            self.offered = False
            self.issued += 1
        if self.r["valid"].value and self.r["ready"].value:
            self.bursts[-1].append(int(self.r["data"].value).to_bytes(WORD, "little"))
            if self.r["last"].value:
                self.bursts.append([])


@cocotb.test()
async def keeps_masters_apart(dut: Any) -> None:
    for seed, rate in ((1, 1.0), (2, 0.5)):
        bench = Bench(dut, seed)
        memory = pattern(1 << 14)
        port = AxiMemory(bench, "port", memory, WORD, max_words=16, rate=rate, latency=6, write=False)
        masters = []
        for prefix, share in (("low", 1.0), ("high", 0.3)):
            requests = [(256 * bench.random.randrange(64), bench.random.randint(1, 16)) for _ in range(40)]
            masters.append(Master(bench, prefix, requests, rate * share))
        await bench.start()
        await bench.until(lambda masters=masters: all(len(m.bursts) == 41 for m in masters))
        for master in masters:
            expected = [[bytes(memory[a + WORD * i : a + WORD * (i + 1)]) for i in range(n)] for a, n in master.requests]
            assert master.bursts[:-1] == expected
        by_id = [[r["addr"] for r in port.requests if r["id"] == number] for number in (0, 1)]
        assert by_id == [[a for a, _ in master.requests] for master in masters]


def test_merge(tmp_path: Path) -> None:
    run_cocotb(partial(ReadMerge, 8 * WORD), test_module=__name__, build_dir=tmp_path)
