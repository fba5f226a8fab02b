"""What STATUS and ERROR of a pass that has ended mean, in words; and what best tokens and all logits of a pass are."""

from __future__ import annotations

import re

import numpy as np
import pytest

from hwgen.config import BuildConfig
from hwgen.errors import HwgenError
from hwgen.sw.runtime.device_state import DeviceState
from hwgen.sw.runtime.pass_status import check_status
from hwgen.sw.runtime.prediction import Prediction

#: Bits of STATUS: BUSY, DONE, ERROR, STOPPED.
BUSY, DONE, ERROR, STOPPED = 1, 2, 4, 8


@pytest.mark.parametrize(("status", "error", "operators", "message"), [
    (DONE | STOPPED, 0, 5, "^the pass was stopped at operator 17$"), (DONE | STOPPED | ERROR, 2, 5, "^the pass was stopped"),
    (DONE | ERROR, 0x0009_0302, 5, "^memory port 3 answered a read with response 2 at operator 9$"),
    (DONE | ERROR, 0x0123_0A07, 0, "^memory port 10 answered a write with response 3 at operator 291$"),
    (DONE | ERROR, 0, 5, "^the descriptor behind operator 17 is damaged: its check word is wrong$"),
    (DONE | ERROR, 0x0001_0004, 0, "^the first descriptor is damaged"),
])
def test_what_went_wrong(status: int, error: int, operators: int, message: str) -> None:
    values = {"CURRENT": 17, "ERROR": error, "COUNT_OPERATORS": operators}
    with pytest.raises(HwgenError) as caught:
        check_status(values.__getitem__, status)
    assert re.search(message, caught.value.message) and caught.value.kind == "device" and caught.value.fix


@pytest.mark.parametrize("status", [DONE, BUSY, DONE | BUSY, 0])
def test_nothing_went_wrong(status: int) -> None:
    """No register is read for it."""
    check_status({}.__getitem__, status)


def test_a_device_that_nobody_knows() -> None:
    state = DeviceState(BuildConfig())
    assert (state.held, state.wants, state.rung, state.loop) == ({}, [], (), None) and not state.busy
    state.held[4], state.wants, state.rung = 1, [3], (1, 2)
    state.forget()
    assert (state.held, state.wants, state.rung) == ({}, [], ())


def test_predictions() -> None:
    """Logits of the best tokens are the floats of their bits; all logits are read once, and only where somebody asks."""
    logits, reads = np.array([0.5, -2.0, 7.25, 0.1], np.float32), []

    def read() -> np.ndarray:
        reads.append(1)
        return logits

    found = Prediction([2, 0], logits[[2, 0]].view(np.uint32).tolist(), 4, read)
    assert list(found.best) == [7.25, 0.5] and (found.tokens, found.vocabulary) == ([2, 0], 4) and not reads
    assert found.logits is logits and found.logits is logits and reads == [1]
    assert list(Prediction([], [], 4, read).best) == []
