"""What the short-list head takes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hwgen.descriptors import Opcode
from hwgen.errors import HwgenError
from hwgen.sw.compiler.compile import compile_model
from hwgen.sw.verification.random_case import random_config
from hwgen.weights import random_weights
from tests.system.small import SHAPE


def test_rows_of_one_key_beat_are_refused() -> None:
    """HEAD would wait for ever for the second; found by fuzzing this build."""
    config = random_config(703)
    assert config.width == config.key_bytes
    shape = replace(SHAPE, hidden=config.key_bytes + 1, heads=1, kv_heads=1, head_dim=config.max_head_dim, ffn=8, max_context=8)
    image = compile_model(config, random_weights(shape, 1), head="shortlist")
    assert any(d.opcode is Opcode.HEAD for d in image.descriptors)
    small = random_weights(replace(shape, hidden=config.key_bytes), 1)
    with pytest.raises(HwgenError, match=f"takes rows of more than {config.key_bytes} inputs, the model has {config.key_bytes}"):
        compile_model(config, small, head="shortlist")
    assert compile_model(config, small, head="exact").head == "exact"
