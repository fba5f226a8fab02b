"""4-bit matrices in safetensors, as ``quantization_config`` of config.json describes them: GPTQ, AWQ, compressed-tensors and ours.

All of them say ``w = scale (q - zero)`` in groups of inputs, which is the machine's scale and midpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import HwgenError
from ...formats import Float
from ...int4 import GROUPS, BlockMatrix, Int4Matrix, affine_blocks, spread, unpack_nibbles
from ...rounding import ceil_div
from ...weights import Matrix
from .checkpoint import MISMATCH
from .config_json import unsupported
from .fields import Fields
from .tensors import TensorSet

__all__ = ["QUANT_METHOD", "StoredMatrices", "read_quantization"]

#: ``quant_method`` of a checkpoint with INT4 matrices as the machine stores them.
QUANT_METHOD = "hwgen_int4"

_WHERE = "config.json: quantization_config"
_AGAIN = "download the checkpoint again"
_FLOATS = "take the float checkpoint, or a GGUF file"

#: Column of eight that a nibble of AWQ stands for, low nibbles first.
_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)

Digits = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class StoredMatrices:
    """What a checkpoint has in place of float matrices."""

    #: ``quant_method``, or "floats".
    method: str
    #: Formats of cache and queries that the checkpoint was made for.
    kinds: Mapping[str, str]
    #: The matrix ``[rows, inputs]`` at a place; one that the checkpoint has as floats is read as floats.
    read: Callable[[TensorSet, str, tuple[int, int]], Matrix]


def _nibbles(words: npt.NDArray[np.int32]) -> Digits:
    """The eight digits of every word along the last dimension, low ones first."""
    parts = np.stack([words >> shift & 15 for shift in range(0, 32, 4)], axis=-1)
    return np.asarray(parts.reshape(*words.shape[:-1], -1), np.uint8)


def _stored(tensors: TensorSet, name: str, kind: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    found = tensors.find(name)
    if tensors.kind(found) != kind or tensors.shape(found) != shape:
        what = f"{tensors.kind(found)} {tensors.shape(found)}"
        raise HwgenError("checkpoint", f"tensor {name} is {what}, {kind} {shape} expected", MISMATCH)
    return tensors.stored(found)


def _pass_over_zeros(tensors: TensorSet, place: str) -> None:
    """Accounts for a bias that quantisers write for every matrix, where it is 0; another one stays to be asked for."""
    name = f"{place}.bias"
    if name in tensors and not tensors.is_read(name) and not tensors.peek(name).any():
        tensors.stored(name)


def _blocks(place: str, q: Digits, scale: Float, zero: Digits | None, group: int) -> BlockMatrix:
    """``scale (q - zero)`` with ``q [rows, inputs]`` and ``scale``, ``zero [rows, groups]`` (None: 8) in a group size of the
    machine; larger groups are cut, which changes no value.
    """
    inputs = q.shape[1]
    own = next((g for g in sorted(GROUPS, reverse=True) if group % g == 0), None)
    if own is None:
        raise HwgenError("architecture", f"tensor {place} has groups of {group} inputs; multiples of {min(GROUPS)} load", _FLOATS)
    if own != group:
        parts = group // own, ceil_div(inputs, own)
        scale, zero = spread(scale, *parts), None if zero is None else spread(zero, *parts)
    minimum = -scale * (np.float32(8) if zero is None else zero.astype(np.float32))
    try:
        return affine_blocks(q, scale, minimum, own)
    except ValueError as error:
        raise HwgenError("architecture", f"tensor {place}: {error}", "choose a model whose sizes the machine has") from error


def _group(size: Any, inputs: int, name: str) -> int:
    if size == -1 or size is None:
        return inputs
    if type(size) is not int or size <= 0:
        raise unsupported(f"quantization_config.{name}", size, "a number of inputs, or -1")
    return size


def _whole_words(place: str, *sizes: int) -> None:
    """Refuse sizes that words of eight digits cannot have."""
    if any(size % 8 for size in sizes):
        what = f"tensor {place} has {sizes[0]} rows" + "".join(f" and {inputs} inputs" for inputs in sizes[1:])
        raise HwgenError("architecture", f"{what}, words of eight digits hold multiples of 8", _FLOATS)


def _bits(fields: Fields, *names: str) -> None:
    """Refuse another width than 4, which one of ``names`` must say."""
    said = {name: fields[name] for name in names if name in fields} or {names[0]: None}
    for name, value in said.items():
        if value != 4:
            raise unsupported(f"quantization_config.{name}", value, "4")


# ---- ours --------------------------------------------------------------------------------------------------------
def _own(fields: Fields) -> StoredMatrices:
    kinds = {"kv": str(fields.get("kv", "k8v8")), "query": str(fields.get("query", "int8"))}
    group = fields.get("group")
    if group not in GROUPS:
        raise unsupported("quantization_config.group", group, f"one of {GROUPS}")
    fields.refuse_left({"quant_method": "ours", "recipe": "how it was made"}, "quantise the model again")

    def read(tensors: TensorSet, place: str, shape: tuple[int, int]) -> Matrix:
        packed, scales = (tensors.stored(tensors.find(f"{place}.{n}")) for n in ("weight_codes", "weight_scales"))
        midpoints = f"{place}.weight_midpoints"
        try:
            matrix = Int4Matrix(
                unpack_nibbles(packed), group, scales, tensors.stored(midpoints) if midpoints in tensors else None,
                tensors.floats(tensors.find(f"{place}.row_scale")),
            )
        except (ValueError, TypeError) as error:
            raise HwgenError("checkpoint", f"tensor {place}.weight_codes: {error}", _AGAIN) from error
        if matrix.codes.shape != shape:
            raise HwgenError(
                "checkpoint", f"tensor {place}.weight_codes has shape {matrix.codes.shape}, {shape} expected", MISMATCH
            )
        return matrix

    return StoredMatrices(QUANT_METHOD, kinds, read)


# ---- GPTQ --------------------------------------------------------------------------------------------------------
_GPTQ_HARMLESS = {
    **dict.fromkeys((
        "sym", "true_sequential", "damp_percent", "damp_auto_increment", "static_groups", "mse", "dataset", "tokenizer", "meta",
        "quantizer", "model_name_or_path", "model_file_base_name", "batch_size", "act_group_aware",
    ), "how it was made"),
    **dict.fromkeys((
        "use_exllama", "exllama_config", "disable_exllama", "max_input_length", "use_cuda_fp16", "cache_block_outputs", "backend",
        "pad_token_id", "model_seqlen", "block_name_to_quantize", "module_name_preceding_first_block", "pack_dtype",
        "modules_in_block_to_quantize", "modules_to_not_convert", "is_marlin_format",
    ), "of other runtimes; tensors say what is quantised"),
    "quant_method": "chose this reader", "desc_act": "g_idx says it",
}


def _gptq(fields: Fields) -> StoredMatrices:
    _bits(fields, "bits")
    size, form = fields.get("group_size", -1), fields.get("checkpoint_format", "gptq")
    if form not in ("gptq", "gptq_v2"):
        raise unsupported("quantization_config.checkpoint_format", form, "'gptq' or 'gptq_v2'")
    for name in ("lm_head", "dynamic"):
        if fields.get(name):
            raise unsupported(f"quantization_config.{name}", fields[name], "absent")
    fields.refuse_left(_GPTQ_HARMLESS, _FLOATS)

    def read(tensors: TensorSet, place: str, shape: tuple[int, int]) -> Matrix:
        rows, inputs = shape
        group = _group(size, inputs, "group_size")
        groups = ceil_div(inputs, group)
        _whole_words(place, rows, inputs)
        q = _nibbles(_stored(tensors, f"{place}.qweight", "I32", (inputs // 8, rows)).T)
        zero = _nibbles(_stored(tensors, f"{place}.qzeros", "I32", (groups, rows // 8))).T
        if form == "gptq":  # stored less 1, which wraps
            zero = zero + np.uint8(1) & np.uint8(15)
        scale = tensors.floats(tensors.find(f"{place}.scales"), (groups, rows)).T
        if f"{place}.g_idx" in tensors:
            own = _stored(tensors, f"{place}.g_idx", "I32", (inputs,))
            if own.min() < 0 or own.max() >= groups:
                raise HwgenError("checkpoint", f"tensor {place}.g_idx names groups that are not there", _AGAIN)
            if not np.array_equal(own, np.arange(inputs) // group):  # act-order: no group is a run of inputs
                return np.asarray(scale[:, own] * (q.astype(np.float32) - zero[:, own]), np.float32)
        return _blocks(place, q, scale, zero, group)

    return StoredMatrices("gptq", {}, read)


# ---- AWQ ---------------------------------------------------------------------------------------------------------
_AWQ_HARMLESS = {
    "quant_method": "chose this reader", "zero_point": "there are zeros in any case", "modules_to_not_convert": "tensors say it",
    "do_fuse": "of other runtimes", "fuse_max_seq_len": "of other runtimes", "exllama_config": "of other runtimes",
    "modules_to_fuse": "of other runtimes", "backend": "of other runtimes", "format": "of other runtimes",
}


def _awq(fields: Fields) -> StoredMatrices:
    _bits(fields, "bits", "w_bit")
    size = fields.get("group_size", fields.get("q_group_size", 128))
    version = str(fields.get("version", "gemm")).lower()
    if version != "gemm":
        raise unsupported("quantization_config.version", version, "'gemm'")
    fields.refuse_left(_AWQ_HARMLESS, _FLOATS)
    order = np.argsort(_AWQ_ORDER)

    def digits(words: npt.NDArray[np.int32]) -> Digits:
        ordered = _nibbles(words).reshape(len(words), -1, 8)[..., order]
        return np.asarray(ordered.reshape(len(words), -1).T)

    def read(tensors: TensorSet, place: str, shape: tuple[int, int]) -> Matrix:
        rows, inputs = shape
        group = _group(size, inputs, "group_size")
        groups = ceil_div(inputs, group)
        _whole_words(place, rows)
        q = digits(_stored(tensors, f"{place}.qweight", "I32", (inputs, rows // 8)))
        zero = digits(_stored(tensors, f"{place}.qzeros", "I32", (groups, rows // 8)))
        return _blocks(place, q, tensors.floats(tensors.find(f"{place}.scales"), (groups, rows)).T, zero, group)

    return StoredMatrices("awq", {}, read)


# ---- compressed-tensors ------------------------------------------------------------------------------------------
_COMPRESSED_HARMLESS = {
    "quant_method": "chose this reader", "ignore": "tensors say it", "global_compression_ratio": "a note", "version": "a note",
    "quantization_status": "a note",
}

_SCHEME_HARMLESS = {
    **dict.fromkeys(("observer", "observer_kwargs", "dynamic", "block_structure", "scale_dtype", "zp_dtype"), "how it was made"),
    "actorder": "g_idx says it",
}


def _object(value: Any, name: str) -> Fields:
    if not isinstance(value, dict):
        raise unsupported(f"quantization_config.{name}", value, "an object")
    return Fields(value, f"{_WHERE}.{name}")


def _scheme(fields: Fields) -> tuple[int | None, bool]:
    """Size of groups (None: a whole row) and whether they are symmetric."""
    if fields.get("format", "pack-quantized") != "pack-quantized":
        raise unsupported("quantization_config.format", fields["format"], "'pack-quantized'")
    for name in ("kv_cache_scheme", "sparsity_config", "transform_config"):
        if fields.get(name):
            raise unsupported(f"quantization_config.{name}", fields[name], "absent")
    schemes = fields.get("config_groups")
    if not isinstance(schemes, dict) or len(schemes) != 1:
        raise unsupported("quantization_config.config_groups", schemes, "one scheme for all matrices")
    scheme = _object(next(iter(schemes.values())), "config_groups")
    for name in ("input_activations", "output_activations"):
        if scheme.get(name):
            raise unsupported(f"quantization_config.config_groups: {name}", scheme[name], "absent")
    if scheme.get("format", "pack-quantized") != "pack-quantized":
        raise unsupported("quantization_config.config_groups: format", scheme["format"], "'pack-quantized'")
    weights = _object(scheme.get("weights", {}), "config_groups.weights")
    _bits(weights, "num_bits")
    for name, known in (("type", ("int",)), ("strategy", ("group", "channel"))):
        if weights.get(name) not in known:
            raise unsupported(f"quantization_config: weights.{name}", weights.get(name), " or ".join(map(repr, known)))
    scheme.refuse_left({"targets": "tensors say it"}, _FLOATS)
    size, symmetric = weights.get("group_size"), weights.get("symmetric", True)
    weights.refuse_left(_SCHEME_HARMLESS, _FLOATS)
    fields.refuse_left(_COMPRESSED_HARMLESS, _FLOATS)
    return (size if weights["strategy"] == "group" else None), bool(symmetric)


def _compressed(fields: Fields) -> StoredMatrices:
    size, symmetric = _scheme(fields)

    def read(tensors: TensorSet, place: str, shape: tuple[int, int]) -> Matrix:
        rows, inputs = shape
        group = _group(size, inputs, "group_size")
        groups = ceil_div(inputs, group)
        said = tuple(int(n) for n in tensors.stored(tensors.find(f"{place}.weight_shape")).reshape(-1))
        if said != shape:
            raise HwgenError("checkpoint", f"tensor {place}.weight_shape says {said}, {shape} expected", MISMATCH)
        q = _nibbles(_stored(tensors, f"{place}.weight_packed", "I32", (rows, ceil_div(inputs, 8))))[:, :inputs]
        scale = tensors.floats(tensors.find(f"{place}.weight_scale"), (rows, groups))
        zero = None
        if not symmetric:
            words = _stored(tensors, f"{place}.weight_zero_point", "I32", (ceil_div(rows, 8), groups))
            zero = np.asarray(_nibbles(words.T).T[:rows])
        if f"{place}.weight_g_idx" in tensors:
            own = _stored(tensors, f"{place}.weight_g_idx", "I32", (inputs,))
            if own.max() >= groups:
                raise HwgenError("checkpoint", f"tensor {place}.weight_g_idx names groups that are not there", _AGAIN)
            if own.min() >= 0 and not np.array_equal(own, np.arange(inputs) // group):  # act-order; -1 means none
                middle = np.float32(8) if zero is None else zero[:, own]
                return np.asarray(scale[:, own] * (q.astype(np.float32) - middle), np.float32)
        return _blocks(place, q, scale, zero, group)

    return StoredMatrices("compressed-tensors", {}, read)


_METHODS: dict[str, Callable[[Fields], StoredMatrices]] = {
    QUANT_METHOD: _own, "gptq": _gptq, "awq": _awq, "compressed-tensors": _compressed
}


def read_quantization(config: Mapping[str, Any]) -> StoredMatrices:
    """What ``quantization_config`` says, floats without one; a method or an option that is not known is refused by name."""

    def floats(tensors: TensorSet, place: str, shape: tuple[int, int]) -> Matrix:
        return tensors.floats(tensors.find(f"{place}.weight"), shape)

    options = config.get("quantization_config") or {}
    if not options:
        return StoredMatrices("floats", {}, floats)
    method = options.get("quant_method") if isinstance(options, dict) else options
    if not isinstance(options, dict) or not isinstance(method, str) or method not in _METHODS:
        raise HwgenError(
            "architecture",
            f"config.json: quant_method is {method!r}; supported: {', '.join(map(repr, _METHODS))} or float weights", _FLOATS,
        )
    packed = _METHODS[method](Fields(options, _WHERE))

    def read(tensors: TensorSet, place: str, shape: tuple[int, int]) -> Matrix:
        _pass_over_zeros(tensors, place)
        return (floats if f"{place}.weight" in tensors else packed.read)(tensors, place, shape)

    return StoredMatrices(packed.method, packed.kinds, read)
