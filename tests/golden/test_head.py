"""Logits of the head in its two forms, and the candidate list."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hwgen.formats import quantize_head
from hwgen.golden.head import digit_logits, join_digits, nibble_logits, top_candidates

from . import rational
from .bits import fractions, random_floats


@pytest.mark.parametrize("form", [digit_logits, nibble_logits])
def test_logits_equal_rational_model(form: Callable[..., Tensor]) -> None:
    g = torch.Generator().manual_seed(1)
    q = torch.randint(-127, 128, (2, 1500), generator=g)
    rows = torch.randint(-127, 128, (20, 1500), generator=g)
    rows[0], q[0] = 127, 127  # a sum that float32 does not hold
    rows[0, 3] = 126
    scale, row_scale = random_floats(g, 2), random_floats(g, 20)
    logits = form(q, scale, rows.to(torch.int8), row_scale)
    for i, s in enumerate(fractions(scale)):
        dots = (q[i] * rows).sum(1).tolist()
        slow = [
            rational.mul(rational.mul(rational.f32(dot), s if form is digit_logits else rs), rs if form is digit_logits else s)
            for dot, rs in zip(dots, fractions(row_scale), strict=True)
        ]
        assert fractions(logits[i]) == slow


def test_close_to_the_float_head() -> None:
    g = torch.Generator().manual_seed(2)
    w = torch.randn(60, 96, generator=g)
    w8, bits = quantize_head(w.numpy(), 127)
    scale = (torch.from_numpy(bits.astype("int32")) << 16).view(torch.float32)
    restored = torch.from_numpy(w8).float() * scale[:, None]
    assert ((restored - w).abs() <= w.abs().amax(1, keepdim=True) / 127 * 0.6).all()
    q = torch.randint(-127, 128, (1, 96), generator=g).float()
    exact = (q.double() @ restored.double().T) * 0.25
    assert torch.allclose(nibble_logits(q, torch.tensor([0.25]), torch.from_numpy(w8), scale).double(), exact, rtol=1e-6)


def test_digits_are_joined() -> None:
    digits = torch.tensor([[1, -1, 0, 1, 0, 1, 2, -7, 5, 100], [-1, 1, 0, 0, 0, 0, 0, 0, 0, 1]])
    assert join_digits(digits, 1).tolist() == [[81 - 27 + 3, 81 + 2 * 27 - 7 * 9 + 5 * 3 + 100], [-81 + 27, 1]]
    # vectors of two rows: the highest digits of both, then the next ones
    assert join_digits(digits, 2).tolist() == [[81 + 2 * 3 + 5, -81 + 27 + 9 - 7 * 3 + 100], [-81, 81 + 1]]


def test_candidates_are_sorted_and_ties_take_the_smaller_id() -> None:
    logits = torch.tensor([1.0, 5.0, -2.0, 5.0, 0.0, 5.0, 1.0])
    index, value = top_candidates(logits, 5)
    assert index.tolist() == [1, 3, 5, 0, 6]
    assert value.tolist() == [5.0, 5.0, 5.0, 1.0, 1.0]
    assert top_candidates(torch.zeros(1000), 8)[0].tolist() == list(range(8))
    many = torch.randint(0, 9, (5000,), generator=torch.Generator().manual_seed(1)).float()  # the best are far more than 40
    assert top_candidates(many, 40)[0].tolist() == sorted(range(5000), key=lambda i: (-many[i].item(), i))[:40]
    assert top_candidates(logits, 20)[0].tolist() == [1, 3, 5, 0, 6, 4, 2]
