"""The proof of slices: it accepts what the compiler makes, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from hwgen.descriptors import Opcode
from hwgen.sw.compiler.programs import SlicedProgram
from hwgen.sw.compiler.slice_proof import check_slices, live_vectors

from ...system.small import CONFIG
from .test_slices import image_of


def test_the_proof_refuses_what_is_wrong() -> None:
    image = image_of("three rounds")
    assert image.sliced is not None
    slices, chunk = image.sliced.slices, image.chunk

    def refuse(match: str, *parts: tuple, beside: tuple = ()) -> None:  # type: ignore[type-arg]
        with pytest.raises(AssertionError, match=match):
            check_slices(CONFIG, image.descriptors, SlicedProgram(beside or image.sliced.beside, parts), chunk)  # type: ignore[union-attr]

    check_slices(CONFIG, image.descriptors, image.sliced, chunk)
    refuse("once", *slices[:-1])
    refuse("once", *slices, slices[3])
    for number in range(1, len(slices)):
        part = slices[number]
        for cut in range(1, len(part)):  # everywhere else but at a boundary
            refuse("find its inputs|leaves a matrix", *slices[:number], part[:cut], part[cut:], *slices[number + 1 :])
        for i, d in enumerate(part):
            if d.opcode in (Opcode.PARAM, Opcode.NORM, Opcode.ROTARY):
                refuse("find its inputs", *slices[:number], (*part[:i], *part[i + 1 :]), *slices[number + 1 :])
    refuse("survive", *slices, beside=image.descriptors)
    refuse("survive", slices[1], slices[0], *slices[2:])


def test_what_is_needed_of_the_scratch() -> None:
    image = image_of("three rounds")
    assert image.sliced is not None
    live = live_vectors(CONFIG, image.sliced.slices, image.chunk)
    assert not live[0].any()
    residual = np.arange(image.chunk * 8)
    assert all(x[residual].all() for x in live[1:])
    assert live[1].sum() == len(residual)
    assert max(x.sum() for x in live) == len(residual) + image.chunk * 16
