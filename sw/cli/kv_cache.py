"""The option ``--kv``: the format of cached keys and values."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace

from ...descriptors import Format
from ...errors import HwgenError
from ...layout import KV_FORMATS
from ...weights import KV_KINDS
from ..compiler.image_file import CompiledModel
from ..models.model import Model

__all__ = ["add_kv", "check_kv", "with_kv"]


def add_kv(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    """``default`` None: the format of the model."""
    other = "" if default else " (that of the model or image if not given)"
    parser.add_argument(
        "--kv", choices=KV_KINDS, default=default,
        help="keys and values in the cache: bits of each; 4 bits take a build with int4_kv, as all boards but demo have, and keys "
        f"of 4 bits lose less where `hwgen model center` has measured what they have in common{other}",
    )


def with_kv(model: Model, kv: str | None, say: Callable[[str], None]) -> Model:
    """A model with another format of cached keys and values, if one is given. Where its keys lose more than they need to, ``say``
    is told.
    """
    model = model if kv is None else replace(model, weights=replace(model.weights, kv=kv))
    if Format.INT4_KEYS in KV_FORMATS[model.weights.kv] and model.weights.key_centers is None:
        say(f"{model.name} has no centers of keys, without which keys of 4 bits lose more: "
            f"hwgen model center {model.path} --text FILE measures them")
    return model


def check_kv(model: CompiledModel, kv: str | None) -> None:
    """Refuse another format than that of a compiled model."""
    if kv not in (None, model.image.kv):
        raise HwgenError("usage", f"{model.path} has a {model.image.kv} cache, not {kv}", "leave --kv out, or compile it again")
