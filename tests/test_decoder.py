"""What a decoder layer computes, as data."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hwgen.decoder import BITNET, LLAMA, DecoderLayer, Values
from hwgen.shape import ModelShape

SHAPE = ModelShape(hidden=32, layers=2, heads=4, kv_heads=2, head_dim=8, ffn=48, vocab=50)


def test_sizes() -> None:
    assert BITNET.matrices(SHAPE) == LLAMA.matrices(SHAPE) == {
        "q": (32, 32), "k": (16, 32), "v": (16, 32), "o": (32, 32), "gate": (48, 32), "up": (48, 32), "down": (32, 48),
    }
    norms = {"input_layernorm": 32, "attn_sub_norm": 32, "post_attention_layernorm": 32, "ffn_sub_norm": 48}
    assert BITNET.norms(SHAPE) == norms and list(BITNET.norms(SHAPE)) == list(norms)
    assert list(LLAMA.norms(SHAPE)) == ["input_layernorm", "post_attention_layernorm"]
    assert not BITNET.biases(SHAPE)


@pytest.mark.parametrize("layer", [BITNET, LLAMA])
def test_stages_with_the_same_inputs_are_normed_once(layer: DecoderLayer) -> None:
    assert [[stage.name for stage in stages] for stages in layer.inputs] == [["qkv"], ["o"], ["gate", "up"], ["down"]]


def test_biases_stand_beside_their_matrices() -> None:
    qkv, *others = LLAMA.stages
    biased = DecoderLayer("biased", (replace(qkv, biases=("q_bias", "k_bias", "v_bias")), *others))
    assert biased.biases(SHAPE) == {"q_bias": 32, "k_bias": 16, "v_bias": 16}
    with pytest.raises(ValueError, match="biases of qkv must be none or 3, not 1"):
        replace(qkv, biases=("q_bias",))


def test_the_first_stage_norms_the_residual_stream() -> None:
    with pytest.raises(ValueError, match="must begin with a norm of the residual stream"):
        DecoderLayer("headless", LLAMA.stages[1:])
    with pytest.raises(ValueError, match="stages of empty must begin"):
        DecoderLayer("empty", ())


def test_sizes_of_vectors() -> None:
    assert {values.name: values.size(SHAPE) for values in Values} == {"RESIDUAL": 32, "HEADS": 64, "ATTENDED": 32, "PRODUCT": 48}


def test_a_stage_that_reads_what_one_before_has_written_is_normed_anew() -> None:
    """The last of the stages with the same inputs writes the residual stream, the first one does not."""
    *others, gate, up, _ = LLAMA.stages
    changed = DecoderLayer("changed", (*others, gate, replace(up, writes=Values.RESIDUAL), replace(up, name="again")))
    assert [[stage.name for stage in stages] for stages in changed.inputs] == [["qkv"], ["o"], ["gate", "up"], ["again"]]
