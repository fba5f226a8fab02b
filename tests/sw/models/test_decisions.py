"""Where the parts of a model come from."""

from __future__ import annotations

from typing import Any

import pytest

from hwgen.sw.models.decisions import _says, describe_kinds, method_of


@pytest.mark.parametrize(("value", "name", "said"), [
    (8, "head_dim", True), (0, "head_dim", True), (None, "head_dim", False), ({"rope_theta": 1e4}, "rope_theta", True),
    ({"factor": 2.0}, "rope_theta", False), ({"factor": 2.0}, "rope_factors", True), ({"factors": [1.0]}, "rope_factors", True),
    ({"rope_theta": 1e4}, "rope_factors", False), ({}, "rope_theta", False),
])
def test_whether_a_field_says_it(value: Any, name: str, said: bool) -> None:
    assert _says(value, name) is said


def test_kinds_and_methods() -> None:
    assert describe_kinds(["F16", "Q4_1", "Q4_1"]) == "Q4_1 + F16" and describe_kinds([]) == "no matrices"
    assert [method_of(config) for config in (
        {}, {"quantization_config": None}, {"quantization_config": {}}, {"quantization_config": {"bits": 2}},
        {"quantization_config": {"quant_method": "gptq"}}, {"quantization_config": "gptq"},
    )] == ["", "", "", "bitnet", "gptq", ""]
