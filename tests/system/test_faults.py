"""Verification notices broken hardware: one flipped bit in a unit, while an operator uses it, is reported and named.

The machine is deterministic, so a run without a fault tells when every operator runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache

import pytest

from hwgen.descriptors import Descriptor, Flag, Opcode
from hwgen.sw.devices.golden import GoldenDevice
from hwgen.sw.runtime.pass_trace import read_trace
from hwgen.sw.verification.lock_step import LockStep, Outcome

from .small import CONFIG, MEMORY_BYTES, PUBLIC, SHAPE, SmallDevice, small_image

#: Two passes: the second one has a cache to read, and reaches into a second block. 3 tokens are two rounds of the two lanes.
PROMPT, PASSES = (5, 40, 0, 17, 23, 8, 31, 2, 19), (6, 3)


@dataclass(frozen=True)
class Fault:
    """A bit of a register (or of one element of a memory), flipped in every cycle of an operator of the second pass."""

    #: End of its path.
    name: str
    bit: int
    opcode: Opcode
    #: Flags that the operator has.
    flags: Flag = Flag.NONE
    #: Of a memory: flipped once, because it keeps what it has.
    element: int | None = None
    #: Operator that is blamed, if it is not the one that runs.
    blamed: tuple[Opcode, ...] = ()

    def __str__(self) -> str:
        return f"{self.name}-{self.opcode.name}"


#: What enters the ring is for one of these, now or later.
READERS = (Opcode.LINEAR, Opcode.ATTENTION, Opcode.PARAM)

FAULTS = [
    Fault("linear.decoder_0.byte_5_trits_0", 0, Opcode.LINEAR),
    Fault("linear.lane_0_1.sum_2_1_0", 3, Opcode.LINEAR),
    Fault("linear.lane_0_0.accumulators_0", 2, Opcode.DRAIN, element=1, blamed=(Opcode.LINEAR,)),
    Fault("linear.lane_0_0.builder_3.entry", 1, Opcode.LINEAR),
    Fault("vector.lane_1.first.high2", 29, Opcode.NORM),
    Fault("vector.lane_3.first.high2", 29, Opcode.DRAIN),
    Fault("vector.lane_2.sigmoid.convert.shifted2", 16, Opcode.DRAIN, Flag.SILU),
    Fault("vector.scales.peak_0", 25, Opcode.NORM),
    Fault("vector.lane_2.quantizer.kept2", 4, Opcode.ROPE),
    Fault("attention.score_stage.dot.partial_0_3", 12, Opcode.ATTENTION),
    Fault("attention.softmax.exp2_0.base2", 15, Opcode.ATTENTION),
    Fault("attention.value_stage.lane_0.product_1_0", 20, Opcode.ATTENTION),
    Fault("attention.softmax.denominator.multiply.high2", 29, Opcode.ATTENTION),
    Fault("store.bank_1", 7, Opcode.KV_WRITE, element=0),
    Fault("kv_writer.slots", 5, Opcode.KV_WRITE),
    Fault("memory.reader.dispatcher.next_burst", 9, Opcode.ATTENTION, blamed=READERS),
    # Weights of the LINEAR behind it arrive beside NORM.
    Fault("memory.reader.port0.offer__slot", 2, Opcode.NORM, blamed=READERS),
    Fault("memory.reader.gatherer.write__data", 100, Opcode.NORM, blamed=READERS),
    Fault("memory.reader.ring.shown0", 100, Opcode.LINEAR),
    Fault("memory.reader.ring.shown0", 77, Opcode.ATTENTION, blamed=READERS),
    Fault("ranking.best.candidate", 24, Opcode.DRAIN, Flag.CANDIDATES),
    Fault("ranking.writer.gathered", 63, Opcode.DRAIN, Flag.CANDIDATES),
    Fault("vector.digits_1.multiply_add.result", 10, Opcode.DRAIN, Flag.DIGITS),
    Fault("attention.score_stage.dot.total_0_2", 10, Opcode.ATTENTION),
]


@dataclass(frozen=True)
class Run:
    """What happened, and ``(pass, operator, first cycle, last cycle)`` of every operator."""

    outcome: Outcome
    times: list[tuple[int, Descriptor, int, int]] = field(default_factory=list)


def run(fault: tuple[Fault, int, int] | None) -> Run:
    image, device = small_image(), SmallDevice()
    if fault is not None:
        what, begin, end = fault
        (name,) = (name for name in device.accelerator.public_names() if name.endswith(f".{what.name}"))
        cycles = end - begin if what.element is None else 1
        device.accelerator.flip_each_cycle(name, what.bit, begin, cycles, element=what.element or 0)
    step = LockStep(CONFIG, image, device, GoldenDevice(CONFIG, memory_bytes=MEMORY_BYTES))
    result = Run(step.outcome)
    done = 0
    for number, tokens in enumerate(PASSES):
        first = len(device.retired)
        passed = step.forward(list(PROMPT[done : done + tokens]), logits=True)
        if passed is None:
            break
        # Reading the trace takes time too, so every run does it.
        entries = read_trace(step.rtl_engine, "", passed.cycles).entries
        for (tag, end), entry in zip(device.retired[first:], entries, strict=True):
            assert tag == entry.tag
            result.times.append((number, image.descriptors[tag], end - (entry.end - entry.start), end))
        done += tokens
    return result


@cache
def control() -> Run:
    return run(None)


def operators(fault: Fault) -> Iterator[tuple[Descriptor, int, int]]:
    """The operators of the second pass, of the second layer or of the head, that a fault is meant for."""
    for number, d, begin, end in control().times:
        layer = SHAPE.layers if Flag.LOGITS in d.flags else 1
        if number == 1 and d.opcode is fault.opcode and d.layer == layer and fault.flags & d.flags == fault.flags:
            yield d, begin, end


def test_every_fault_is_public() -> None:
    assert {fault.name.rpartition(".")[2] for fault in FAULTS} == set(PUBLIC)


def test_without_a_fault() -> None:
    outcome = control().outcome
    assert outcome.mismatches == 0 and outcome.first is None
    assert outcome.passes == len(PASSES)


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_fault_is_named(fault: Fault) -> None:
    d, begin, end = next(operators(fault))
    outcome = run((fault, begin, end)).outcome
    assert outcome.mismatches > 0
    first = outcome.first
    assert first is not None
    assert first.operator in [blamed.name for blamed in fault.blamed or (fault.opcode,)]
    assert first.layer == d.layer
    start = 0 if d.opcode is Opcode.KV_WRITE else PASSES[0]  # a block of the cache counts from its first position
    assert start <= first.token < sum(PASSES)
    assert first.element >= 0 and first.rtl != first.golden
    assert f"operator {first.operator} (" in str(first)
    assert f"layer {first.layer}, token {first.token}, element {first.element}: rtl" in str(first)
