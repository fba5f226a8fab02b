"""Products of panels against exact products of integers by numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hwgen.golden.int4 import E4M3_CODES, e4m3_values
from hwgen.golden.panels import E4m3Panel, IntegerPanel
from hwgen.int4 import WEIGHT_MAX

FINITE = [code for code in range(E4M3_CODES) if code & 0x7F != 0x7F]


def codes(values: list[int] | np.ndarray) -> torch.Tensor:
    return torch.tensor(np.asarray(values), dtype=torch.uint8).view(torch.int8)


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("inputs", [1, 32, 576, 1600])
def test_e4m3_products_are_exact(inputs: int, kept: bool) -> None:
    rng = np.random.default_rng(inputs)
    weights = rng.integers(-WEIGHT_MAX, WEIGHT_MAX + 1, (24, inputs)).astype(np.int16)
    q = codes(rng.choice(FINITE, (3, inputs)))
    panel = E4m3Panel(torch.from_numpy(weights).float() if kept else torch.from_numpy(weights))
    values = e4m3_values(q.view(torch.uint8)).numpy().astype(np.int64)
    assert panel.products(q).numpy().tolist() == (values @ weights.astype(np.int64).T).tolist()


@pytest.mark.parametrize("sign", [1, -1])
def test_e4m3_products_of_the_largest(sign: int) -> None:
    """Every code against weights at their bound, all of one sign: the sums that are hardest to hold."""
    n = 640
    weights = torch.full((2, n), sign * WEIGHT_MAX, dtype=torch.int16)
    panel = E4m3Panel(weights.float())
    for first in range(0, len(FINITE), 50):
        of = FINITE[first : first + 50]
        q = codes(np.repeat(np.array(of)[:, None], n, axis=1))
        values = e4m3_values(q[:, 0].view(torch.uint8)).to(torch.int64)
        assert torch.equal(panel.products(q), (values * n * sign * WEIGHT_MAX)[:, None].expand(-1, 2))


def test_codes_of_nothing_are_refused() -> None:
    panel = E4m3Panel(torch.ones(4, 8))
    for code in (0x7F, 0xFF):
        with pytest.raises(ValueError, match="codes must be finite, not 0x7f or 0xff"):
            panel.products(codes([[0, 1, code, 3, 4, 5, 6, 7]]))


def test_int8_products_are_exact() -> None:
    """Longer rows than float32 can add up."""
    q = torch.full((2, 2000), -127, dtype=torch.int8)
    panel = IntegerPanel(torch.full((3, 2000), 127, dtype=torch.int8), 127 * 127)
    assert panel.products(q).tolist() == [[-127 * 127 * 2000] * 3] * 2
