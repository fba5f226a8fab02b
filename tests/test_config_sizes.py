"""Sizes that follow from a configuration, worked out by hand for the default and for the KV260; and what is legal to the last."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hwgen.attention_memory import AttentionMemory, last_column
from hwgen.boards import Board, MemoryRange, Platform, load_board
from hwgen.config import BuildConfig, ConfigError, nearest_power_of_two, power_of_two
from hwgen.decoder import BITNET, LLAMA, QWEN2, QWEN3, Combine, DecoderLayer, Stage, Values
from hwgen.errors import HwgenError, did_you_mean
from hwgen.fabric_clocks import PLL_MHZ, clock_parameters
from hwgen.shape import ModelShape

KV260 = load_board("kv260")

DEFAULT = {
    "port_bytes": 16, "burst_beats": 8, "beat_words": 2, "read_streams": 1, "bank_bursts": 1, "block_beats": 8, "port_queue": 32,
    "replay_beats": 4080, "width": 8, "int4_slice_inputs": 16, "slice_inputs": 40, "tables": 14, "vector_blocks": 2,
    "block_step": 2, "panel_vectors": 64, "tokens": 4, "key_bytes": 2, "header_beats": 2, "ternary_acc_bits": 18, "digit_bits": 18,
    "result_bits": 25, "score_bits": 25, "max_pages": 64, "max_group": 128, "has_ternary": True, "has_groups": False,
    "has_int4": False, "acc_bits": 18,
}
BOARD = {
    "port_bytes": 16, "burst_beats": 4, "beat_words": 4, "read_streams": 4, "bank_bursts": 64, "block_beats": 1024,
    "port_queue": 32, "replay_beats": 8184, "width": 8, "int4_slice_inputs": 16, "slice_inputs": 40, "tables": 14,
    "vector_blocks": 1, "block_step": 2, "panel_vectors": 256, "tokens": 12, "key_bytes": 2, "header_beats": 2,
    "ternary_acc_bits": 21, "digit_bits": 21, "result_bits": 28, "score_bits": 28, "max_pages": 512, "max_group": 96,
}


@pytest.mark.parametrize(("config", "sizes"), [(BuildConfig(), DEFAULT), (KV260.config, BOARD)], ids=["default", "kv260"])
def test_sizes(config: BuildConfig, sizes: dict[str, int]) -> None:
    assert {name: getattr(config, name) for name in sizes} == sizes
    assert config.macs("ternary") == config.tokens * config.rows * 40 and config.macs("int4") == config.tokens * config.rows * 16


@pytest.mark.parametrize(("engine", "has", "bits"), [
    ("ternary", (True, False, False), 18), ("grouped", (True, True, False), 27), ("int4", (False, False, True), 41),
    ("both", (True, False, True), 41),
])
def test_engines(engine: str, has: tuple[bool, bool, bool], bits: int) -> None:
    """The largest sum of 1024 products: 127 times one, or 508; 229376 times 3056."""
    config = BuildConfig(engine=engine)
    assert (config.has_ternary, config.has_groups, config.has_int4) == has and config.acc_bits == bits
    largest = {"ternary": 127, "grouped": 127 * 508}.get(engine, 229376 * 3056) * 1024
    assert 1 << bits - 2 <= largest < 1 << bits - 1
    digits = 127 * 121 * 1024 if has[0] else 0
    assert config.result_bits == max(bits, digits.bit_length() + 1)
    wide = BuildConfig(engine=engine, fp8_query=True)
    assert wide.score_bits == (229376 * 127 * 64).bit_length() + 1 == 32


@pytest.mark.parametrize(("changes", "streams"), [
    ({"ring_beats": 4096}, 1), ({"ring_beats": 8192}, 2), ({"ring_beats": 16384}, 4), ({"ring_beats": 65536}, 4),
    ({"bank_bytes": 4096}, 4),
    ({"bank_bytes": 8192}, 2), ({"ring_beats": 2048}, 1),
])
def test_banks(changes: dict[str, int], streams: int) -> None:
    config = BuildConfig(**changes)  # type: ignore[arg-type]  # fields by name
    assert config.read_streams == streams
    assert config.bank_bursts == (config.bank_bytes // 256 if streams > 1 else 1)
    assert config.block_beats == streams * config.bank_bursts * 8


def test_what_is_no_part_of_the_contract() -> None:
    config = BuildConfig()
    assert (config.name, config.clock_mhz, config.probe) == ("custom", 250, False)


def test_powers_of_two() -> None:
    assert [n for n in range(-2, 20) if power_of_two(n)] == [1, 2, 4, 8, 16]
    assert [nearest_power_of_two(n) for n in (-3, 0, 1, 2, 3, 4, 7, 8, 9)] == [1, 1, 1, 2, 2, 4, 4, 8, 8]


@pytest.mark.parametrize(("name", "legal", "illegal"), [
    ("ports", 8, 9), ("port_bits", 32, 16), ("chunk", 1, 3), ("chunk", 16, 18), ("burst", 256, 512), ("burst", 2, 1),
    ("ring_beats", 64, 62), ("descriptor_queue", 2, 1), ("page_entries", 64, 63), ("topk", 113, 114), ("bank_bytes", 256, 128),
    ("max_context", 1024, 1023), ("max_head_dim", 16, 24), ("max_query", 1008, 1016), ("max_inputs", 1016, 1020),
    ("clock_mhz", 0.1, 0.0),
    ("clock_mhz", 1e300, float("inf")), ("probe", True, 1), ("name", "", 3), ("query_lanes", 4, 3), ("max_shared", 1, 0),
    ("panel_rows", 512, 516), ("scratch_memory", "ultra", "lut"),
])
def test_what_is_legal(name: str, legal: Any, illegal: Any) -> None:
    assert getattr(BuildConfig(**{name: legal}), name) == legal
    with pytest.raises(ConfigError, match=f"^{name} must be"):
        BuildConfig(**{name: illegal})


@pytest.mark.parametrize(("changes", "refused"), [
    ({"beat_bytes": 16, "rows": 1, "builders": 27, "kv_block": 8, "chunk": 8}, ""),
    ({"engine": "int4", "rows": 1, "builders": 1}, "rows"),
    ({"engine": "int4", "rows": 2, "builders": 1}, ""), ({"engine": "grouped", "rows": 1, "builders": 1}, "rows"),
    ({"engine": "grouped", "rows": 2, "builders": 1}, ""), ({"builders": 7}, ""), ({"builders": 14}, ""),
    ({"builders": 4}, "builders"),
    ({"engine": "int4", "builders": 5}, ""), ({"engine": "int4", "topk": 200}, ""), ({"max_context": 16400}, "page_entries"),
    ({"kv_block": 8, "chunk": 8}, ""), ({"kv_block": 32}, ""),
    ({"kv_block": 64}, "kv_block"), ({"kv_block": 4, "chunk": 4}, "kv_block"), ({"groups": 8, "ring_beats": 4100}, "ring_beats"),
])
def test_what_goes_together(changes: dict[str, Any], refused: str) -> None:
    if not refused:
        assert BuildConfig(**changes).rows > 0
        return
    with pytest.raises(ConfigError, match=f"^{refused} must be"):
        BuildConfig(**changes)


def test_sums_are_as_wide_as_the_largest() -> None:
    """No bit less holds it, and no bit more is there, whatever the largest matrix: signed, of magnitudes up to these."""
    for inputs in range(32, 4096, 32):
        grouped, both = (BuildConfig(engine=engine, max_inputs=inputs, max_head_dim=16) for engine in ("grouped", "both"))
        pairs = [
            (both.ternary_acc_bits, 127), (grouped.ternary_acc_bits, 127 * 508), (both.int4_acc_bits, 3056 * 229376),
            (both.digit_bits, 127), (grouped.result_bits, 127 * 508), (both.result_bits, 3056 * 229376),
            (both.score_bits, 127 * 127), (BuildConfig(max_inputs=inputs).result_bits, 121 * 127),
            (BuildConfig(max_head_dim=inputs).score_bits, 127 * 127),
            (BuildConfig(max_head_dim=inputs, max_inputs=8, fp8_query=True).score_bits, 229376 * 127),
        ]
        for number, (bits, largest) in enumerate(pairs):
            most = largest * (max(1024, inputs) if number == 8 else inputs)
            assert -(2 ** (bits - 1)) <= -most < most < 2 ** (bits - 1) and most >= 2 ** (bits - 2), (inputs, number)


def test_tokens_of_a_pass_are_a_byte_and_even() -> None:
    """With the widest beats and blocks of as many keys there would be room for 256."""
    wide: dict[str, Any] = {"beat_bytes": 256, "kv_block": 256, "max_head_dim": 128, "rows": 8, "builders": 1}
    assert BuildConfig(**wide, chunk=254).chunk == 254
    with pytest.raises(ConfigError, match="^chunk must be at most 254, not 256; the nearest legal value is 254$"):
        BuildConfig(**wide, chunk=256)


def test_memories_of_attention() -> None:
    """Slots, beats of keys, blocks on chip and words, of the default and of the KV260."""
    m = AttentionMemory(BuildConfig())
    assert (m.rounds, m.dims, m.buffers, m.query_rows, m.query_words, m.output_words) == (64, 32, 8, 64, 512, 2048)
    m = AttentionMemory(KV260.config)
    assert (m.rounds, m.dims, m.buffers, m.query_rows, m.output_words) == (48, 64, 8, 384, 48 * 64)
    assert m.query_words == max(24 * 2560 // 2, 6912) // 8
    wide = replace(KV260.config, max_head_dim=256, max_query=5120)
    assert AttentionMemory(wide).buffers == 4, "128 beats, eight of which have no room in 512 words"
    odd = AttentionMemory(BuildConfig(chunk=1))
    assert (odd.rounds, odd.query_rows, odd.query_words) == (8, 8 + 8, (512 + 512) // 8)
    assert [last_column(bits, depth) for bits, depth in (
        (36, 512), (40, 512), (41, 512), (35, 512), (20, 1024), (18, 1025), (10, 4096), (30, 5000), (37, 1), (37, 2049),
    )] == [
        (0, "distributed"), (4, "distributed"), (5, "block"), (0, "distributed"), (2, "distributed"), (0, "distributed"),
        (1, "block"), (0, "distributed"), (1, "distributed"), (1, "block"),
    ]


def test_boards_by_engine() -> None:
    """A board runs what its engines run; the default of each field is what a file may leave out."""
    assert KV260.for_engine("int4").variant == "int4" and KV260.variant == "" and KV260.for_engine("ternary") is KV260
    grouped = KV260.for_engine("grouped")
    assert grouped.for_engine("ternary") is grouped and grouped.config.name == "kv260-grouped"
    both = replace(KV260, config=replace(load_board("demo").config, engine="both"), variants={})
    assert both.for_engine("ternary") is both.for_engine("int4") is both
    with pytest.raises(HwgenError, match="no configuration with engine 'grouped'"):
        both.for_engine("grouped")
    values = {
        "processor": "p", "board_part": "b", "board_files": "f", "pynq_board": "n", "control_port": "c", "registers": "0x10",
        "interrupt_controller": "32", "memory_ports": ["a"], "memory_port_bits": 64, "memory_text": "t", "memory_chips": "k",
        "memory_bits": 16, "memory": [{"name": "m", "base": "0x0", "bytes": "0x100"}],
    }
    platform = Platform.from_dict(values)
    assert (platform.registers, platform.interrupt_controller, platform.memory) == (16, 32, (MemoryRange("m", 0, 256),))
    assert (platform.kria, platform.constraints, platform.notes, platform.processor_settings) == (False, (), (), {})
    assert Platform.from_dict(values | {"kria": True, "notes": ["x"]}).kria
    plain = Board(name="n", description="", part="", available={}, memory_bandwidth=0, config=BuildConfig())
    assert (plain.variants, plain.variant, plain.chosen_by, plain.platform) == ({}, "", "", None)


# ---- layers and shapes -----------------------------------------------------------------------------------------------
def test_layers() -> None:
    """Stages, their sizes and what goes together, of a model of 6 query and 2 key heads of 4 elements."""
    s = ModelShape(hidden=20, layers=2, heads=6, kv_heads=2, head_dim=4, ffn=30, vocab=9)
    assert [v.size(s) for v in Values] == [20, 40, 24, 30]
    sizes = {"q": (24, 20), "k": (8, 20), "v": (8, 20), "o": (20, 24), "gate": (30, 20), "up": (30, 20), "down": (20, 30)}
    for layer in (BITNET, LLAMA, QWEN2, QWEN3):
        assert layer.matrices(s) == sizes
        groups = [[stage.name for stage in group] for group in layer.inputs]
        assert groups == [["qkv"], ["o"], ["gate", "up"], ["down"]]
    outer = {"input_layernorm": 20, "post_attention_layernorm": 20}
    assert BITNET.norms(s) == outer | {"attn_sub_norm": 24, "ffn_sub_norm": 30} and LLAMA.norms(s) == outer
    assert QWEN3.norms(s) == outer | {"q_norm": 4, "k_norm": 4} and QWEN3.head_norms == ("q_norm", "k_norm")
    assert QWEN2.biases(s) == {"q_bias": 24, "k_bias": 8, "v_bias": 8} and LLAMA.biases(s) == {} and LLAMA.head_norms == ()
    assert s.linear_weights == 2 * sum(rows * inputs for rows, inputs in sizes.values()) and s.group == 3
    chained = Stage(name="n", matrices=("m",), reads=Values.RESIDUAL, writes=Values.RESIDUAL, combine=Combine.ADD, norm="a")
    assert [len(group) for group in DecoderLayer("c", (chained, chained)).inputs] == [1, 1], "the second reads what the first wrote"


@pytest.mark.parametrize(("changes", "message"), [
    ({"head_norms": ("a",)}, "head norms of n"), ({"head_norms": ("a", "b"), "writes": Values.PRODUCT}, "head norms of n"),
    ({"biases": ("a",)}, "biases of n must be none or 3, not 1"), ({"biases": ("a", "b", "c"), "head_norms": ("a", "b")}, ""),
])
def test_stages(changes: dict[str, Any], message: str) -> None:
    usual: dict[str, Any] = {
        "name": "n", "matrices": ("q", "k", "v"), "reads": Values.RESIDUAL, "writes": Values.HEADS, "combine": Combine.STORE,
    }
    if not message:
        assert Stage(**usual | changes).norm is None
        return
    with pytest.raises(ValueError, match=message):
        Stage(**usual | changes)
    with pytest.raises(ValueError, match="must begin with a norm"):
        DecoderLayer("d", (Stage(**usual),))


@pytest.mark.parametrize(("changes", "fine"), [
    ({"kv_heads": 4}, False), ({"kv_heads": 3}, True), ({"head_dim": 5}, False), ({"head_dim": 2}, True), ({"vocab": 0}, False),
    ({"rope_factors": [1, 2]}, True), ({"rope_factors": [1, 0]}, False), ({"rope_factors": [1]}, False),
    ({"rope_factors": [1, 1e999]}, False),
    ({"rope_scale": 0}, False), ({"unrotated": [0, 1]}, True), ({"unrotated": [1, 0]}, False), ({"unrotated": [2]}, False),
    ({"unrotated": [0, 0]}, False), ({"unrotated": [-1]}, False), ({"activation": "gelu"}, False), ({"max_context": 1}, True),
])
def test_shapes(changes: dict[str, Any], fine: bool) -> None:
    usual: dict[str, Any] = {"hidden": 20, "layers": 2, "heads": 6, "kv_heads": 2, "head_dim": 4, "ffn": 30, "vocab": 9}
    if fine:
        shape = ModelShape(**usual | changes)
        assert hash(shape) == hash(replace(shape)), "lists, which JSON has, become tuples"
        return
    with pytest.raises(ValueError, match=f"{next(iter(changes))}|heads"):
        ModelShape(**usual | changes)


def test_frequencies_and_words() -> None:
    s = ModelShape(hidden=8, layers=1, heads=1, kv_heads=1, head_dim=4, ffn=8, vocab=9, rope_theta=100.0)
    assert s.rotary_frequencies().tolist() == [1, 0.1]
    assert replace(s, rope_factors=(2, 4)).rotary_frequencies().tolist() == [0.5, 0.025]
    assert did_you_mean("stores", ["stories", "llama"]) == "did you mean stories? " and did_you_mean("x", ["stories"]) == ""
    error = HwgenError("kind", "what", "fix")
    assert (str(error), error.to_dict()) == ("what (fix)", {"kind": "kind", "message": "what", "fix": "fix"})
    assert str(HwgenError("kind", "what")) == "what"
    values = clock_parameters("zynq_ultra_ps_e", [(6, 1), (2, 3)])
    assert values["PSU__FPGA_PL0_ENABLE"] == "1" and values["PSU__FPGA_PL1_ENABLE"] == "0"
    assert [values[f"PSU__CRL_APB__PL1_REF_CTRL__{name}"] for name in ("DIVISOR0", "DIVISOR1", "SRCSEL")] == ["2", "3", "IOPLL"]
    assert PLL_MHZ == {"zynq_ultra_ps_e": 1500, "processing_system7": 1000}, "board presets of either family"
