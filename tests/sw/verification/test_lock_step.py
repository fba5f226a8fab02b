"""The lock-step comparison itself, against a stand-in for the Verilated accelerator: a second golden machine whose state is shown
through mirrors as ``hwgen.probes`` describes them, and which can be made to err."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from hwgen.config import BuildConfig
from hwgen.descriptors import Descriptor, Flag, Opcode
from hwgen.errors import HwgenError
from hwgen.golden.machine import GoldenMachine
from hwgen.probes import probes
from hwgen.rounding import ceil_div
from hwgen.sw.devices.device import DeviceTimeout
from hwgen.sw.devices.golden import GoldenDevice
from hwgen.sw.verification.lock_step import Outcome, verify_model
from hwgen.weights import ModelWeights

from ..conftest import CONFIG, SHAPE

Fault = Callable[[Descriptor, GoldenMachine], None]


class StandIn(GoldenDevice):
    """A golden machine behind the interface of a stepped device. ``fault`` runs after every operator.

    Operators with an opcode of ``late`` end behind that many operators that follow them, one at a time.
    """

    def __init__(
        self, config: BuildConfig, fault: Fault = lambda d, machine: None, late: Mapping[Opcode, int] | None = None
    ) -> None:
        super().__init__(config, memory_bytes=1 << 22)
        self.fault = fault
        self.late = late or {}
        #: Tags in the order in which the operators ended.
        self.ended: list[int] = []
        #: Tag of the operator that has not ended yet, and how many may end before it.
        self._unended: tuple[int, int] | None = None
        self.mirrors = {
            p.name: np.zeros((p.depth, p.lanes), f"u{1 << max(0, (p.word_bits - 1).bit_length() - 3)}")
            for p in probes(config)
        }
        self._steps: Iterator[Descriptor] = iter(())

    def write_register(self, offset: int, value: int) -> None:
        if self.machine.registers.write(offset, value):
            self._steps = self.machine.steps()

    def next_operator(self) -> int:
        self.ended.append(self._next_operator())
        return self.ended[-1]

    def _next_operator(self) -> int:
        while True:
            d = next(self._steps, None) if self._unended is None or self._unended[1] else None
            if d is None:
                if self._unended is None:
                    raise DeviceTimeout("nothing moves")
                (tag, _), self._unended = self._unended, None
                return tag
            self.fault(d, self.machine)
            self.show(d)
            if self._unended is not None:
                self._unended = self._unended[0], self._unended[1] - 1
            elif d.opcode in self.late:
                self._unended = d.tag, self.late[d.opcode]
                continue
            return d.tag

    def wait(self, timeout: float, look: Callable[[], bool] | None = None) -> bool:
        assert next(self._steps, None) is None  # lets the machine end its pass
        return super().wait(timeout, look)

    def mirror(self, name: str) -> np.ndarray:
        return self.mirrors[name]

    def show(self, d: Descriptor) -> None:
        """Copy the state of the machine to the places that the probes document."""
        c, g, m = self.config, self.machine, self.mirrors
        m["scratch"][:] = g.scratch.view(np.uint32)
        m["param"][:] = g.param.view(np.uint32)
        if d.opcode is Opcode.NORM:
            m["act"][:] = g.activation.view(np.uint8).reshape(-1, c.width)
            m["query"][: c.max_inputs // c.width] = g.head_query.view(np.uint8).reshape(-1, c.width)
            m["query_scale"][0] = g.head_scale.view(np.uint32)
        if d.opcode is Opcode.DRAIN:
            mask = (1 << c.acc_bits) - 1
            m["acc"][:] = (g.accumulator & mask).reshape(-1, c.width)
        if d.opcode is Opcode.ROPE:
            group, v = d.heads // d.kv_heads, d.head_vectors
            for t in range(g.first, g.first + g.count):
                for h in range(d.heads):
                    slot = (t * group + h % group) * d.kv_heads + h // group
                    m["query"][slot * v : (slot + 1) * v] = (
                        g.query[t, h, : v * c.width].view(np.uint8).reshape(v, c.width)
                    )
                    m["query_scale"][slot] = g.query_scale[t, h].view(np.uint32)
            for bank in range(c.chunk):
                for kind in range(2):
                    for head in range(d.kv_heads):
                        at = (bank * 2 + kind) * c.max_kv_heads + head
                        first = at * (c.max_head_dim // c.width)
                        m["kv"][first : first + v] = (
                            g.kv_store[kind, bank, head, : v * c.width].view(np.uint8).reshape(v, c.width)
                        )
                        m["kv_scale"][at] = g.kv_scale[kind, bank, head]


def check(
    weights: ModelWeights,
    fault: Fault = lambda d, machine: None,
    config: BuildConfig = CONFIG,
    prompt: int = 11,
    new: int = 3,
) -> Outcome:
    return verify_model(config, weights, prompt_tokens=prompt, new_tokens=new, device=StandIn(config, fault))


@pytest.mark.parametrize("changes", [{}, {"groups": 1, "lanes": 3}, {"chunk": 4, "kv_block": 8}])
def test_equal_machines(weights: ModelWeights, changes: dict[str, int]) -> None:
    outcome = check(weights, config=replace(CONFIG, **changes))  # type: ignore[arg-type]
    assert outcome.mismatches == 0 and outcome.first is None
    assert outcome.passes == ceil_div(11, changes.get("chunk", CONFIG.chunk)) + 2
    # every operator that runs is compared: a decode pass alone has 2 + 24 a layer + 3
    assert outcome.operators_compared > outcome.passes * 20 * SHAPE.layers
    assert outcome.elements_compared > 10 * outcome.operators_compared


def flip(opcode: Opcode, layer: int, change: Callable[[GoldenMachine], None]) -> Fault:
    """Corrupt the state after one operator of the second pass."""

    def fault(d: Descriptor, machine: GoldenMachine) -> None:
        if d.opcode is opcode and d.layer == layer and machine.positions[0] == CONFIG.chunk:
            change(machine)

    return fault


def xor(array: np.ndarray, index: tuple[int, ...], bit: int = 1) -> None:
    bits = array.view(f"u{array.itemsize}")
    bits[index] ^= bits.dtype.type(bit)  # NumPy 1 makes no unsigned integer of a plain one


@pytest.mark.parametrize(
    ("opcode", "layer", "change", "output", "token", "element"),
    [
        (Opcode.EMBED, 0, lambda m: xor(m.scratch, (7, 3)), "scratch", 9, 11),
        (Opcode.ROTARY, 0, lambda m: xor(m.param, (1, 2)), "param", 8, 10),
        (Opcode.PARAM, 1, lambda m: xor(m.param, (16 + 1, 5)), "param", 8, 13),
        (Opcode.NORM, 1, lambda m: xor(m.activation, (0, 2, 44)), "activation", 10, 44),
        (Opcode.LINEAR, 1, lambda m: xor(m.accumulator, (0, 1, 50)), "accumulator", 9, 2),
        (Opcode.DRAIN, 1, lambda m: xor(m.scratch, (48 + 5, 1)), "scratch", 8, 41),
        (Opcode.ROPE, 0, lambda m: xor(m.query, (1, 2, 5)), "query", 9, 37),
        (Opcode.ROPE, 1, lambda m: xor(m.query_scale, (2, 1)), "query_scale", 10, 1),
        (Opcode.ROPE, 1, lambda m: xor(m.kv_store, (1, 1, 0, 15)), "value", 9, 15),
        (Opcode.ROPE, 1, lambda m: xor(m.kv_scale, (0, 2, 0)), "key_scale", 10, 0),
        (Opcode.ATTENTION, 1, lambda m: xor(m.scratch, (48 + 80 + 6, 1)), "scratch", 9, 1),
    ],
)
def test_a_flipped_bit_is_named(
    weights: ModelWeights,
    opcode: Opcode,
    layer: int,
    change: Callable[[GoldenMachine], None],
    output: str,
    token: int,
    element: int,
) -> None:
    outcome = check(weights, flip(opcode, layer, change))
    assert outcome.mismatches >= 1 and outcome.first is not None
    first = outcome.first
    assert (first.operator, first.layer, first.output) == (opcode.name, layer, output), first
    assert (first.token, first.element) == (token, element), first
    assert first.rtl != first.golden


def test_what_no_operator_should_write_is_compared(weights: ModelWeights) -> None:
    """Nobody knows who did it, so the last operator of the pass is named."""
    first = check(weights, flip(Opcode.KV_WRITE, 1, lambda m: xor(m.scratch, (2000, 1)))).first
    assert first is not None and (first.operator, first.layer, first.output) == ("DRAIN", 2, "scratch written besides")
    assert (first.token, first.element) == (10, 1)


@pytest.mark.parametrize(
    "late", [{Opcode.LINEAR: 1}, {Opcode.KV_WRITE: 7}, {Opcode.LINEAR: 1, Opcode.KV_WRITE: 3}, {Opcode.NORM: 1}]
)
def test_operators_that_end_out_of_order(weights: ModelWeights, late: dict[Opcode, int]) -> None:
    in_order, device = check(weights), StandIn(CONFIG, late=late)
    outcome = verify_model(CONFIG, weights, prompt_tokens=11, new_tokens=3, device=device)
    assert outcome.mismatches == 0, outcome.first
    assert (outcome.operators_compared, outcome.elements_compared) == (in_order.operators_compared, in_order.elements_compared)
    assert any(tag < before and tag for before, tag in pairwise(device.ended)), "it was in order"


@pytest.mark.parametrize(("opcode", "change", "output", "token", "element"), [
    (Opcode.LINEAR, lambda m: xor(m.accumulator, (0, 1, 50)), "accumulator", 9, 2),
    (Opcode.DRAIN, lambda m: xor(m.scratch, (48 + 5, 1)), "scratch", 8, 41),
    (Opcode.NORM, lambda m: xor(m.activation, (0, 2, 44)), "activation", 10, 44),
])
def test_a_flipped_bit_is_named_out_of_order(
    weights: ModelWeights, opcode: Opcode, change: Callable[[GoldenMachine], None], output: str, token: int, element: int
) -> None:
    device = StandIn(CONFIG, flip(opcode, 1, change), late={Opcode.LINEAR: 1, Opcode.KV_WRITE: 2})
    first = verify_model(CONFIG, weights, prompt_tokens=11, new_tokens=3, device=device).first
    assert first is not None
    assert (first.operator, first.layer, first.output, first.token, first.element) == (opcode.name, 1, output, token, element)


def test_an_operator_that_never_ends(weights: ModelWeights) -> None:
    class Forgetful(StandIn):
        def _next_operator(self) -> int:
            tag = super()._next_operator()
            return super()._next_operator() if tag == 47 else tag

    first = verify_model(CONFIG, weights, prompt_tokens=8, new_tokens=1, device=Forgetful(CONFIG)).first
    assert first is not None and (first.operator, first.layer, first.rtl) == ("LINEAR", 1, "no progress")


@pytest.mark.parametrize("wrong", [3, 999])
def test_an_operator_that_does_not_belong_to_the_pass(weights: ModelWeights, wrong: int) -> None:
    """One that has ended before, and one that the program does not have."""

    class Confused(StandIn):
        def _next_operator(self) -> int:
            tag = super()._next_operator()
            return wrong if tag == 20 else tag

    outcome = verify_model(CONFIG, weights, prompt_tokens=8, new_tokens=1, device=Confused(CONFIG))
    assert outcome.mismatches == 1 and outcome.first is not None
    first = outcome.first
    assert (first.operator, first.rtl, first.golden, first.output) == (
        "LINEAR", wrong, 20, "an operator that does not belong to this pass",
    )


def test_cache_in_memory_is_compared(weights: ModelWeights) -> None:
    def fault(d: Descriptor, machine: GoldenMachine) -> None:
        if d.opcode is Opcode.KV_WRITE and d.layer == 1:
            machine.writable(d.stream_address + machine.registers.pages[0] * d.stride + 3, 1)[:] ^= 4

    first = check(weights, fault).first
    assert first is not None and (first.operator, first.layer, first.output) == ("KV_WRITE", 1, "block 0 of head 0")


def last_of_head(d: Descriptor) -> bool:
    return Flag.CANDIDATES in d.flags and d.stride + d.vectors * CONFIG.width >= d.head_stride


def test_logits_and_candidates_are_compared(weights: ModelWeights) -> None:
    def swap(d: Descriptor, machine: GoldenMachine) -> None:
        if last_of_head(d):
            first = machine.registers.candidates[0]
            first[0], first[1] = first[1::-1]

    first = check(weights, swap).first
    assert first is not None and (first.operator, first.output, first.token) == ("DRAIN", "candidate", 10)

    def change(d: Descriptor, machine: GoldenMachine) -> None:
        if last_of_head(d):
            machine.writable(machine.registers.logits + 1, 1)[:] ^= 1

    first = check(weights, change).first
    assert first is not None and (first.operator, first.output) == ("DRAIN", "logits")


def test_a_machine_that_hangs(weights: ModelWeights) -> None:
    def fault(d: Descriptor, machine: GoldenMachine) -> None:
        if d.opcode is Opcode.ATTENTION and d.layer == 1:
            raise DeviceTimeout("nothing moves")

    outcome = check(weights, fault)
    assert outcome.mismatches == 1 and outcome.first is not None
    assert (outcome.first.operator, outcome.first.layer, outcome.first.rtl) == ("ATTENTION", 1, "no progress")


def test_too_many_layers(weights: ModelWeights) -> None:
    with pytest.raises(HwgenError, match="at most 2, not 3"):
        verify_model(CONFIG, weights, prompt_tokens=1, new_tokens=1, layers=3)
    with pytest.raises(HwgenError, match="context of 64"):
        verify_model(CONFIG, weights, prompt_tokens=60, new_tokens=6, device=StandIn(CONFIG))
